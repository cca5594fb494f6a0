"""Overlapping tiles of an image."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

OVERLAP = 0.2  # share of a tile's side that neighbours have in common, at least
MOST_OVERLAP = 0.9


def windows(height: int, width: int, side: int, overlap: float = OVERLAP) -> NDArray[np.int64]:
    """Return the tiles (n, 4) of an image, xyxy in whole pixels, row by row from the upper left corner.

    They are evenly spaced and as few as `overlap` allows. A tile is `side` pixels high and wide, or as the image is
    where that is smaller.

    Args:
        overlap: neighbours have at least this share of `side` in common, 0 to `MOST_OVERLAP`.
    """
    (top, bottom), (left, right) = _spans(height, side, overlap), _spans(width, side, overlap)
    rows, columns = (part.ravel() for part in np.mgrid[0 : len(top), 0 : len(left)])
    return np.stack([left[columns], top[rows], right[columns], bottom[rows]], 1)


def _spans(length: int, side: int, overlap: float) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    if length <= side:
        return np.array([0]), np.array([length])
    step = max(side - int(np.ceil(overlap * side)), 1)
    steps = -(-(length - side) // step)
    start = np.arange(steps + 1) * (length - side) // steps
    return start, start + side
