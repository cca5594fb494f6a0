"""Transformation of boxes by their images' matrices, and clipping to the image's part of the output."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
MIN_VISIBLE = 0.25
_TINY = 1e-9


def corners_of(boxes: NDArray[Any]) -> Floats:
    """Return the corners (s, 4, 2) of boxes (s, 4), in cyclic order."""
    return boxes[:, [0, 1, 2, 1, 2, 3, 0, 3]].reshape(-1, 4, 2).astype(np.float64)


def project(points: Floats, matrix: Floats) -> Floats:
    """Map points (s, k, 2) by matrices (s, 3, 3); those behind the horizon of a projective map become infinite."""
    moved = points @ matrix[:, :2, :2].transpose(0, 2, 1) + matrix[:, None, :2, 2]
    w = points @ matrix[:, 2, :2, None] + matrix[:, 2, 2, None, None]
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(w > _TINY, moved / w, np.where(moved < 0, -np.inf, np.inf))


def hull(points: Floats) -> Floats:
    """Return the boxes (s, 4) around points (s, k, 2)."""
    return np.concatenate([points.min(1), points.max(1)], 1)


def move_boxes(
    boxes: NDArray[np.float32],
    image: NDArray[np.int64],
    matrix: Floats,
    out: tuple[int, int],
    min_visible: float = MIN_VISIBLE,
    *,
    centre: bool = False,
    min_size: float = 0.0,
    region: NDArray[Any] | None = None,
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Move boxes with their images, clip them to the output, and return which to keep.

    A box is clipped as the quadrilateral that it becomes, so that a rotated box fits its visible part.

    Args:
        boxes: (s, 4) xyxy source pixels.
        image: (s,) each box's row in `matrix`.
        matrix: (n, 3, 3).
        min_visible: a box is kept if at least this share of the moved box's area is inside.
        centre: keep only boxes whose centre is inside (SSD).
        min_size: keep only boxes whose sides have at least this many output pixels.
        region: (n, 4) the part of the output that an image fills; None for all of it.

    Returns:
        (s, 4) boxes in output pixels (the hull of the part inside; zeros if it is empty), and (s,) whether each is
        kept.
    """
    limit = np.tile(np.array([0.0, 0.0, out[1], out[0]]), (len(matrix), 1)) if region is None else region.astype(float)
    limit, straight = limit[image], (matrix[:, [0, 1, 2, 2], [1, 0, 0, 1]] == 0).all(1)
    if straight.all():
        whole = _moved_straight(boxes, matrix, image)
    else:
        straight, moved = straight[image], matrix[image]
        whole = hull(project(corners_of(boxes), moved))
    inside = np.concatenate([np.maximum(whole[:, :2], limit[:, :2]), np.minimum(whole[:, 2:], limit[:, 2:])], 1)
    if not straight.all():
        inside[~straight] = _clipped(boxes[~straight], moved[~straight], limit[~straight])
    side = (inside[:, 2:] - inside[:, :2]).T
    stored = inside.astype(np.float32)
    # as rounded: a sliver at the edge has no area any more
    seen = (stored[:, 2] > stored[:, 0]) & (stored[:, 3] > stored[:, 1])
    stored = np.where(seen[:, None], stored, np.float32(0))
    keep = seen & (np.minimum(*side) >= min_size)
    if min_visible > 0:
        with np.errstate(invalid="ignore"):
            keep &= side.prod(0) >= min_visible * (whole[:, 2:] - whole[:, :2]).T.prod(0)
    if centre:
        middle = project(((boxes[:, None, :2] + boxes[:, None, 2:]) / 2).astype(np.float64), matrix[image])[:, 0]
        keep &= (middle >= limit[:, :2]).all(1) & (middle <= limit[:, 2:]).all(1)
    return stored, keep


def _moved_straight(boxes: NDArray[np.float32], matrix: Floats, image: NDArray[np.int64]) -> Floats:
    """Return boxes (s, 4) moved by matrices without rotation, from two corners only, which is many times as fast."""
    factor, shift = matrix[:, [0, 1], [0, 1]] / matrix[:, 2, 2:], matrix[:, :2, 2] / matrix[:, 2, 2:]
    factor, shift = factor[image], shift[image]
    first, second = boxes[:, :2] * factor + shift, boxes[:, 2:] * factor + shift
    return np.concatenate([np.minimum(first, second), np.maximum(first, second)], 1)


def _clipped(boxes: NDArray[np.float32], matrix: Floats, limit: Floats) -> Floats:
    """Return hulls (s, 4) of the moved boxes' parts inside `limit` (s, 4); inverted if a part is empty.

    The limits are half planes of the source, X >= x1 w and so on, and remain so under a projective map. So the part's
    corners are among the box's corners, the intersections of its sides with the limits, and the limits' corners.
    """
    x1, y1, x2, y2 = limit.T
    plane = np.stack(  # (s, 4, 3): not negative inside
        [
            matrix[:, 0] - x1[:, None] * matrix[:, 2],
            matrix[:, 1] - y1[:, None] * matrix[:, 2],
            x2[:, None] * matrix[:, 2] - matrix[:, 0],
            y2[:, None] * matrix[:, 2] - matrix[:, 1],
        ],
        1,
    )
    corner = corners_of(boxes)
    value = corner @ plane[:, :, :2].transpose(0, 2, 1) + plane[:, None, :, 2]  # (s, 4 corners, 4 planes)
    after = np.roll(value, -1, axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        t = value / (value - after)
        crossing = corner[:, :, None] + t[..., None] * (np.roll(corner, -1, axis=1) - corner)[:, :, None]
        ends = corners_of(limit)
        back = np.concatenate([ends, np.ones((*ends.shape[:2], 1))], 2) @ np.linalg.inv(matrix).transpose(0, 2, 1)
        home = np.where(back[:, :, 2:] > 0, back[:, :, :2] / back[:, :, 2:], np.nan)
        points = np.concatenate([corner, crossing.reshape(-1, 16, 2), home], 1)
        points = np.where(np.isfinite(points), points, np.nan)
        low, high = boxes[:, None, :2].astype(float), boxes[:, None, 2:].astype(float)
        slack = 1e-6 * (1 + high)
        within = ((points >= low - slack) & (points <= high + slack)).all(2)
        moved = project(points, matrix)
    near = 1e-6 * (1 + np.abs(limit).max(1))[:, None, None]
    within &= ((moved >= limit[:, None, :2] - near) & (moved <= limit[:, None, 2:] + near)).all(2)
    low_end = np.where(within[..., None], moved, np.inf).min(1).clip(limit[:, :2])
    high_end = np.where(within[..., None], moved, -np.inf).max(1).clip(max=limit[:, 2:])
    return np.concatenate([low_end, high_end], 1)
