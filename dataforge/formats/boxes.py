"""Helpers for boxes: their numbers within an image, and their form in a `Finding`."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray


def ranks(groups: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return (n,) the number of preceding elements of the same group, such as the earlier boxes of the same image.

    Args:
        groups: (n,) the group of each element.
    """
    order = np.argsort(groups, kind="stable")
    grouped = groups[order]
    counted = np.empty(len(groups), np.int64)
    counted[order] = np.arange(len(groups)) - np.searchsorted(grouped, grouped)
    return counted


def as_xyxy(box: Iterable[float]) -> tuple[float, float, float, float]:
    """Convert one box (4,) to the tuple of floats that a `Finding` stores."""
    x1, y1, x2, y2 = map(float, box)
    return x1, y1, x2, y2
