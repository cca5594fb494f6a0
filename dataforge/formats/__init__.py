"""Annotation formats. A format is one file with `read(root, ...) -> Source`, and one line here."""

from __future__ import annotations

import importlib
from collections.abc import Callable

from dataforge.errors import unknown
from dataforge.record import Source

FORMATS = {
    "coco": "dataforge.formats.coco",
    "voc": "dataforge.formats.voc",
    "yolo": "dataforge.formats.yolo",
}


def reader(name: str) -> Callable[..., Source]:
    """The `read` function of a format.

    Raises:
        ConfigError: the format is not known.
    """
    if name not in FORMATS:
        raise unknown("format", name, FORMATS)
    read: Callable[..., Source] = importlib.import_module(FORMATS[name]).read
    return read
