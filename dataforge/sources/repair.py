"""Conversion of annotated boxes to those stored in shards: inside the upright image, with a positive area."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any, Literal

import numpy as np

from dataforge.images.header import ImageInfo
from dataforge.record import Boxes, Finding, Record, box_areas

ROUNDING = 0.0101  # pixels a box may exceed the edge without a finding: numbers in text files are rounded


def repair(record: Record, info: ImageInfo) -> tuple[Record, list[Finding]]:
    """Set a record's true image size, repair its boxes to lie inside the image, and drop rings that are no polygons."""
    record, of_size = set_size(record, info)
    record, of_polygons = repair_polygons(record)
    record, of_boxes = repair_boxes(record)
    return record, of_size + of_polygons + of_boxes


def set_size(record: Record, info: ImageInfo) -> tuple[Record, list[Finding]]:
    """Set a record's true image size. Boxes drawn on unrotated pixels are rotated by the EXIF orientation.

    Orientations 2 to 4 keep the size, so it is unknown on which pixels a box was drawn; the upright ones are assumed,
    as viewers and most tools show them.
    """
    declared, upright = (record.height, record.width), (info.height, info.width)
    findings = []
    boxes, polygons = record.boxes, record.polygons
    if 0 not in declared and declared != upright:
        value = f"{record.width}x{record.height}"
        if declared == upright[::-1] and info.orientation >= 5:
            boxes = turn(boxes, info)
            polygons = None if polygons is None else replace(polygons, points=turn_points(polygons.points, info))
            reason = f"the size before EXIF orientation {info.orientation}; boxes were turned with it"
            code = "size-unrotated"
        else:
            reason = f"the image is {info.width}x{info.height}; that is taken, boxes are kept as pixels"
            code = "size-wrong"
        file = record.origin or record.file
        findings.append(Finding("repaired", code, file, record.key, value, reason, "image", split=record.split))
    if declared == upright:
        return record, findings
    return replace(record, height=info.height, width=info.width, boxes=boxes, polygons=polygons), findings


def turn(boxes: Boxes, info: ImageInfo) -> Boxes:
    """Transform boxes (n, 4) on the stored pixels to boxes on the upright image."""
    first, second = turn_points(boxes[:, :2], info), turn_points(boxes[:, 2:], info)
    mirrored = [info.orientation in (2, 3, 6, 7), info.orientation in (3, 4, 7, 8)]
    return np.concatenate([np.where(mirrored, second, first), np.where(mirrored, first, second)], 1)


def turn_points(points: Boxes, info: ImageInfo) -> Boxes:
    """Transform points (n, 2) on the stored pixels to points on the upright image."""
    x, y = points.T[::-1] if info.orientation >= 5 else points.T
    x = info.width - x if info.orientation in (2, 3, 6, 7) else x
    y = info.height - y if info.orientation in (3, 4, 7, 8) else y
    return np.stack([x, y], 1)


def repair_polygons(record: Record) -> tuple[Record, list[Finding]]:
    """Drop the rings of fewer than three points, or with a number that is not finite; their boxes are kept."""
    if record.polygons is None or (sound := record.polygons.sound()).all():
        return record, []
    kept = record.polygons.only(sound)
    reason = "a polygon of fewer than three points, or with numbers that are not finite; the box alone is kept"
    findings = [
        of_box(record, n, "repaired", "polygon-broken", reason)
        for n in np.flatnonzero(kept.counts != record.polygons.counts).tolist()
    ]
    return replace(record, polygons=kept or None), findings


def repair_boxes(record: Record) -> tuple[Record, list[Finding]]:
    """Clip, reorder or refuse a record's boxes: the remaining ones lie inside the image and have a positive area."""
    boxes, areas = record.boxes, record.areas
    width, height = record.width, record.height
    if all(0 <= x1 < x2 <= width and 0 <= y1 < y2 <= height for x1, y1, x2, y2 in boxes.tolist()):
        # true of nearly all; for the few boxes of an image Python is faster than NumPy
        if areas is None or all(0 <= area < math.inf for area in areas.tolist()):
            return record, []
        stated = np.isfinite(areas) & (areas >= 0)
        return replace(record, areas=np.where(stated, areas, box_areas(boxes))), _impossible_areas(record)
    size = np.array([width, height], np.float32)
    finite = np.isfinite(boxes).all(1)
    low, high = np.minimum(boxes[:, :2], boxes[:, 2:]), np.maximum(boxes[:, :2], boxes[:, 2:])
    inverted = (boxes[:, :2] > boxes[:, 2:]).any(1)
    empty = (low == high).any(1)
    inner = np.concatenate([low.clip(0, size), high.clip(0, size)], 1)
    outside = ~(inner[:, 2:] > inner[:, :2]).all(1)
    over = (np.concatenate([-low, high - size], 1) > ROUNDING).any(1)
    kept = finite & ~empty & ~outside
    kinds: tuple[tuple[Any, str, str, str], ...] = (
        (~finite, "refused", "box-nan", "not a number, or infinite; left out"),
        (finite & empty, "refused", "box-empty", "has no area; left out"),
        (finite & ~empty & outside, "refused", "box-outside", f"outside {record.width}x{record.height}; left out"),
        (kept & inverted, "repaired", "box-inverted", "corners were in the wrong order; swapped"),
        (kept & over, "repaired", "box-clipped", f"stands over {record.width}x{record.height}; clipped"),
    )
    findings = [
        of_box(record, n, action, code, reason)  # type: ignore[arg-type]
        for rows, action, code, reason in kinds
        for n in np.nonzero(rows)[0].tolist()
    ]
    if areas is not None:
        findings += _impossible_areas(record)
        full = box_areas(inner)
        wrong = ~np.isfinite(areas) | (areas < 0) | ((inverted | over) & (areas > full))
        areas = np.where(wrong, full, areas)
    return replace(record, boxes=inner, areas=areas).pick(kept), findings


def _impossible_areas(record: Record) -> list[Finding]:
    """Return a finding for each stated area that none can have. NaN states none."""
    return [
        replace(of_box(record, n, "repaired", "box-area", "no area; that of the box is taken"), value=f"area {area:g}")
        for n, area in enumerate([] if record.areas is None else record.areas.tolist())
        if area < 0 or area == math.inf
    ]


def of_box(record: Record, n: int, action: Literal["refused", "repaired", "noted"], code: str, reason: str) -> Finding:
    """Return a finding about a record's n-th box, with the box as it is in the record."""
    x1, y1, x2, y2 = box = record.boxes[n].tolist()
    value = "xyxy [" + ", ".join(f"{number:.6g}" for number in box) + "]"
    xyxy = (x1, y1, x2, y2) if all(map(math.isfinite, box)) else None
    return Finding(action, code, record.origin, record.key, value, reason, box=n, xyxy=xyxy, split=record.split)
