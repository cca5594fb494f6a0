"""The content of a COCO JSON file, by type."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from dataforge.errors import counted
from dataforge.formats.json_files import read_json
from dataforge.formats.masks import Rle, rle_hull
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
    frequency: str | None = None  # LVIS's: r, c or f


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
    hulls: int = msgspec.field(default=0, name="")  # boxes of annotations without `bbox`, made by `read_coco`


def read_coco(path: Path) -> CocoFile:
    """Read a file with COCO's images, annotations and categories; other keys are ignored.

    An annotation without `bbox` gets that of its segmentation, polygons or a run-length encoding of the image's size.

    Raises:
        FormatError: the file cannot be read, is not JSON, or an entry is of another type.
    """
    file = read_json(path, CocoFile, "COCO's images, annotations and categories")
    bare = [annotation for annotation in file.annotations if not annotation.bbox]
    sizes = {plain(image.id): (image.height, image.width) for image in file.images} if bare else {}
    for annotation in bare:
        annotation.bbox = _box(annotation.segmentation, sizes.get(plain(annotation.image_id)))
        file.hulls += annotation.bbox is not None
    return file


def _box(segmentation: msgspec.Raw, size: tuple[float | None, float | None] | None) -> list[float | None] | None:
    """Return a segmentation's box as [x, y, width, height]; None if it has none, or is of another size."""
    try:
        mask = msgspec.json.decode(segmentation)
        if isinstance(mask, dict):
            rle = msgspec.convert(mask, Rle)
            corners = rle_hull(rle) if size in (rle.size, (None, None)) else None
        else:
            points = np.concatenate([np.array(part, np.float64).reshape(-1, 2) for part in mask or ()])
            corners = (*points.min(0).tolist(), *points.max(0).tolist())
    except (ValueError, TypeError, msgspec.DecodeError):  # not numbers, not pairs, or no points
        return None
    return corners and [*corners[:2], corners[2] - corners[0], corners[3] - corners[1]]


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


def judged(image: Image, label_of: dict[Id, int]) -> NDArray[np.int32] | None:
    """Return `Record.judged` from LVIS's fields; None if the image has neither."""
    fields = (image.neg_category_ids, image.not_exhaustive_category_ids)
    if fields == (None, None):
        return None
    rows = [(label_of.get(plain(number), -1), partial) for partial, ids in enumerate(fields) for number in ids or ()]
    labels = np.array(rows, np.int32).reshape(-1, 2)
    return labels[labels[:, 0] >= 0]


def federated(file: CocoFile, path: Path) -> Finding:
    """Note LVIS's fields: the classes that were verified to be absent from an image, or not annotated exhaustively."""
    absent = sum(bool(image.neg_category_ids) for image in file.images)
    partial = sum(bool(image.not_exhaustive_category_ids) for image in file.images)
    value = f"{counted(absent, 'image')} with neg_category_ids, {partial} with not_exhaustive_category_ids"
    reason = "kept: `trainers.evaluate --protocol lvis` judges in each image only the classes that were looked for"
    return Finding("noted", "classes-federated", str(path), "", value, reason, "set")
