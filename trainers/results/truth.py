"""Legend: I images, N true boxes, K detections, C classes.

Ground truth and predictions as flat arrays, and reading and writing of their COCO JSON files.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from dataforge.analysis.detections import sides
from dataforge.errors import ConfigError, FormatError
from dataforge.files import writing
from dataforge.formats.coco.file import Id as AnyId
from dataforge.formats.coco.file import judged, read_coco
from dataforge.formats.json_files import entry, read_json
from dataforge.record import CROWD
from dataforge.shards.judged import judged_rows
from dataforge.shards.reader import Shards

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Truth:
    """Annotated boxes of a split.

    Attributes:
        image_ids: (I,) unique; COCO's image ids, or row numbers.
        image: (N,) each box's row in `image_ids`.
        boxes: (N, 4) xyxy pixels, edge coordinates.
        labels: (N,) 0..C-1; flags: (N,) CROWD | DIFFICULT | TRUNCATED.
        areas: (N,) pixels; COCO bins objects by them (the masks' areas where the source states them).
        classes: names by label; class_ids: the source's own number for each.
    """

    image_ids: Ints
    image: Ints
    boxes: Floats
    labels: Ints
    flags: NDArray[np.uint8]
    areas: Floats
    classes: tuple[str, ...]
    class_ids: tuple[int, ...]
    ids: Ints | None = None  # (N,) the boxes' ids in the source, if unique
    names: tuple[str, ...] = ()  # (I,) the images' keys or file names
    sizes: Ints | None = None  # (I, 2) (height, width) in pixels, 0 where unknown
    judged: NDArray[np.int32] | None = None  # (P, 3) the classes looked for, as in `Table`; None if all in every image
    above: tuple[tuple[int, ...], ...] = ()  # (C,) labels for which a class's boxes count, too; () if for none
    frequencies: tuple[str, ...] = ()  # (C,) LVIS's r, c or f of each class, "" if unknown; () if of none


@dataclass(frozen=True, eq=False)
class Predictions:
    """Detected boxes. Ties in score keep this order.

    Attributes:
        image: (K,) rows in `Truth.image_ids`.
        boxes: (K, 4) xyxy pixels of the source images, edge coordinates.
        scores: (K,); labels: (K,) 0..C-1.
        known: the labels that the detector has; None if all.
    """

    image: Ints
    boxes: Floats
    scores: Floats
    labels: Ints
    known: Ints | None = None

    def where(self, keep: NDArray[np.bool_] | Ints) -> Predictions:
        """Return the detections that `keep` selects, a mask (K,) or indices."""
        columns = (self.image[keep], self.boxes[keep], self.scores[keep], self.labels[keep])
        return Predictions(*columns, self.known)


def truth_of_shards(shards: Shards) -> Truth:
    """Return the truth of shards, in source pixels; an image's row is its record number.

    The image ids are those of the source if all records have unique ones, otherwise the record numbers.
    """
    table = shards.source
    label_of = {name: label for label, name in enumerate(shards.classes)}
    above = tuple(
        tuple(label_of[one] for one in shards.ancestors.get(name, ()) if one in label_of) for name in shards.classes
    )
    own = len(table) > 0 and table.id.min() >= 0 and len(np.unique(table.id)) == len(table)
    return Truth(
        image_ids=table.id.astype(np.int64) if own else np.arange(len(table)),
        image=table.image,
        boxes=table.boxes.astype(np.float64),
        labels=table.labels.astype(np.int64),
        flags=table.flags,
        areas=table.areas.astype(np.float64),
        classes=shards.classes,
        class_ids=shards.class_ids,
        names=tuple(table.key),
        sizes=np.stack([table.height, table.width], 1).astype(np.int64),
        judged=table.judged,
        frequencies=tuple(shards.frequencies.get(name, "") for name in shards.classes) if shards.frequencies else (),
        above=above if any(above) else (),
    )


Id = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]
XYWH = tuple[float, float, float, float]
RESULTS = "a list of {image_id, category_id, bbox, score}, or an object with such annotations"


class _Found(msgspec.Struct):
    image_id: Id
    category_id: Id
    bbox: XYWH
    score: float


class _FoundSet(msgspec.Struct):
    annotations: list[_Found]


def truth_of_coco(file: Path) -> Truth:
    """Read the truth from a COCO `instances_*.json`. Boxes are not clipped to the image.

    Raises:
        FormatError: the file is invalid; the message names the entry, the key, the value and what was expected.
    """
    coco_file = read_coco(file)
    image_ids = _integers(file, "images", "id", [image.id for image in coco_file.images])
    class_ids = _integers(file, "categories", "id", [category.id for category in coco_file.categories])
    _no_doubles(file, "images", image_ids)
    _no_doubles(file, "categories", class_ids)
    rows = coco_file.annotations
    boxes = _corners(file, "annotations", [row.bbox for row in rows])
    sides = np.array([row.bbox[2:] for row in rows if row.bbox], np.float64).reshape(-1, 2)
    areas = np.array([np.nan if row.area is None else row.area for row in rows], np.float64)
    ids = {row.id for row in rows if row.id is not None}
    label_of: dict[AnyId, int] = {number: label for label, number in enumerate(class_ids.tolist())}
    frequencies = tuple(category.frequency or "" for category in coco_file.categories)
    return Truth(
        image_ids=image_ids,
        image=_rows(file, "annotations", "image_id", [row.image_id for row in rows], image_ids, "an image's"),
        boxes=boxes,
        labels=_rows(file, "annotations", "category_id", [row.category_id for row in rows], class_ids, "a category's"),
        flags=np.where([bool(row.iscrowd) for row in rows], CROWD, 0).astype(np.uint8),
        areas=np.where(np.isnan(areas), sides.prod(1), areas),
        classes=tuple(category.name for category in coco_file.categories),
        class_ids=tuple(class_ids.tolist()),
        ids=_integers(file, "annotations", "id", [row.id for row in rows]) if len(ids) == len(rows) else None,
        names=tuple(image.name for image in coco_file.images),
        sizes=np.array([(i.height or 0, i.width or 0) for i in coco_file.images], np.int64).reshape(-1, 2),
        judged=judged_rows([judged(image, label_of) for image in coco_file.images]),
        frequencies=frequencies if any(frequencies) else (),
    )


def read_predictions(file: Path, truth: Truth) -> Predictions:
    """Read COCO's result format: a list of `{"image_id", "category_id", "bbox": [x, y, w, h], "score"}`.

    An object whose `annotations` are such rows is also accepted; other keys are ignored.

    Raises:
        FormatError: the file is invalid, an id is not in the truth, a number is not finite, or a size is negative; the
            message names the entry, the key, the value and what was expected.
    """
    results: Any = read_json(file, list[_Found] | _FoundSet, RESULTS)  # type: ignore[arg-type]
    rows, where = (results, "") if isinstance(results, list) else (results.annotations, "annotations")
    scores = np.array([row.score for row in rows], np.float64)
    for i in np.flatnonzero(~np.isfinite(scores))[:1]:
        raise FormatError(f"{file}: {entry(where, i)}: score is {scores[i]}; expected a finite number")
    class_ids = np.array(truth.class_ids, np.int64)
    return Predictions(
        image=_rows(file, where, "image_id", [row.image_id for row in rows], truth.image_ids, "one of the truth's"),
        boxes=_corners(file, where, [row.bbox for row in rows]),
        scores=scores,
        labels=_rows(file, where, "category_id", [row.category_id for row in rows], class_ids, "one of the truth's"),
    )


def coco_rows(
    predictions: Predictions,
    image_ids: Ints,
    class_ids: tuple[int, ...],
    file_names: list[str] | None = None,
) -> list[dict[str, Any]]:
    """Return predictions in COCO's result format.

    Args:
        image_ids: (I,) the images' ids by row.
        class_ids: the classes' ids by label.
        file_names: (I,) adds `file_name` to each entry.
    """
    numbers = np.array(class_ids, np.int64)
    columns: dict[str, list[Any]] = {
        "image_id": image_ids[predictions.image].tolist(),
        "category_id": numbers[predictions.labels].tolist(),
        "bbox": xywh(predictions.boxes).tolist(),
        "score": predictions.scores.tolist(),
    }
    if file_names is not None:
        columns["file_name"] = [file_names[row] for row in predictions.image.tolist()]
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def xywh(boxes: Floats) -> Floats:
    """Convert xyxy (n, 4) to COCO's x, y, width, height."""
    return np.concatenate([boxes[:, :2], sides(boxes)], 1)


def _corners(file: Path, where: str, boxes: Sequence[Sequence[float | None] | None]) -> Floats:
    four = [box if box is not None and len(box) == 4 else [np.nan] * 4 for box in boxes]
    xywh = np.array(four, np.float64).reshape(-1, 4)
    bad = ~np.isfinite(xywh).all(1) | (xywh[:, 2:] < 0).any(1)
    for i in np.flatnonzero(bad)[:1]:
        box = boxes[i]
        value = "missing" if box is None else list(box)
        raise FormatError(
            f"{file}: {entry(where, i)}: bbox is {value}; expected [x, y, width, height], finite, no side below 0"
        )
    return np.concatenate([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]], 1)


