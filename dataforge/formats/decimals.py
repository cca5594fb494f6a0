"""Shortest decimal numbers for text files from which float32 values are restored bit for bit."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

DIGITS = 12  # decimal places tried; beyond them the double is written in full


def decimals(target: NDArray[np.float32], base: NDArray[np.float64] | float = 0.0) -> NDArray[np.float64]:
    """Return numbers with the fewest decimal places such that `float32(base + number) == target`.

    With the left edges as `base` and the right edges as `target`, the result is the widths. Numbers that were written
    with two decimal places are restored exactly.

    Args:
        target: any shape, finite; base: of the same shape, or one number. A base much larger than the target
            leaves too few bits for it: with a base of 1, below 1e-6.
    """
    exact = target.astype(np.float64) - base
    written = exact.copy()
    open_ = np.ones(target.shape, bool)
    for places in range(DIGITS + 1):
        if not open_.any():
            break
        short = np.round(exact, places)
        fits = open_ & ((base + short).astype(np.float32) == target)
        written[fits] = short[fits]
        open_ &= ~fits
    return written
