"""Format detection with each format's `sniff`, by names, first bytes, and the outermost structure of JSON and XML."""

from __future__ import annotations

import codecs
import functools
import json
import os
import re
import shlex
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from contextvars import ContextVar
from itertools import islice
from pathlib import Path
from typing import Any

from dataforge.errors import FormatError
from dataforge.files import check_root, is_hidden, mapped, walk
from dataforge.formats import FORMATS
from dataforge.registry import load

HEAD = 1 << 16  # bytes read per file
FILES = 50  # maximum number of files per kind, the outermost first
_PART = re.compile(r"-\d{5}-of-\d{5}$")  # of the name of one of several files
BELOW = 3  # folders that are tried in place of the root, for the error alone

_listed: ContextVar[dict[Path, dict[str, list[Path]]] | None] = ContextVar("_listed", default=None)


def detect(root: Path) -> tuple[str, str]:
    """Return the format of a folder or a file, and the evidence for it.

    Raises:
        FormatError: the path is missing or empty, no format fits, or several do.
    """
    if not root.is_file():
        check_root(root, "a folder of annotated images")
    formats = {name: load("format", name, FORMATS) for name in FORMATS}
    fitting = _fitting(root)
    if not fitting:
        wanted = "".join(f"\n  {name}: {module.LOOKS_FOR}" for name, module in formats.items())
        raise FormatError(f"{root}: no format fits{_hint(root)}; looked for{wanted}")
    if len(fitting) > 1:
        path = shlex.quote(str(root))
        choices = "".join(f"\n  dataforge ingest {name} {path}    {what}" for name, what in fitting.items())
        raise FormatError(f"{root}: {' and '.join(fitting)} fit; say which{choices}")
    return next(iter(fitting.items()))


def _fitting(root: Path) -> dict[str, str]:
    token = _listed.set({})  # all formats share one walk through the folder
    try:
        sniffs = {name: load("format", name, FORMATS).sniff for name in FORMATS}
        return {name: what for name, sniff in sniffs.items() if (what := sniff(root))}
    finally:
        _listed.reset(token)


def _hint(root: Path) -> str:
    """Name a folder below the root that has a format, where the root itself has none."""
    folders = deque([root] if root.is_dir() else [])
    for _ in range(FILES):
        if not folders:
            break
        folder = folders.popleft()
        for sub in sorted(path for path in folder.iterdir() if path.is_dir() and not path.is_symlink()):
            names = {} if is_hidden(sub.name) else _fitting(sub)
            if names:
                return f" ({sub} looks like {' and '.join(names)})"
            if len(sub.relative_to(root).parts) < BELOW:
                folders.append(sub)
    return ""


def first_files(root: Path, *suffixes: str, deep: int | None = None) -> Iterator[Path]:
    """Yield the first few files below a folder with one of these suffixes, the outermost first, or the file itself.

    Args:
        deep: folders below the root that may contain them; by default any number.
    """
    if root.is_file():
        if _PART.sub("", root.name.lower()).endswith(suffixes):
            yield root
        return
    shared = _listed.get()
    listed = _listing(root) if shared is None else shared.get(root) or shared.setdefault(root, _listing(root))
    found = [(len(path.parts), path) for suffix in suffixes for path in listed.get(suffix, ())]
    for parts, path in sorted(found)[:FILES]:
        if deep is None or parts - len(root.parts) - 1 <= deep:
            yield path


def _listing(root: Path) -> dict[str, list[Path]]:
    """Return up to `FILES` files below a folder for each suffix, the outermost first. Links are not followed."""
    listed: dict[str, list[Path]] = {"": []}
    folders = deque([root])
    while folders:
        for folder, below, names in islice(walk(folders.popleft()), 1):
            subfolders = (folder / name for name in sorted(below))
            folders += [sub for sub in subfolders if not sub.is_symlink()]
            for name in sorted(names):
                suffix = os.path.splitext(name)[1].lower()  # noqa: PTH122
                paths = listed.setdefault(_PART.sub("", suffix), [])
                if len(paths) < FILES and (folder / name).is_file():
                    paths.append(folder / name)
    return listed


def head(path: Path) -> bytes:
    """Return a file's first bytes without byte order mark and leading blanks; empty if it cannot be read."""
    try:
        with path.open("rb") as file:
            return file.read(HEAD).removeprefix(codecs.BOM_UTF8).lstrip()
    except OSError:
        return b""