def _integers(file: Path, where: str, key: str, values: Sequence[object]) -> Ints:
    for i, value in enumerate(values):
        if not isinstance(value, int) or not -(1 << 63) <= value < 1 << 63:
            raise FormatError(f"{file}: {entry(where, i)}: {key} is {value!r}; expected a whole number of 64 bits")
    return np.array(values, np.int64)


def _rows(file: Path, where: str, key: str, values: Sequence[object], known: Ints, whose: str) -> Ints:
    """Return each value's row in `known`."""
    numbers = _integers(file, where, key, values)
    if not len(known):
        order, positions = known, np.zeros(len(numbers), np.int64)
        missing = np.ones(len(numbers), bool)
    else:
        order = np.argsort(known, kind="stable")
        positions = np.searchsorted(known[order], numbers).clip(max=len(known) - 1)
        missing = known[order][positions] != numbers
    for i in np.flatnonzero(missing)[:1]:
        shown = ", ".join(map(str, np.sort(known)[:8].tolist())) + (", ..." if len(known) > 8 else "")
        raise FormatError(f"{file}: {entry(where, i)}: {key} is {numbers[i]}; expected {whose} id ({shown or 'none'})")
    return order[positions]


def _no_doubles(file: Path, where: str, ids: Ints) -> None:
    values, counts = np.unique(ids, return_counts=True)
    for value in values[counts > 1][:1]:
        i = np.flatnonzero(ids == value)[1]
        raise FormatError(f"{file}: {entry(where, i)}: id is {value}, which an entry before has; expected unique ids")


def finite_or_none(values: Mapping[str, float]) -> dict[str, float | None]:
    """Replace NaN by None, which JSON can represent."""
    return {name: None if math.isnan(value) else value for name, value in values.items()}


def write_json(file: Path, rows: list[dict[str, Any]]) -> None:
    """Write detections in COCO's result format.

    Raises:
        ConfigError: the file cannot be written.
    """
    with writing(file, ConfigError):
        file.write_bytes(msgspec.json.encode(rows))
