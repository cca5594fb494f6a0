"""JSON annotation files: read by type, and found by split."""

from __future__ import annotations

import codecs
import gc
import json
from pathlib import Path
from typing import TypeVar

import msgspec

from dataforge.errors import FormatError
from dataforge.files import circles, files_below

T = TypeVar("T")


def read_json(path: Path, kind: type[T], expected: str) -> T:
    """A JSON file of a type that msgspec knows, with or without a byte order mark.

    Raises:
        FormatError: it cannot be read, is not JSON, or not of this type; `expected` says what was.
    """
    collecting = gc.isenabled()
    gc.disable()  # a million lists are made, none of them garbage; looking through them again and again takes a third
    try:
        data = path.read_bytes().removeprefix(codecs.BOM_UTF8)
        try:
            return msgspec.json.decode(data, type=kind)
        except msgspec.ValidationError:
            raise
        except msgspec.DecodeError:
            # the slow way takes the NaN that Python's json writes, and names the line and column of a mistake
            return msgspec.convert(json.loads(data), type=kind)
    except OSError as error:
        raise FormatError(f"{path}: cannot be read: {error.strerror}") from None
    except msgspec.ValidationError as error:
        raise FormatError(f"{path}: {error}; expected {expected}") from None
    except (ValueError, RecursionError) as error:
        raise FormatError(f"{path}: not JSON: {error}; expected {expected}") from None
    finally:
        if collecting:
            gc.enable()


def json_splits(root: Path) -> dict[str, list[Path]]:
    """JSON files by split: those in `<split>/`, or all of them as "train" where the root itself holds some."""

    def fits(name: str) -> bool:
        return name.lower().endswith(".json") and not name.startswith(".")

    if root.is_file():
        return {"train": [root]}
    if any(fits(path.name) for path in root.iterdir() if path.is_file()):
        return {"train": files_below(root, fits)}
    found: dict[str, list[Path]] = {}
    for folder in sorted(path for path in root.iterdir() if path.is_dir() and not circles(path)):
        files = files_below(folder, fits)
        if files:
            name = "train" if folder.name.lower() in ("annotations", "labels", "json") else folder.name
            found.setdefault(name, []).extend(files)
    return found
