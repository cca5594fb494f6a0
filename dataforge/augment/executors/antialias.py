"""Antialiasing before a bilinear warp that shrinks: blocks of pixels are averaged, then filtered along each axis.

OpenCV has no fast antialiased resize. Halving is fast, and so is a filter of five taps.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]
Matrix = NDArray[np.float64]

SHARP = 1 / 1.4  # at larger scales bilinear sampling alone is as good as an antialiased bilinear resize
LEAST = 1 / 3.6  # the smallest scale that `smooth` compensates for
_AS_IT_IS = np.array([0.0, 1.0, 0.0])  # with a single 1, OpenCV takes three times as long


def shrink_factors(matrix: Matrix, size: Sequence[int]) -> tuple[int, int]:
    """Return the numbers of (rows, columns) that are averaged before a warp that shrinks, against aliasing.

    Both are the same power of two, which is fastest; if one side shrinks much more than the other, it gets its own
    factor. Above 1, they leave the warp scales of exactly 1, or of at most `SHARP`, for which `smooth` then
    compensates.

    Args:
        matrix: (3, 3) source to output pixels.
        size: (height, width) of the source.
    """
    return _factors(*_scales(matrix, *size))


@lru_cache(1 << 12)
def _factors(x: float, y: float) -> tuple[int, int]:
    both = 1
    while both < 64 and all(2 * both * s <= SHARP or abs(2 * both * s - 1) < 1e-3 for s in (x, y)):
        both *= 2
    rows, columns = (both if both * s >= LEAST else both * int(SHARP / (both * s)) for s in (y, x))
    return rows, columns


def _scales(matrix: Matrix, height: float, width: float) -> tuple[float, float]:
    """Return a map's scales along x and y of the source, at its centre; infinite behind a horizon."""
    (a, b, c), (d, e, f), (g, h, w) = matrix.tolist()
    if g or h:  # the derivatives at the centre; those of an affine map are the same everywhere
        x, y = width / 2, height / 2
        w += g * x + h * y
        u, v = a * x + b * y + c, d * x + e * y + f
        if w > 0:
            a, b, d, e = a - g * u / w, b - h * u / w, d - g * v / w, e - h * v / w
    return (math.hypot(a, d) / w, math.hypot(b, e) / w) if w > 0 else (math.inf, math.inf)


def smooth(pixels: Pixels, matrix: Matrix, factors: tuple[int, int], reduced: bool = False) -> Pixels:
    """Filter shrunken pixels, so that bilinear sampling then matches a good antialiased resize.

    Args:
        pixels: after `shrink` by `factors`; matrix: as there, from the source.
        reduced: the source was itself decoded at a smaller size, as `decode` can.
    """
    height, width = pixels.shape[:2]
    return filtered(pixels, *filters(matrix, (height * factors[0], width * factors[1]), factors, reduced))


def filtered(pixels: Pixels, x: NDArray[np.float64], y: NDArray[np.float64]) -> Pixels:
    """Apply the result of `filters` to pixels."""
    if x is y:  # as they are
        return pixels
    return cv2.sepFilter2D(pixels, -1, x, y, borderType=cv2.BORDER_REPLICATE)  # type: ignore[return-value]


def filters(
    matrix: Matrix, size: Sequence[int], factors: tuple[int, int], reduced: bool = False
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the weights, an odd number of them, by which `smooth` filters along x and along y.

    Args: as for `shrink_factors` and `smooth`.
    """
    even = (1 / 2,) if reduced or factors != (1, 1) else (1 / 2, 2 / 3)
    if factors != (1, 1):
        matrix = from_blocks(matrix, factors)
    scales = _scales(matrix, size[0] / factors[0], size[1] / factors[1])
    x, y = (_AS_IT_IS if s > SHARP or _even(matrix, i, even) else _kernel(s) for i, s in enumerate(scales))
    return x, y


def from_blocks(matrix: Matrix, factors: Any) -> Matrix:
    """Return matrices (..., 3, 3) from pixels shrunken by factors (..., 2), given those from the source."""
    factors = np.asarray(factors)
    larger = np.ones((*factors.shape[:-1], 1, 3))
    larger[..., 0, :2] = factors[..., ::-1]
    return matrix * larger


def _even(matrix: Matrix, axis: int, scales: tuple[float, ...]) -> bool:
    """Return whether bilinear sampling weights all pixels of an axis alike: at scale 1/2 by halves, 2/3 by quarters.

    The first gives means of two, the second is sufficient antialiasing for a camera's own pixels. The most common sizes
    have these scales: 640 pixels to 320, 480 to 320.
    """
    scale, shift = float(matrix[axis, axis]), float(matrix[axis, 2])
    if matrix[axis, 1 - axis] or matrix[2, 0] or matrix[2, 1] or min(abs(abs(scale) - s) for s in scales) > 1e-4:
        return False
    return abs(shift / scale - round(shift / scale)) < 1e-3


def taps(scale: Any) -> tuple[Any, Any]:
    """Return a pixel's shares for its two neighbours and the two beyond in `smooth`, for scales `LEAST` to `SHARP`.

    Fitted so that filter and bilinear sampling together come nearest to Pillow's Lanczos filter in the spectrum of
    photographs, at any phase of the sampling, but pass at most a fifth of the finest stripes. They are multiples of
    1/64: then float32 holds all sums of a filter exactly, and every order of adding up gives the same pixels.
    """
    near, far = -0.26 + 3.53 * scale - 3.65 * scale * scale, 1.28 - 4.69 * scale + 3.59 * scale * scale
    return (near * 64 + 0.5) // 1 / 64, (far * 64 + 0.5) // 1 / 64


def _kernel(scale: float) -> NDArray[np.float64]:
    near, far = taps(scale)
    return np.array([far / 2, near / 2, 1 - near - far, near / 2, far / 2])
