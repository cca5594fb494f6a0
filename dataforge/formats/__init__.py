"""Annotation formats. A format is one module, or a folder, and one line in `FORMATS`.

Its module has
* `read(root, *, split=None, ...) -> Source`;
* `sniff(root) -> str`: the evidence that `root` has this format, "" if it does not; and `LOOKS_FOR`: the same in words;
* `write(source, root) -> None`, if it can be written: writes a set that `read` can read to a new or empty folder;
  and `HOLDS`, a frozenset: the members of `PARTS` that `write` keeps besides images, boxes and labels;
* `OPTIONS`, a tuple: the keywords of `read` that commands offer;
* `CODES`: code -> (severity, meaning) of findings specific to this format. Shared ones are in `CODES` here.

`write` with `HOLDS`, `OPTIONS` and `CODES` are optional. `dataforge ingest --help` imports the modules of all formats.
The formats of this package are folders whose `__init__` imports neither numpy nor a parser; `on_use` imports the rest.
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
    "bdd100k": "dataforge.formats.bdd100k",
    "coco": "dataforge.formats.coco",
    "createml": "dataforge.formats.createml",
    "croissant": "dataforge.formats.croissant",
    "crowdhuman": "dataforge.formats.crowdhuman",
    "cvat": "dataforge.formats.cvat",
    "datumaro": "dataforge.formats.datumaro",
    "flatbuffer": "dataforge.formats.flatbuffer",
    "groundtruth": "dataforge.formats.groundtruth",
    "kitti": "dataforge.formats.kitti",
    "labelbox": "dataforge.formats.labelbox",
    "labelme": "dataforge.formats.labelme",
    "labelstudio": "dataforge.formats.labelstudio",
    "lists": "dataforge.formats.lists",
    "matlab": "dataforge.formats.matlab",
    "mot": "dataforge.formats.mot",
    "sqlite": "dataforge.formats.sqlite",
    "supervisely": "dataforge.formats.supervisely",
    "table": "dataforge.formats.table",
    "ultralytics": "dataforge.formats.ultralytics",
    "via": "dataforge.formats.via",
    "visdrone": "dataforge.formats.visdrone",
    "voc": "dataforge.formats.voc",
    "vott": "dataforge.formats.vott",
    "widerface": "dataforge.formats.widerface",
    "yolo": "dataforge.formats.yolo",
}
PARTS = {
    "crowd": "crowd flags",
    "difficult": "difficult flags",
    "truncated": "truncated flags",
    "polygons": "polygons and rotated boxes",
    "multipolygons": "polygons of several parts",
    "loose_polygons": "polygons around another box than their own",
    "areas": "object areas other than the box's",
    "ids": "image numbers",
    "keys": "image names exactly as they are",
    "splits": "splits as such",
    "unions": "unions of splits",
    "classes": "unused classes",  # and the order of all classes
    "class_ids": "class numbers",
    "judged": "images' lists of the classes that were looked for",
}


@dataclass(frozen=True)
class Option:
    """A keyword of a format's `read` that commands offer as `--name`, with hyphens for underscores.

    Attributes:
        name: the keyword.
        help: one sentence.
        type: `str`, `int`, `Path`, or `bool` for a flag without a value.
        metavar: the placeholder for the value in the help; by default the type's name.
    """

    name: str
    help: str
    type: type = str
    metavar: str | None = None


IMAGES = Option("images", "Folder of the images, if it is not found automatically.", Path)
BOXES = Option("boxes", "What the four numbers of a box are.", metavar="xyxy|xywh|cxcywh")
UNIT = Option("unit", "Pixels, or fractions of the image's size.", metavar="pixel|unit")
ATTRIBUTE = Option("attribute", "The attribute that holds the class (via) or the boxes (groundtruth), of several.")
ALLOW_OUTSIDE = Option("allow_outside", "Accept images outside the folder, given by absolute paths or by ../.", bool)

# error: images or boxes are lost, or a score will be wrong; warning: probably a mistake; info: worth knowing
CODES: Codes = {
    "image-missing": ("error", "the image of an annotation does not exist"),
    "image-path": ("error", "the image's path is missing, invalid, or outside the folder"),
    "image-ambiguous": ("error", "an annotation matches several images"),
    "images-by-name": ("info", "images were found by file name, not at the paths in the annotations"),
    "annotation-broken": ("error", "the annotation file cannot be read"),
    "annotation-twice": ("warning", "two boxes have the same id"),
    "listed-twice": ("warning", "a list contains the same name twice"),
    "unknown-image": ("error", "the box refers to an image that is not listed"),
    "unknown-class": ("error", "the box refers to a class that is not listed"),
    "box-missing": ("error", "the annotation has no box"),
    "line-broken": ("error", "the line or row cannot be read as a box"),
    "box-rotated": ("error", "a rotation cannot be read"),
    "shape-unknown": ("error", "the shape's type has no bounding box"),
    "annotations-several": ("warning", "an image was annotated several times; one annotation is read"),
    "not-annotated": ("info", "images that nobody annotated are left out"),
    "class-twice": ("warning", "the same class is listed twice"),
    "picture-unread": ("warning", "images are named by no annotation"),
    "file-unread": ("warning", "files are not read by the format"),
    "folder-empty": ("warning", "the folder contains no files"),
    "classes-differ": ("warning", "the files of a set list different classes"),
}


def reader(name: str) -> Callable[..., Source]:
    """Return the `read` function of a format, or the user's own, given as `path/to/file.py:function`.

    Raises:
        ConfigError: the format, the file or the function is unknown. FormatError: the file cannot be run.
    """
    if ".py:" in name or name.endswith(".py"):
        from dataforge.formats.own_reader import load_reader

        return load_reader(name)
    read: Callable[..., Source] = load("format", name, FORMATS).read
    return read


def writable() -> tuple[str, ...]:
    """Return the names of the formats that can be written."""
    return tuple(name for name in FORMATS if hasattr(load("format", name, FORMATS), "HOLDS"))


def writer(name: str) -> Callable[[Source, Path], None]:
    """Return the `write` function of a format.

    Raises:
        ConfigError: the format is unknown or read-only.
    """
    module = load("format", name, FORMATS)
    if name not in writable():
        raise ConfigError(f"format {name!r} can be read, but not written; can be written: {', '.join(writable())}")
    write: Callable[[Source, Path], None] = module.write
    return write


def holds(name: str) -> frozenset[str]:
    """Return the members of `PARTS` that a format's `write` keeps.

    Raises:
        ConfigError: the format is unknown or read-only.
    """
    writer(name)
    kept: frozenset[str] = load("format", name, FORMATS).HOLDS
    assert kept <= PARTS.keys(), f"{name}: HOLDS names {kept - PARTS.keys()}; known: {', '.join(PARTS)}"
    return kept


def options() -> dict[Option, tuple[str, ...]]:
    """Return the options of all formats, each with the formats that accept it."""
    takers: dict[Option, tuple[str, ...]] = {}
    for name in FORMATS:
        for option in getattr(load("format", name, FORMATS), "OPTIONS", ()):
            takers[option] = (*takers.get(option, ()), name)
    names = [option.name for option in takers]
    assert len(set(names)) == len(names), f"formats share an option's name, but not the option: {sorted(names)}"
    return takers


def codes() -> Codes:
    """Return the severities and meanings of all findings that formats report."""
    known = dict(CODES)
    for name in FORMATS:
        for code, meaning in getattr(load("format", name, FORMATS), "CODES", {}).items():
            assert known.setdefault(code, meaning) == meaning, f"{name}: {code} has another meaning elsewhere"
    return known


def on_use(package: str) -> Callable[[str], Any]:
    """Return a module's `__getattr__` that imports `read` from the folder's reader.py and `write` from writer.py.

    A format without `HOLDS` is read-only and has no writer.py; `write` is looked up only in those that have it.
    """
    files = {"read": f"{package}.reader", "write": f"{package}.writer"}

    def attribute(name: str) -> Any:
        if name not in files:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(importlib.import_module(files[name]), name)

    return attribute
