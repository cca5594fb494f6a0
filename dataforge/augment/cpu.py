"""The CPU's executor: one image, inside a decode thread, while its pixels are in the cache."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from dataforge.augment.geometry import FILL, Shape

Pixels = NDArray[np.uint8]


def shrink_factors(matrix: NDArray[np.float64]) -> tuple[int, int]:
    """Whole numbers of (rows, columns) that are averaged before a warp that shrinks, against aliasing.

    Args:
        matrix: (3, 3) source to output pixels.
    """
    x, y = np.hypot(*matrix[:2, 0]), np.hypot(*matrix[:2, 1])
    return max(1, int(1 / y + 1e-6)), max(1, int(1 / x + 1e-6))


def shrink(pixels: Pixels, factors: tuple[int, int]) -> Pixels:
    """Average blocks of pixels; the last row and column are repeated where the size is no multiple.

    Args:
        pixels: (height, width, 3).

    Returns:
        (ceil(height / rows), ceil(width / columns), 3).
    """
    rows, columns = factors
    if factors == (1, 1):
        return pixels
    down, right = -pixels.shape[0] % rows, -pixels.shape[1] % columns
    if down or right:
        pixels = cv2.copyMakeBorder(pixels, 0, down, 0, right, cv2.BORDER_REPLICATE)  # type: ignore[assignment]
    size = (pixels.shape[1] // columns, pixels.shape[0] // rows)
    return cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)  # type: ignore[return-value]


def warp(pixels: Pixels, matrix: NDArray[np.float64], out: Shape, fill: int = FILL) -> Pixels:
    """Move an image by a matrix in one bilinear interpolation.

    Args:
        pixels: (height, width, 3) uint8.
        matrix: (3, 3) source to output pixels, edge coordinates.
        out: the output's (height, width).
        fill: the grey value outside the source.
    """
    factors = shrink_factors(matrix)
    moved = matrix @ np.diag([factors[1], factors[0], 1.0])
    pixels = shrink(pixels, factors)
    centred = moved[:2].copy()  # OpenCV counts from pixel centres, we from edges
    centred[:, 2] += moved[:2, :2] @ (0.5, 0.5) - 0.5
    return cv2.warpAffine(  # type: ignore[return-value]
        pixels, centred, (out[1], out[0]), flags=cv2.INTER_LINEAR, borderValue=(fill, fill, fill)
    )


def render(pixels: Pixels, matrix: NDArray[np.float64], colour: NDArray[np.float64] | None, out: NDArray[Any]) -> None:
    """Write an augmented image where it belongs in its batch.

    Args:
        pixels: (height, width, 3) uint8, the source.
        matrix: (3, 3) source to output pixels.
        colour: (3, 4) on (r, g, b, 1) in 0..1, or None.
        out: (H, W, 3), uint8 (then without colour) or float32, which gets 0..1.
    """
    moved = warp(pixels, matrix, (out.shape[0], out.shape[1]))
    if out.dtype == np.uint8:
        out[...] = moved
        return
    np.multiply(moved, np.float32(1 / 255), out=out)
    if colour is not None:
        cv2.transform(out, colour, dst=out)
        np.clip(out, 0, 1, out=out)
