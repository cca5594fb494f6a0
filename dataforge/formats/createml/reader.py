"""Reader of Create ML JSON."""

from __future__ import annotations

from pathlib import Path

import msgspec

from dataforge.errors import FormatError
from dataforge.files import check_root
from dataforge.formats.annotated import Annotated, cxcywh, source
from dataforge.formats.json_files import json_splits, read_json
from dataforge.record import Source

EXPECTED = "JSON files, in one folder or in <split>/: lists of image and annotations with label and coordinates"


class Coordinates(msgspec.Struct, gc=False):
    """The box's center and size, in pixels."""

    x: float | None = None
    y: float | None = None
    width: float | None = None
    height: float | None = None


class Annotation(msgspec.Struct, gc=False):
    label: str | None = None
    coordinates: Coordinates | None = None


class Row(msgspec.Struct, gc=False):
    annotations: list[Annotation]
    image: str | None = None
    imagefilename: str | None = None  # older files

    @property
    def name(self) -> str:
        return self.image or self.imagefilename or ""


def read(
    root: Path, *, split: tuple[str, ...] | None = None, images: Path | None = None, allow_outside: bool = False
) -> Source:
    """Read Create ML JSON. Rows of one image are merged within a split. Classes are the sorted names in use.

    Args:
        root: a folder of files, or one file.
        split: read only these splits.
        images: the folder with the images; by default they are searched below `root`.
        allow_outside: allow names outside the folder: absolute, or with `..`.

    Raises:
        FormatError: no such files, or a file is not Create ML JSON. ConfigError: no such split.
    """
    if not root.is_file():
        check_root(root, EXPECTED)
    splits = json_splits(root)
    if not splits:
        raise FormatError(f"{root}: no JSON file found; expected {EXPECTED}")
    parts = {name: (_annotated(path, row) for path in paths for row in read_json(path, list[Row], EXPECTED))
             for name, paths in splits.items()}  # fmt: skip
    files = [path for paths in splits.values() for path in paths]
    return source(root, parts, split, images, allow_outside, files=files)


def _annotated(path: Path, row: Row) -> Annotated:
    item = Annotated(row.name, path)
    for one in row.annotations:
        if one.coordinates is None:
            item.refuse("box-missing", "", "no coordinates")
            continue
        box = one.coordinates
        item.add(one.label, cxcywh(box.x, box.y, box.width, box.height))
    return item
