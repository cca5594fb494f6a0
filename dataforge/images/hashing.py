"""Perceptual hash of an image: 64 bits, of which few differ for similar images. Compared by `transform.similar`."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

SIDE = 32  # pixels: side of the small grey image that is hashed
FLAT = 0  # the hash of an image without structure, which is similar to no other
CONTRAST = 1.0  # grey levels: a standard deviation below this counts as no structure, a coefficient below it as noise

# The 64 lowest frequencies of a SIDE x SIDE cosine transform, except the mean: along the diagonals from the corner
_ROW, _COLUMN = (axis.ravel() for axis in np.mgrid[:SIDE, :SIDE])
_LOWEST = np.lexsort((_ROW, _ROW + _COLUMN))[1:65]
_BITS = np.uint64(1) << np.arange(64, dtype=np.uint64)


def hash_of(pixels: NDArray[np.uint8]) -> int:
    """Return the hash of an image: the signs of its lowest frequencies. `FLAT` if it is (nearly) of one colour.

    Args:
        pixels: (height, width, 3) RGB.
    """
    grey = cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)
    small = cv2.resize(grey, (SIDE, SIDE), interpolation=cv2.INTER_AREA).astype(np.float32)
    if small.std() < CONTRAST:
        return FLAT
    signs = cv2.dct(small).ravel()[_LOWEST] > CONTRAST
    return int(_BITS[signs].sum()) or 1  # 1 differs by one bit; 0 is reserved for `FLAT`


def reduction(height: int, width: int) -> int:
    """Return the factor (1, 2, 4 or 8) by which an image may be shrunk during decoding and still be hashed well."""
    return next((factor for factor in (8, 4, 2) if min(height, width) >= 2 * SIDE * factor), 1)
