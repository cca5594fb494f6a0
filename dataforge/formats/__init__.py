"""Annotation formats. A format is one module, or a folder, and one line in `FORMATS`.

Its module has
* `read(root, *, split=None, ...) -> Source`;
* `sniff(root) -> str`: what makes `root` one of this format, "" where it is not; and `LOOKS_FOR`: the same in words;
* `write(source, root) -> None`, if it can be written: makes a set in a new or empty folder that `read` reads back; and
  `HOLDS`, a frozenset: what `write` keeps besides pictures, boxes and labels, out of `PARTS`;
* `OPTIONS`, a tuple: the keywords of `read` that commands offer;
* `CODES`: code -> (severity, meaning) of those findings that are in no other format. The others are in `CODES` here.

`write`, `HOLDS`, `OPTIONS` and `CODES` may be left out. `dataforge ingest --help` imports the modules of all formats.
Those of this package are folders whose `__init__` imports neither numpy nor a parser; `on_use` imports the rest.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from dataforge.errors import ConfigError
from dataforge.registry import load

if TYPE_CHECKING:
    from dataforge.record import Source

Severity = Literal["error", "warning", "info"]
Codes = dict[str, tuple[Severity, str]]

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


@dataclass(frozen=True)
class Option:
    """A keyword of a format's `read` that commands offer as `--name`, with hyphens for underscores.

    Attributes:
        name: the keyword.
        help: one sentence.
        type: `str`, `int`, `Path`, or `bool` for a flag without a value.
        metavar: what stands for the value in the help; by default the type's name.
    """

    name: str
    help: str
    type: type = str
    metavar: str | None = None


IMAGES = Option("images", "The folder of the pictures, if it is not found by itself.", Path)
ALLOW_OUTSIDE = Option(
    "allow_outside", "Accept pictures outside the folder, named by an absolute path or by ../, wherever it leads.", bool
)

# error: images or boxes are lost, or a score will be wrong; warning: probably a mistake; info: worth knowing
CODES: Codes = {
    "image-missing": ("error", "a label whose image is not there"),
    "image-path": ("error", "an image whose name leads nowhere it may lead"),
    "image-ambiguous": ("error", "a label that fits several images"),
    "images-by-name": ("info", "images found by their names alone, not at the paths that the labels give"),
    "annotation-broken": ("error", "a label file that cannot be read"),
    "annotation-twice": ("warning", "two boxes have one number"),
    "listed-twice": ("warning", "a name that a list has twice"),
    "unknown-image": ("error", "a box of an image that is not listed"),
    "unknown-class": ("error", "a box of a class that is not listed"),
    "box-missing": ("error", "a label without a box"),
    "line-broken": ("error", "a label that is no box"),
    "shape-unknown": ("error", "a shape that has no box around it"),
    "class-twice": ("warning", "a class that is listed twice"),
    "classes-differ": ("warning", "files of one set list different classes"),
}


def reader(name: str) -> Callable[..., Source]:
    """The `read` function of a format, or the user's own as `path/to/file.py:function`.

    Raises:
        ConfigError: the format, the file or the function is not known. FormatError: the file cannot be run.
    """
    if ".py:" in name or name.endswith(".py"):
        from dataforge.formats.own_reader import load_reader

        return load_reader(name)
    read: Callable[..., Source] = load("format", name, FORMATS).read
    return read


def writer(name: str) -> Callable[[Source, Path], None]:
    """The `write` function of a format.

    Raises:
        ConfigError: the format is not known, or can only be read.
    """
    write: Callable[[Source, Path], None] | None = getattr(load("format", name, FORMATS), "write", None)
    if write is None:
        raise ConfigError(f"format {name!r} can be read, but not written")
    return write


def holds(name: str) -> frozenset[str]:
    """What a format's `write` keeps, out of `PARTS`.

    Raises:
        ConfigError: the format is not known, or can only be read.
    """
    writer(name)
    kept: frozenset[str] = load("format", name, FORMATS).HOLDS
    assert kept <= PARTS.keys(), f"{name}: HOLDS names {kept - PARTS.keys()}; known: {', '.join(PARTS)}"
    return kept


def options() -> dict[Option, tuple[str, ...]]:
    """The options of all formats, each with the formats that take it."""
    takers: dict[Option, tuple[str, ...]] = {}
    for name in FORMATS:
        for option in getattr(load("format", name, FORMATS), "OPTIONS", ()):
            takers[option] = (*takers.get(option, ()), name)
    names = [option.name for option in takers]
    assert len(set(names)) == len(names), f"formats share an option's name, but not the option: {sorted(names)}"
    return takers


def codes() -> Codes:
    """The severities and meanings of all findings that formats make."""
    known = dict(CODES)
    for name in FORMATS:
        for code, meaning in getattr(load("format", name, FORMATS), "CODES", {}).items():
            assert known.setdefault(code, meaning) == meaning, f"{name}: {code} has another meaning elsewhere"
    return known


def on_use(package: str) -> Callable[[str], Any]:
    """A module's `__getattr__`: imports `read` from the folder's reader.py and `write` from its writer.py."""
    files = {"read": f"{package}.reader", "write": f"{package}.writer"}

    def attribute(name: str) -> Any:
        if name not in files:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(importlib.import_module(files[name]), name)

    return attribute
