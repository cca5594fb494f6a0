"""The boxes of an image: those of its record, with their ids, and the record that edited boxes make."""

from __future__ import annotations

import math
import re
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from dataforge.overlay.requests import RefusedError
from dataforge.record import Finding, Record

_BASE_ID = re.compile(r"b\d+")


class Box(NamedTuple):
    """A box: x1, y1, x2, y2 in pixels of the upright image, each a float32; its label; its flags."""

    box: tuple[float, float, float, float]
    label: int
    flags: int


def checksum(record: Record) -> int:
    """Return the CRC-32 of a record's boxes, labels and flags, before any edit."""
    return zlib.crc32(b"".join(array.tobytes() for array in (record.boxes, record.labels, record.flags)))


def base_boxes(record: Record) -> dict[str, Box | None]:
    """Return id -> box of a record before any edit."""
    columns = zip(record.boxes.tolist(), record.labels.tolist(), record.flags.tolist(), strict=True)
    return {f"b{n}": Box(tuple(box), label, flags) for n, (box, label, flags) in enumerate(columns)}


def has_base_id(id: str) -> bool:
    """Whether an id is of the form of boxes that were there before any edit."""
    return _BASE_ID.fullmatch(id) is not None


def is_base(id: str, count: int) -> bool:
    """Whether an id of that form is one of the first `count` boxes."""
    return id == f"b{int(id[1:])}" and int(id[1:]) < count


def clip(box: Iterable[float], record: Record, place: str) -> tuple[float, float, float, float]:
    """Return a box inside the image, as float32.

    Raises:
        RefusedError: it has no area there; the message begins with `place`.
    """
    x1, y1, x2, y2 = box
    size = f"the image of {record.width}x{record.height}"
    if not all(map(math.isfinite, (x1, y1, x2, y2))):
        raise RefusedError(f"{place}: box {[x1, y1, x2, y2]}: expected finite numbers")
    low = np.array([x1, y1], np.float64).clip(0, [record.width, record.height]).astype(np.float32)
    high = np.array([x2, y2], np.float64).clip(0, [record.width, record.height]).astype(np.float32)
    if not (low < high).all():
        raise RefusedError(f"{place}: box {[x1, y1, x2, y2]}: expected x1 < x2 and y1 < y2 in {size}")
    return float(low[0]), float(low[1]), float(high[0]), float(high[1])


def polygons_left_out(record: Record, boxes: Mapping[str, Box]) -> Iterator[Finding]:
    """Yield the boxes of the base that have a polygon there and none in `edited_record`, since they were moved."""
    if record.polygons is None:
        return
    reason = "the box was moved or resized: its polygon is left out"
    for n in np.flatnonzero(record.polygons.counts).tolist():
        box = boxes.get(f"b{n}")
        if box is not None and not np.array_equal(record.boxes[n], np.array(box.box, np.float32)):
            place = record.file, record.key, "", reason
            yield Finding("noted", "polygon-left-out", *place, box=n, xyxy=box.box, split=record.split)


def edited_record(record: Record, boxes: Mapping[str, Box]) -> Record:
    """Return a record with the boxes that it has now.

    A box of the base whose corners did not move keeps its area and its polygon; one that was moved has none.
    """
    values = list(boxes.values())
    corners = np.array([box.box for box in values], np.float32).reshape(-1, 4)
    kept = np.full(len(values), -1)  # the numbers of the boxes that did not move
    for n, id in enumerate(boxes):
        if has_base_id(id) and np.array_equal(record.boxes[int(id[1:])], corners[n]):
            kept[n] = int(id[1:])
    areas = None
    if record.areas is not None:
        areas = np.prod(corners[:, 2:] - corners[:, :2], axis=1, dtype=np.float32)
        areas[kept >= 0] = record.areas[kept[kept >= 0]]
    return replace(
        record,
        boxes=corners,
        labels=np.array([box.label for box in values], np.int32),
        flags=np.array([box.flags for box in values], np.uint8),
        areas=areas,
        polygons=record.polygons and (record.polygons.take(kept) or None),
    )
