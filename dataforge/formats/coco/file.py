"""The content of a COCO JSON file, by type."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from dataforge.formats.json_files import read_json
from dataforge.polygons import Polygons, offsets_of
from dataforge.record import Finding

SHAPES = msgspec.json.Decoder(list[list[list[float]]])
RINGS = msgspec.json.Decoder(list[list[float] | float])
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
    segmentation: msgspec.Raw = msgspec.Raw(b"[]")  # most of the file: parsed by `rings_of` if used
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


def rings_of(texts: Sequence[msgspec.Raw]) -> Polygons | None:
    """Return the polygons of segmentations, parsed when first used; None if all are empty lists."""
    return Polygons.later(lambda: _parsed(texts)) if any(len(memoryview(text)) > 2 for text in texts) else None


def _parsed(segmentations: Sequence[msgspec.Raw]) -> Polygons:
    """Parse polygons; masks as run lengths are none."""
    texts = [bytes(text) if bytes(memoryview(text)[:1]) == b"[" else b"[]" for text in segmentations]
    try:
        shapes = SHAPES.decode(b"[" + b",".join(texts) + b"]")
    except msgspec.DecodeError:
        shapes = list(map(_shape, texts))
    rings = list(chain.from_iterable(shapes))
    sizes = np.fromiter(map(len, rings), np.int64, len(rings))
    if (sizes % 2).any():
        return Polygons.of(shapes)
    with np.errstate(all="ignore"):
        numbers = np.fromiter(chain.from_iterable(rings), np.float64, int(sizes.sum())).astype(np.float32)
    return Polygons(numbers.reshape(-1, 2), offsets_of(sizes // 2), offsets_of(list(map(len, shapes))))


def _shape(text: bytes) -> list[list[float]]:
    """Return the rings of one annotation; a ring of one number, which is no polygon, if they are anything else."""
    try:
        items = RINGS.decode(text)
    except msgspec.DecodeError:
        return [[math.nan]]
    numbers = [item for item in items if isinstance(item, float)]  # of a ring that is not in a list
    return [item for item in items if isinstance(item, list)] + ([numbers] if numbers else [])


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
