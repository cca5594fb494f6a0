"""User-defined readers, `path/to/file.py:function`: their records are checked, their errors reported in one line."""

from __future__ import annotations

import functools
import importlib.util
import inspect
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from dataforge.errors import ConfigError, DataforgeError, FormatError, unknown
from dataforge.record import Finding, Record, Source, as_boxes

KINDS: dict[str, Any] = {
    "key": str,
    "split": str,
    "image": (Path, bytes),
    "height": (int, np.integer),
    "width": (int, np.integer),
}


def load_reader(name: str) -> Callable[..., Source]:
    """Load a function of a Python file as a reader.

    It is called with the root and those of `split` and the command's options that it declares, and returns a `Source`.
    If it does not declare `split`, records are selected by the full names of their splits.

    Raises:
        ConfigError: no such file or function. FormatError: the file cannot be run.
    """
    file, _, function_name = name.rpartition(":") if not name.endswith(".py") else (name, "", "")
    path = Path(file)
    if not path.is_file():
        raise ConfigError(f"{path}: no such file; expected a reader as path/to/file.py:function")
    spec = importlib.util.spec_from_file_location(f"dataforge_own_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise ConfigError(f"{path}: is not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look it up here
    with _one_line(path):
        spec.loader.exec_module(module)
    function = getattr(module, function_name, None)
    if not inspect.isfunction(function):
        known = [key for key, value in inspect.getmembers(module, inspect.isfunction) if value.__module__ == spec.name]
        raise unknown(f"function in {path}:", function_name, known)
    return _reader(function, path)


def _reader(function: Callable[..., Any], path: Path) -> Callable[..., Source]:
    @functools.wraps(function)
    def read(root: Path, *, split: tuple[str, ...] | None = None, **options: Any) -> Source:
        name, wanted = f"{path}: {function.__name__}()", split
        if "split" in inspect.signature(function).parameters:
            options["split"], wanted = split, None
        with _one_line(path):
            source = function(root, **options)
        if not isinstance(source, Source):
            raise FormatError(f"{name} gave {_kind(source)}; expected a Source (from dataforge.record import Source)")
        if isinstance(source.classes, str) or not all(isinstance(one, str) for one in source.classes):
            raise FormatError(f"{name}: classes are {source.classes!r}; expected a tuple of names")
        return replace(source, classes=tuple(source.classes), records=_records(source, path, name, wanted))

    return read


def _records(source: Source, path: Path, name: str, wanted: tuple[str, ...] | None) -> Iterator[Record | Finding]:
    """Yield the checked records and findings of a reader, of the wanted splits only."""
    with _one_line(path):
        items = iter(source.records)
    n = 0
    while True:
        with _one_line(path):
            item = next(items, None)
        if item is None:
            return
        if isinstance(item, Record):
            record = _checked(item, f"{name}: record {n} ({item.key!r})", len(source.classes))
            n += 1
            if wanted is None or record.split in wanted:
                yield record
        elif isinstance(item, Finding):
            yield item
        else:
            raise FormatError(f"{name}: record {n} is {_kind(item)}; expected a Record (from dataforge.record)")


def _checked(record: Record, where: str, classes: int) -> Record:
    """Return the record with arrays of the required types and shapes."""
    for field, kinds in KINDS.items():
        value = getattr(record, field)
        if not isinstance(value, kinds):
            raise FormatError(f"{where}: {field} is {_kind(value)}; expected {Record.__annotations__[field]}")
    try:
        boxes = np.asarray(record.boxes, np.float64)
        labels, flags = (np.asarray(value).reshape(-1) for value in (record.labels, record.flags))
        areas = None if record.areas is None else np.asarray(record.areas, np.float32).reshape(-1)
    except (TypeError, ValueError, OverflowError) as error:
        raise FormatError(f"{where}: {error}; expected arrays of numbers as boxes, labels and flags") from None
    count = len(boxes)
    if boxes.size and boxes.shape != (count, 4):
        raise FormatError(f"{where}: boxes have the shape {boxes.shape}; expected (n, 4): x1, y1, x2, y2 in pixels")
    counts = (count, len(labels), len(flags), count if areas is None else len(areas))
    if len(set(counts)) > 1:
        numbers = "{} boxes, {} labels, {} flags, {} areas".format(*counts)
        raise FormatError(f"{where}: {numbers}; expected as many of each")
    if count and not (np.isin(labels, np.arange(classes)).all() and np.isin(flags, np.arange(8)).all()):
        expected = f"expected labels of 0 to {classes - 1} and flags of 0 to 7"
        raise FormatError(f"{where}: labels {labels.tolist()[:9]}, flags {flags.tolist()[:9]}; {expected}")
    return replace(
        record,
        height=int(record.height),
        width=int(record.width),
        boxes=as_boxes(boxes),
        labels=labels.astype(np.int32),
        flags=flags.astype(np.uint8),
        areas=areas,
    )


@contextmanager
def _one_line(path: Path) -> Iterator[None]:
    """Convert errors in the user's file to a one-line message with the line number in that file."""
    try:
        yield
    except DataforgeError:
        raise
    except SyntaxError as error:
        raise FormatError(f"{error.filename or path}:{error.lineno}: {type(error).__name__}: {error.msg}") from None
    except Exception as error:
        frames = traceback.extract_tb(error.__traceback__)
        line = next(
            (frame.lineno for frame in reversed(frames) if Path(frame.filename).resolve() == path.resolve()), None
        )
        text = " ".join(str(error).split())
        raise FormatError(f"{path}:{line or 1}: {type(error).__name__}{': ' + text if text else ''}") from None


def _kind(value: Any) -> str:
    return "nothing" if value is None else f"a {type(value).__name__}"
