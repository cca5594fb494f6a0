"""The hash of a picture: 64 bits, of which few differ where pictures look alike. `transform.similar` compares them."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

SIDE = 32  # pixels of the small grey picture that is hashed
FLAT = 0  # the hash of a picture without structure, which is like no other
CONTRAST = 1.0  # grey levels: a standard deviation below this is no structure, a coefficient below it is noise

# The 64 lowest frequencies of a SIDE x SIDE cosine transform, but for the mean: along the diagonals from the corner
_ROW, _COLUMN = (axis.ravel() for axis in np.mgrid[:SIDE, :SIDE])
_LOWEST = np.lexsort((_ROW, _ROW + _COLUMN))[1:65]
_BITS = np.uint64(1) << np.arange(64, dtype=np.uint64)


def hash_of(pixels: NDArray[np.uint8]) -> int:
    """The hash of a picture: the signs of its lowest frequencies. `FLAT` where it has (nearly) one colour.

    Args:
        pixels: (height, width, 3) RGB.
    """
    grey = cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)
    small = cv2.resize(grey, (SIDE, SIDE), interpolation=cv2.INTER_AREA).astype(np.float32)
    if small.std() < CONTRAST:
        return FLAT
    signs = cv2.dct(small).ravel()[_LOWEST] > CONTRAST
    return int(_BITS[signs].sum()) or 1  # 1 bit away, since 0 is taken


def reduction(height: int, width: int) -> int:
    """How far a picture of that size may be shrunk while it is decoded (1, 2, 4 or 8) and still be hashed well."""
    return next((factor for factor in (8, 4, 2) if min(height, width) >= 2 * SIDE * factor), 1)
