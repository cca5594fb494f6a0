"""The content of a COCO JSON file, by type."""

from __future__ import annotations

from pathlib import Path

import msgspec

from dataforge.formats.json_files import read_json


class Image(msgspec.Struct, gc=False):
    id: int | str
    file_name: str = ""
    width: float | None = None
    height: float | None = None


class Category(msgspec.Struct, gc=False):
    id: int
    name: str


class Annotation(msgspec.Struct, gc=False):
    image_id: int | str
    category_id: int
    id: int | str | None = None
    bbox: list[float | None] | None = None
    area: float | None = None
    iscrowd: int | bool | None = 0
    difficult: int | bool | None = 0  # these two are not part of COCO; `write` adds them if they are set
    truncated: int | bool | None = 0


class CocoFile(msgspec.Struct):
    images: list[Image]
    annotations: list[Annotation]
    categories: list[Category]


def read_coco(path: Path) -> CocoFile:
    """Read a file with COCO's images, annotations and categories; other keys are ignored.

    Raises:
        FormatError: the file cannot be read, is not JSON, or an entry is of another type.
    """
    return read_json(path, CocoFile, "COCO's images, annotations and categories")
