"""Operations that choose a part of the picture by the boxes in it; otherwise as in `geometry`."""

from __future__ import annotations

from typing import Annotated

import numpy as np
from numpy.typing import NDArray

from dataforge.augment.operations.geometry import Canvas, Draw, Factor, Floats, Matrices, Share, onto_canvas

OVERLAPS = np.array([0.0, 0.1, 0.3, 0.5, 0.7, 0.9, np.inf])  # the last: leave the picture whole
TRIES, ROUNDS = 50, 50


def iou_crop(draw: Draw, canvas: Canvas, *, low: Share = 0.3, aspect: Annotated[float, 1, 100] = 2.0) -> Matrices:
    """SSD's crop (Liu et al. 2016, section 2.2): a part whose IoU with at least one box reaches a drawn threshold.

    A threshold is drawn of 0, 0.1, 0.3, 0.5, 0.7, 0.9 or "whole"; of 50 parts the first is taken whose sides are
    low..1 of the canvas', whose aspect ratio is in 1 / aspect..aspect, whose best IoU reaches the threshold and which
    holds a box's centre. If none does, a new threshold is drawn. A picture without boxes stays whole. Use it with
    `{op = "keep", centre = true, visible = 0}`.
    """
    n, (height, width) = len(canvas.matrix), canvas.out
    boxes = canvas.moved().clip(0, [width, height] * 2)
    region = np.tile(np.array([0.0, 0.0, width, height]), (n, 1))
    pixel_aspect = canvas.pixel_aspect()
    todo = np.bincount(canvas.image, minlength=n) > 0
    for turn in range(ROUNDS):
        rows = np.flatnonzero(todo)
        if not len(rows):
            break
        u = draw(1 + 4 * TRIES, turn)[rows]
        threshold = OVERLAPS[(u[:, 0] * len(OVERLAPS)).astype(int)]
        parts, shape_fits = _parts(u[:, 1:].reshape(-1, TRIES, 4), low, aspect, (width, height), pixel_aspect[rows])
        boxed = todo[canvas.image]
        row = np.searchsorted(rows, canvas.image[boxed])
        best, holds = _overlap(boxes[boxed], row, parts)
        good = shape_fits & holds & (best >= threshold[:, None])
        first, fits = good.argmax(1), good.any(1)
        region[rows[fits]] = parts[fits, first[fits]]
        todo[rows] = ~fits & np.isfinite(threshold)
    return onto_canvas(region, canvas.out)


def _parts(
    u: Floats, low: float, aspect: float, side: tuple[int, int], pixel_aspect: Floats
) -> tuple[Floats, NDArray[np.bool_]]:
    """Candidates (n, tries, 4) from numbers (n, tries, 4), and whether their aspect ratio is allowed."""
    share = low + (1 - low) * u[:, :, :2]
    corner = u[:, :, 2:] * (1 - share)
    parts = np.concatenate([corner, corner + share], 2) * (side * 2)
    ratio = share[:, :, 0] * side[0] / (share[:, :, 1] * side[1]) / pixel_aspect[:, None]
    return parts, (ratio > 1 / aspect) & (ratio < aspect)


def _overlap(boxes: Floats, row: NDArray[np.int64], parts: Floats) -> tuple[Floats, NDArray[np.bool_]]:
    """The best IoU of each part (n, tries, 4) with the boxes (s, 4) of its row (s,), and whether it holds a centre.

    Boxes stand one after another by rows, and every row has one: so each row's best is one `reduceat`.
    """
    px1, py1, px2, py2 = np.moveaxis(parts, 2, 0)[:, row]  # by coordinate: numpy is slow along short axes
    x1, y1, x2, y2 = boxes.T[:, :, None]
    wide = (np.minimum(x2, px2) - np.maximum(x1, px1)).clip(0)
    shared = wide * (np.minimum(y2, py2) - np.maximum(y1, py1)).clip(0)
    union = (x2 - x1) * (y2 - y1) + (px2 - px1) * (py2 - py1) - shared
    x, y = (x1 + x2) / 2, (y1 + y2) / 2
    inside = (x > px1) & (x < px2) & (y > py1) & (y < py2)
    starts = np.searchsorted(row, np.arange(len(parts)))
    return np.maximum.reduceat(shared / union, starts), np.logical_or.reduceat(inside, starts)


def aspect_limit(draw: Draw, canvas: Canvas, *, low: Factor = 0.5, high: Factor = 2.0) -> Matrices:
    """Crop pictures whose width / height lies outside low..high along their long side, around their boxes.

    The part is drawn among those that hold all boxes; where they do not fit into it, among those between the first
    and the last box (the rule of the Faster R-CNN whose batches are grouped by aspect ratio). The rest is fitted to
    the canvas again. Without boxes, any part of the picture will do.
    """
    u = draw(1)[:, 0]
    content, boxes = canvas.content(), canvas.moved()
    side = (content[:, 2:] - content[:, :2]).clip(1e-6)
    ratio = side[:, 0] / side[:, 1] / canvas.pixel_aspect()
    room = side * (1 - np.stack([(high / ratio).clip(max=1), (ratio / low).clip(max=1)], 1))  # what goes, of x and y
    long = room.argmax(1)
    row = np.arange(len(u))
    first, last = content[row, long], content[row, long + 2]
    trim = room[row, long]
    start, end = last.copy(), first.copy()  # of the boxes
    np.minimum.at(start, canvas.image, boxes[np.arange(len(boxes)), long[canvas.image]])
    np.maximum.at(end, canvas.image, boxes[np.arange(len(boxes)), long[canvas.image] + 2])
    empty = start >= end
    kept = last - first - trim
    a = np.where(empty, first, end - kept).clip(first, first + trim)
    b = np.where(empty, first + trim, start).clip(first, first + trim)
    region = content.copy()
    region[row, long] = np.minimum(a, b) + u * np.abs(a - b)
    region[row, long + 2] = region[row, long] + kept
    return np.where((trim > 0)[:, None, None], onto_canvas(region, canvas.out, canvas.fit), np.eye(3))
