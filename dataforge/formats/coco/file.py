"""The content of a COCO JSON file, by type."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from dataforge.formats.json_files import read_json
from dataforge.record import Finding

Id = int | str | float | None  # pandas writes whole numbers as 1.0


class Image(msgspec.Struct, gc=False):
    id: int | str | float
    file_name: str | None = None
    width: float | None = None
    height: float | None = None
    coco_url: str | None = None
    neg_category_ids: list[Id] | None = None  # these two are LVIS's
    not_exhaustive_category_ids: list[Id] | None = None

    @property
    def name(self) -> str:
        """The file's name; LVIS gives a URL alone, whose last folder is that of COCO's split."""
        return self.file_name or "/".join((self.coco_url or "").split("/")[-2:])


class Category(msgspec.Struct, gc=False):
    id: int | str | float
    name: str


class Attributes(msgspec.Struct, gc=False):
    """CVAT's attributes of a shape. Its `bbox` is that before the rotation."""

    rotation: float | str | None = None


class Annotation(msgspec.Struct, gc=False):
    image_id: Id
    category_id: Id
    id: Id = None
    bbox: list[float | None] | None = None
    area: float | None = None
    iscrowd: int | bool | float | None = 0
    difficult: int | bool | float | None = 0  # these two are not part of COCO; `write` adds them if they are set
    truncated: int | bool | float | None = 0
    attributes: Attributes | list[Any] | str | float | None = None


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


def plain(number: Id) -> Id:
    """Return the id that 7, 7.0 and "7" have in common: files of pandas or CVAT write one for the other."""
    if isinstance(number, float) and number.is_integer():
        return int(number)
    if isinstance(number, str) and len(number) < 19 and number.isdecimal() and str(int(number)) == number:
        return int(number)
    return number


def federated(file: CocoFile, path: Path) -> Finding:
    """Note LVIS's fields: classes that are absent from an image, or not annotated exhaustively, and thus not judged."""
    absent = sum(bool(image.neg_category_ids) for image in file.images)
    partial = sum(bool(image.not_exhaustive_category_ids) for image in file.images)
    value = f"{absent} images with neg_category_ids, {partial} with not_exhaustive_category_ids"
    reason = "not kept: evaluation judges all classes in all images, which LVIS's own does not; its AP will be lower"
    return Finding("noted", "classes-federated", str(path), "", value, reason, "set")
