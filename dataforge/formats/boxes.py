"""Number boxes within their images, and put a box into a finding."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray


def ranks(groups: NDArray[np.int64]) -> NDArray[np.int64]:
    """(n,) of each element, how many elements before it are of its group, such as of the image of a box.

    Args:
        groups: (n,) the group of each element.
    """
    order = np.argsort(groups, kind="stable")
    grouped = groups[order]
    counted = np.empty(len(groups), np.int64)
    counted[order] = np.arange(len(groups)) - np.searchsorted(grouped, grouped)
    return counted


def as_xyxy(box: Iterable[float]) -> tuple[float, float, float, float]:
    """One box (4,) as the plain numbers that a `Finding` holds."""
    x1, y1, x2, y2 = map(float, box)
    return x1, y1, x2, y2