def matching(root: Path, pattern: bytes, *suffixes: str, unless: bytes = rb"(?!)") -> str:
    """Return the name, below the root, of the first file whose head matches `pattern` but not `unless`, or ""."""

    def fits(path: Path) -> bool:
        data = head(path)
        return bool(re.search(pattern, data)) and not re.search(unless, data)

    return first(root, fits, *suffixes)


def first(root: Path, fits: Callable[[Path], bool], *suffixes: str, deep: int | None = None) -> str:
    """Return the name, below the root, of the first of `first_files` that fits, or ""."""
    for path in first_files(root, *suffixes, deep=deep):
        if fits(path):
            return path.name if path == root else path.relative_to(root).as_posix()
    return ""


def outline(path: Path, *, inner: bool = False) -> tuple[bool, dict[str, str]]:
    """Return the outermost structure of a JSON file: whether it is a list, and the keys of the (first) object.

    Each key is mapped to the first character of its value: "[" for a list, "{" for an object, '"' for text.
    No keys if the file cannot be read, is not JSON, or holds something else.

    Args:
        inner: return the keys of the object that is the first value in it.
    """
    try:
        facts = path.stat()
    except OSError:
        return False, {}
    return _outline(path, facts.st_size, facts.st_mtime_ns, inner)


def first_line(path: Path) -> dict[str, str]:
    """Return the keys of the object in the first line of a file of JSON lines, as `outline`; none if it holds none."""
    import msgspec

    with suppress(OSError, ValueError, RecursionError, msgspec.MsgspecError), path.open("rb") as file:
        for line in file:
            text = line.removeprefix(codecs.BOM_UTF8).strip()
            if text:
                return _keys(memoryview(text), False)[1] if text[:1] == b"{" else {}
    return {}


def is_json(path: Path) -> bool:
    """Return True if a file is JSON of any kind, or begins with a line of JSON."""
    try:
        with path.open("rb") as file:
            data = file.readline().removeprefix(codecs.BOM_UTF8)
            if not data.strip() or path.suffix.lower() == ".json":
                data += file.read()
        json.loads(data)
    except (OSError, ValueError, RecursionError):
        return False
    return True


@functools.lru_cache(256)  # most formats look at the same files
def _outline(path: Path, size: int, changed: int, inner: bool) -> tuple[bool, dict[str, str]]:
    import msgspec

    try:
        data = mapped(path)
        return _keys(data[3:] if bytes(data[:3]) == codecs.BOM_UTF8 else data, inner)
    except (OSError, ValueError, RecursionError, msgspec.MsgspecError):
        return False, {}


def _keys(data: memoryview, inner: bool) -> tuple[bool, dict[str, str]]:
    import msgspec

    listed = bytes(data[:64]).lstrip()[:1] == b"["
    kind: Any = list[msgspec.Raw] if listed else dict[str, msgspec.Raw]
    try:
        whole = msgspec.json.decode(data, type=kind)
    except msgspec.MsgspecError:  # NaN, perhaps, which Python's json writes and readers accept
        plain = json.loads(bytes(data), parse_constant=lambda constant: None)
        whole = msgspec.json.decode(json.dumps(plain), type=kind)
    if listed:
        whole = msgspec.json.decode(bytes(whole[0]), type=dict[str, msgspec.Raw]) if whole else {}
    if inner:
        whole = msgspec.json.decode(bytes(next(iter(whole.values()), b"{}")), type=dict[str, msgspec.Raw])
    return listed, {key: chr(bytes(memoryview(value)[:1])[0]) for key, value in whole.items()}


def root_tag(path: Path) -> str:
    """Return the name of an XML file's outermost element; "" if it cannot be read."""
    from dataforge.formats.xml_files import iterparse

    with suppress(FormatError):
        for _, element in iterparse(path):
            return element.tag
    return ""


def seen(name: str, what: str) -> str:
    """Return the result of `sniff`: a file's name and its content in words, or "" without a file."""
    return f"{name}: {what}" if name else ""


def database(root: Path, *suffixes: str, is_sqlite: bool) -> str:
    """Return the name of the first file with one of these suffixes that is (or is not) a SQLite database, or ""."""
    for path in [root] if root.is_file() else sorted(path for path in root.iterdir() if path.is_file()):
        if is_hidden(path.name):
            continue
        if path.suffix.lower() in suffixes and head(path).startswith(b"SQLite format 3\0") == is_sqlite:
            return path.name
    return ""
