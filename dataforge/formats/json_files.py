"""JSON annotation files: typed reading, and discovery by split."""

from __future__ import annotations

import codecs
import functools
import gc
import json
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from dataforge.errors import FormatError
from dataforge.files import circles, files_below, is_hidden, listed, read_bytes, reading
from dataforge.formats.splits import NO_SPLIT, WORD
from dataforge.threads import lock

T = TypeVar("T")
SMALL = 1 << 16  # bytes of a file
_lock = lock()
_blocks: list[bool] = []  # one for each open block of `uncollected`; the first: whether garbage was collected before


def read_json(path: Path, kind: type[T], expected: str) -> T:
    """Read a JSON file of a type that msgspec knows, with or without a byte order mark.

    Raises:
        FormatError: the file cannot be read, is not JSON, or is not of this type; the message names the entry,
            the key, the value and `expected`, the expected content.
    """
    with reading(path):
        data = read_bytes(path).removeprefix(codecs.BOM_UTF8)
    with uncollected() if len(data) > SMALL else nullcontext():
        return decode(data, _decoder(kind), str(path), expected)  # type: ignore[arg-type]


@contextmanager
def uncollected() -> Iterator[None]:
    """Create objects without searches for garbage, which scan a million lists again and again: a third of the time.

    Blocks of several threads may overlap: the last one that ends has garbage collected again.
    """
    with _lock:
        _blocks.append(gc.isenabled())
        gc.disable()
    try:
        yield
    finally:
        with _lock:
            if _blocks.pop() and not _blocks:
                gc.enable()


@functools.lru_cache(64)
def _decoder(kind: Any) -> msgspec.json.Decoder[Any]:
    return msgspec.json.Decoder(kind)


def read_lines(path: Path, kind: type[T], expected: str) -> Iterator[tuple[int, T]]:
    """Read a file of one JSON value a line (NDJSON), as `read_json`; yield 1-based numbers of lines and the values.

    Raises:
        FormatError: as `read_json`; the message names the line.
    """
    decoder = _decoder(kind)  # type: ignore[arg-type]
    with reading(path), path.open("rb") as file:
        for number, line in enumerate(file, 1):
            text = (line.removeprefix(codecs.BOM_UTF8) if number == 1 else line).strip()
            if text:
                yield number, decode(text, decoder, f"{path}: line {number}", expected)


def decode(data: bytes, decoder: msgspec.json.Decoder[T], where: str, expected: str) -> T:
    """Decode JSON text of the decoder's type.

    Raises:
        FormatError: it is not JSON, or not of this type; the message starts with `where`.
    """
    try:
        try:
            return decoder.decode(data)
        except msgspec.MsgspecError:
            # the slow path accepts the NaN that Python's json writes, and locates the error and its value
            plain = json.loads(data)
        return _convert(plain, decoder.type)  # type: ignore[no-any-return]
    except msgspec.ValidationError as error:
        reason, _, position = str(error).partition(" - at `$")
        place, value = _follow(plain, position.rstrip("`"), decoder.type)
        reason = reason[0].lower() + reason[1:]
        raise FormatError(f"{where}: {place}: {value}; {reason}; expected {expected}") from None
    except (ValueError, RecursionError) as error:
        raise FormatError(f"{where}: not JSON: {error}; expected {expected}") from None


def _follow(plain: Any, position: str, kind: Any) -> tuple[str, str]:
    """Describe a position that msgspec reports, such as `[3].bbox[0]`, and return the JSON found there.

    A value of an object by name is reported as `[...]`; the first one that alone is not of its type is shown.
    """
    top = plain
    for step in re.finditer(r"\.(?P<key>[\w-]+)|\[(?P<number>\d+)\]|\[\.\.\.\]", position):
        if step["key"]:
            plain = plain[step["key"]]
        elif step["number"]:
            plain = plain[int(step["number"])]
        else:
            for key, value in [*plain.items()]:
                plain.clear()
                plain[key] = value
                if not _fits(top, kind):
                    break
            position = position.replace("[...]", f".{key}", 1)
            plain = value
    words = re.sub(r"^(?:\.(\w+))?\[(\d+)\]", lambda m: f"{entry(m[1] or '', m[2])}: ", position)
    text = json.dumps(plain, ensure_ascii=False)
    return words.replace(": .", ": ").strip(": .") or "the whole file", text if len(text) <= 80 else text[:77] + "..."


def _convert(plain: Any, kind: Any) -> Any:
    return msgspec.convert(_with_texts(plain, msgspec.inspect.type_info(kind)), type=kind)


def _with_texts(plain: Any, kind: msgspec.inspect.Type) -> Any:
    """Return parsed JSON with the parts that are decoded later, `msgspec.Raw`, as text again; NaN in them is null."""
    inspect = msgspec.inspect
    if isinstance(kind, inspect.RawType):
        return msgspec.Raw(msgspec.json.encode(plain))
    if isinstance(kind, inspect.ListType) and isinstance(plain, list):
        return [_with_texts(value, kind.item_type) for value in plain]
    if isinstance(kind, inspect.DictType) and isinstance(plain, dict):
        return {key: _with_texts(value, kind.value_type) for key, value in plain.items()}
    if isinstance(kind, inspect.StructType) and isinstance(plain, dict):
        types = {field.encode_name: field.type for field in kind.fields}
        return {key: _with_texts(value, types[key]) if key in types else value for key, value in plain.items()}
    return plain


def _fits(plain: Any, kind: Any) -> bool:
    try:
        _convert(plain, kind)
    except msgspec.ValidationError:
        return False
    return True


def entry(where: str, number: object) -> str:
    """Return the name of a list entry for messages: "annotations entry 3", or "entry 3" if the file is the list."""
    return f"{where} entry {number}".strip()


def json_splits(root: Path, *suffixes: str) -> dict[str, Sequence[Path]]:
    """Find JSON files by split: `<split>.json`, those in `<split>/`, or all as "train" if the root contains some.

    Folders with the usual names of splits go before files in the root, which are then left out.

    Args:
        suffixes: in lower case; by default ".json".
    """

    def fits(name: str) -> bool:
        return name.lower().endswith(suffixes or ".json") and not is_hidden(name)

    if root.is_file():
        names = (root.stem, root.absolute().parent.name)
        return {next(filter(WORD.fullmatch, names), "train"): [root]}
    folders, files = listed(root)
    own = [name for name in files if fits(name)]
    stems = [os.path.splitext(name)[0] for name in own]  # noqa: PTH122
    by_split: dict[str, Sequence[Path]] = {}
    for folder in (path for path in (root / name for name in folders) if not circles(path)):
        plain = folder.name.lower() in NO_SPLIT
        inner = json_splits(folder, *suffixes) if plain else {}
        if any(map(WORD.fullmatch, inner)):
            parts = inner
        else:
            parts = {"train" if plain else folder.name: files_below(folder, fits)}
        for name, paths in parts.items():
            if paths:
                by_split[name] = [*by_split[name], *paths] if name in by_split else paths
    if own and all(map(WORD.fullmatch, stems)):
        return {stem: [root / name] for stem, name in zip(stems, own, strict=True)}
    if own and not any(WORD.fullmatch(name) for name in by_split):
        return {"train": files_below(root, fits)}
    return by_split
