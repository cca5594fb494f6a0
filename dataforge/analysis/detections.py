"""Detections of a model beside the truth: read, paired with the true boxes, and sorted by what is wrong with them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from dataforge.errors import FormatError
from dataforge.formats.json_files import entry, read_json
from dataforge.record import CROWD, DIFFICULT
from dataforge.shards.reader import Shards

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

KINDS = ("correct", "class", "place", "double", "background", "ignored")
CORRECT, CLASS, PLACE, DOUBLE, BACKGROUND, IGNORED = range(len(KINDS))
IOU = 0.5  # from which a detection and a box are the same object
NEAR = 0.1  # IoU from which a detection is of a box, but at the wrong place; as in TIDE (arXiv:2008.08115)
_PAIRS = 1 << 21  # pairs of a detection and a box compared at a time
_EXPECTED = "a list of {image_id, category_id, bbox, score}, or an object with such annotations"


@dataclass(frozen=True, eq=False)
class Detections:
    """K detections of a set, sorted by image, the highest scores first.

    Attributes:
        image: (K,) record numbers; boxes: (K, 4) xyxy pixels; labels: (K,) 0..C-1.
    """

    image: Ints
    boxes: Floats
    labels: Ints
    scores: Floats


class _Row(msgspec.Struct):
    bbox: tuple[float, float, float, float]
    score: float
    category_id: int
    image_id: int | None = None
    file_name: str | None = None
    category_name: str | None = None


class _Rows(msgspec.Struct):
    annotations: list[_Row]


def read_detections(file: Path, shards: Shards) -> Detections:
    """Read COCO's result format, as `trainers.evaluate` and `trainers.predict --save-json` write it.

    An image is found by `file_name` (its key, an end of it, or "split/key") if that is there, else by `image_id`: the
    source's number if all records have unique ones, else the record's number. A class is found by `category_name`,
    else by `category_id`; detections of classes that the shards lack are left out.

    Raises:
        FormatError: the file is invalid, or an image is not in the shards; the message names entry, key and value.
    """
    content = read_json(file, list[_Row] | _Rows, _EXPECTED)  # type: ignore[arg-type]
    rows, where = (content, "") if isinstance(content, list) else (content.annotations, "annotations")  # type: ignore[attr-defined]
    image = _images(file, where, rows, shards)
    by_name = {name: label for label, name in enumerate(shards.classes)}
    by_id = {number: label for label, number in enumerate(shards.class_ids)}
    labels = [
        by_id.get(row.category_id, -1) if row.category_name is None else by_name.get(row.category_name, -1)
        for row in rows
    ]
    numbers = np.array([(*row.bbox, row.score) for row in rows], np.float64).reshape(-1, 5)
    for i in np.flatnonzero(~np.isfinite(numbers).all(1) | (numbers[:, 2:4] < 0).any(1))[:1].tolist():
        raise FormatError(
            f"{file}: {entry(where, i)}: bbox {list(rows[i].bbox)}, score {rows[i].score}; expected finite numbers, no "
            "side below 0"
        )
    label = np.array(labels, np.int64)
    order = np.lexsort((-numbers[:, 4], image))
    order = order[label[order] >= 0]
    corners = np.concatenate([numbers[:, :2], numbers[:, :2] + numbers[:, 2:4]], 1)
    return Detections(image[order], corners[order], label[order], numbers[order, 4])


def _images(file: Path, where: str, rows: list[_Row], shards: Shards) -> Ints:
    """Return the record number of each row."""
    table = shards.table
    named = bool(rows) and all(row.file_name is not None for row in rows)
    if named:
        known: dict[object, int] = _by_name(shards)
    else:
        own = len(table) > 0 and table.id.min() >= 0 and len(np.unique(table.id)) == len(table)
        if not own and len([name for name in shards.splits if name not in shards.index["unions"]]) > 1:
            raise FormatError(
                f"{file}: {shards.path} has no image ids that are unique over its splits; give --split, or file_name "
                "in each entry"
            )
        known = {number: n for n, number in enumerate(table.id.tolist() if own else range(len(table)))}
    key = "file_name" if named else "image_id"
    found = [known.get(getattr(row, key), -1) for row in rows]
    for i, n in enumerate(found):
        if n < 0:
            value = repr(getattr(rows[i], key))
            where = f"{file}: {entry(where, i)}: {key} is {value}"
            raise FormatError(f"{where}; it names no image of {shards.path}, or several")
    return np.array(found, np.int64)


def _by_name(shards: Shards) -> dict[object, int]:
    """Return the record of each "split/key", and of each end of one from a "/" on; -1 where several have it."""
    known: dict[object, int] = {}
    for split, rows in shards.splits.items():
        if split in shards.index["unions"]:
            continue
        for n in rows.tolist():
            parts = [split, *shards.table.key[n].split("/")]
            for start in range(len(parts)):
                name = "/".join(parts[start:])
                known[name] = -1 if name in known else n
    return known


@dataclass(frozen=True, eq=False)
class Judged:
    """What each detection is, with a minimum score.

    Attributes:
        kind: (K,) an index into `KINDS`; -1 below the score.
        box: (K,) the row of the true box that the detection is paired with, or -1.
        missed: (S,) mask of the true boxes that should have been found, and are paired with no detection.
        true: (K,) the label of the paired box, C for none.
    """

    kind: NDArray[np.int8]
    box: Ints
    missed: NDArray[np.bool_]
    true: Ints


def judge(detections: Detections, shards: Shards, conf: float = 0.25, iou: float = IOU) -> Judged:
    """Pair detections with true boxes, one to one, the highest IoU first, whatever the classes.

    A paired detection is "correct", or has the wrong "class". An unpaired one is "double" if it overlaps a box of its
    class by `iou`, of the wrong "class" if it overlaps another's, at the wrong "place" if it overlaps one of its class
    by 0.1, and else "background". Those that are paired with difficult or crowd boxes are "ignored".
    """
    table, chosen = shards.table, np.flatnonzero(detections.scores >= conf)
    row, box, overlap = overlapping(detections.image[chosen], detections.boxes[chosen], table.image, table.boxes, NEAR)
    enough = overlap >= iou
    box_of, detection_of = one_to_one(row[enough], box[enough], len(chosen), len(table.boxes))
    labels = detections.labels[chosen]
    same = table.labels[box] == labels[row]

    def reaches(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
        return np.bincount(row[mask], minlength=len(chosen)) > 0

    ignored = table.flags & (CROWD | DIFFICULT) > 0
    paired, partner = box_of >= 0, box_of.clip(0)
    true = np.append(table.labels.astype(np.int64), len(shards.classes))[box_of]
    kind = np.full(len(chosen), BACKGROUND, np.int8)
    kind[reaches(same)] = PLACE
    kind[reaches(enough & ~same)] = CLASS
    kind[reaches(enough & same)] = DOUBLE
    if len(table.boxes):
        kind[paired] = np.where(ignored[partner], IGNORED, np.where(true == labels, CORRECT, CLASS))[paired]
    kinds = np.full(len(detections.scores), -1, np.int8)
    boxes = np.full(len(kinds), -1)
    trues = np.full(len(kinds), len(shards.classes))
    kinds[chosen], boxes[chosen], trues[chosen] = kind, box_of, true
    return Judged(kinds, boxes, (detection_of < 0) & ~ignored, trues)


def confusion(detections: Detections, judged: Judged, shards: Shards) -> Ints:
    """Count how often each class was detected as each.

    Returns:
        (C + 1, C + 1) counts: rows the true class, columns the detected one, the last of each the background.
    """
    size = len(shards.classes) + 1
    counted = (judged.kind >= 0) & (judged.kind != IGNORED)
    cells = judged.true[counted] * size + detections.labels[counted]
    missed = shards.table.labels[judged.missed].astype(np.int64) * size + size - 1
    return np.bincount(np.concatenate([cells, missed]), minlength=size**2).reshape(size, size)


def overlapping(
    image: Ints,
    boxes: Floats,
    other_image: Ints,
    others: NDArray[np.floating],
    least: float,
    *,
    crowd: NDArray[np.bool_] | None = None,
    extent: float = 0.0,
) -> tuple[Ints, Ints, Floats]:
    """Find the pairs of boxes of one image, one of each list, that overlap.

    Args:
        image, other_image: (n,), (m,) the image of each box, or another number that both of a pair share, in any order.
        boxes, others: (n, 4), (m, 4) xyxy.
        least: the least IoU.
        crowd, extent: as in `pair_iou`; `crowd` is (m,).

    Returns:
        (P,) rows of `boxes`, (P,) rows of `others`, (P,) IoU; the highest IoU first, ties by row.
    """
    by_image = np.argsort(other_image, kind="stable")
    low, high = np.searchsorted(other_image[by_image], [image, image + 1])
    ends = np.cumsum(high - low)
    parts: list[tuple[Ints, Ints, Floats]] = []
    start = 0
    while start < len(image):
        before = ends[start - 1] if start else 0
        stop = max(int(np.searchsorted(ends, before + _PAIRS, "right")), start + 1)
        row, position = _spread(low[start:stop], high[start:stop])
        row, other = row + start, by_image[position]
        marked = None if crowd is None else crowd[other]
        iou = pair_iou(boxes[row], others[other].astype(np.float64), crowd=marked, extent=extent)
        near = iou >= least
        parts.append((row[near], other[near], iou[near]))
        start = stop
    if not parts:
        return np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0)
    row, other, iou = (np.concatenate(column) for column in zip(*parts, strict=True))
    order = np.argsort(-iou, kind="stable")
    return row[order], other[order], iou[order]


def one_to_one(row: Ints, other: Ints, rows: int, others: int) -> tuple[Ints, Ints]:
    """Pair boxes one to one, the highest IoU first.

    Args:
        row, other: as `overlapping` returns them, the best pairs first.

    Returns:
        (rows,) the partner of each row, (others,) of each other; -1 for none.
    """
    row_of, other_of = np.full(others, -1), np.full(rows, -1)
    while len(row):
        # a pair that is first for both its boxes is accepted; the rest is processed again
        first, first_other = np.unique(row, return_index=True)[1], np.unique(other, return_index=True)[1]
        taken = np.intersect1d(first, first_other)
        row_of[other[taken]], other_of[row[taken]] = row[taken], other[taken]
        free = (other_of[row] < 0) & (row_of[other] < 0)
        row, other = row[free], other[free]
    return other_of, row_of


def _spread(low: Ints, high: Ints) -> tuple[Ints, Ints]:
    """Return for ranges low..high (n,) the number of the range, and the position, of each of their members."""
    counts = high - low
    row = np.repeat(np.arange(len(low)), counts)
    return row, np.arange(len(row)) + np.repeat(low - (np.cumsum(counts) - counts), counts)


def pair_iou(a: Floats, b: Floats, *, crowd: NDArray[np.bool_] | None = None, extent: float = 0.0) -> Floats:
    """Return (P,), the row-wise IoU of two lists of boxes (P, 4); 0 for two boxes without area.

    Args:
        crowd: (P,) rows of `b` whose overlap is measured as a share of the area of `a`, as COCO does for crowds.
        extent: added to each width and height: 1 counts pixels inclusively, as the VOC development kit does.
    """
    overlap = (np.minimum(a[:, 2:], b[:, 2:]) - np.maximum(a[:, :2], b[:, :2]) + extent).clip(0).prod(1)
    areas = [(sides(boxes) + extent).prod(1) for boxes in (a, b)]
    union = areas[0] + areas[1] - overlap
    if crowd is not None:
        union = np.where(crowd, areas[0], union)
    return np.divide(overlap, union, out=np.zeros_like(overlap), where=union > 0)


def sides(boxes: Floats) -> Floats:
    """Return (n, 2), the widths and heights of xyxy boxes (n, 4).

    They are rounded to 1e-9 pixels: adding and subtracting x must not move a 32-pixel box out of its size bin.
    """
    return np.round(boxes[:, 2:] - boxes[:, :2], 9)
