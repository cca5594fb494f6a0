"""Annotation formats. A format is one file with `read` and, where it can, `write` and `HOLDS`; and one line here.

`read(root, *, split=None, ...) -> Source`. `write(source, root) -> None` makes a set in a new or empty folder that
`read` reads back. `HOLDS`, a frozenset, says what `write` keeps beyond pictures, boxes and labels, out of `PARTS`.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from dataforge.errors import ConfigError, unknown
from dataforge.record import Source

FORMATS = {
    "coco": "dataforge.formats.coco",
    "cvat": "dataforge.formats.cvat",
    "flatbuffer": "dataforge.formats.flatbuffer",
    "labelme": "dataforge.formats.labelme",
    "lists": "dataforge.formats.lists",
    "matlab": "dataforge.formats.matlab",
    "sqlite": "dataforge.formats.sqlite",
    "table": "dataforge.formats.table",
    "voc": "dataforge.formats.voc",
    "yolo": "dataforge.formats.yolo",
}
PARTS = {
    "crowd": "crowd flags",
    "difficult": "difficult flags",
    "truncated": "truncated flags",
    "areas": "object areas other than the box's",
    "ids": "image numbers",
    "keys": "image names exactly as they are",
    "splits": "splits as such",
    "unions": "unions of splits",
    "classes": "unused classes",  # and the order of all
    "class_ids": "class numbers",
}


def reader(name: str) -> Callable[..., Source]:
    """The `read` function of a format, or the user's own as `path/to/file.py:function`.

    Raises:
        ConfigError: the format, the file or the function is not known. FormatError: the file cannot be run.
    """
    if ".py:" in name or name.endswith(".py"):
        from dataforge.formats.own_reader import load

        return load(name)
    read: Callable[..., Source] = _module(name).read
    return read


def writer(name: str) -> Callable[[Source, Path], None]:
    """The `write` function of a format.

    Raises:
        ConfigError: the format is not known, or can only be read.
    """
    write: Callable[[Source, Path], None] | None = getattr(_module(name), "write", None)
    if write is None:
        raise ConfigError(f"format {name!r} can be read, but not written")
    return write


def holds(name: str) -> frozenset[str]:
    """What a format's `write` keeps, out of `PARTS`.

    Raises:
        ConfigError: the format is not known, or can only be read.
    """
    writer(name)
    kept: frozenset[str] = _module(name).HOLDS
    assert kept <= PARTS.keys(), f"{name}: HOLDS names {kept - PARTS.keys()}; known: {', '.join(PARTS)}"
    return kept


def _module(name: str) -> Any:
    if name not in FORMATS:
        raise unknown("format", name, FORMATS)
    return importlib.import_module(FORMATS[name])
