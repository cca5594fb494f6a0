"""Operations that move pixels and boxes, each as one 3x3 matrix an image.

A function gets uniform numbers `u` (n, draws) and the output's (height, width), and returns (n, 3, 3) matrices from
output pixels to output pixels, in edge coordinates. They are composed before any pixel is touched.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Matrices = NDArray[np.float64]
Uniform = NDArray[np.float64]
Shape = tuple[int, int]
FILL = 114  # grey that fills what lies outside the source image


def fit_matrix(
    height: NDArray[np.int32] | int, width: NDArray[np.int32] | int, out: Shape, fit: str = "letterbox"
) -> Matrices:
    """Source pixels to output pixels.

    Args:
        height, width: (n,) or a single number, of the source.
        fit: "letterbox" keeps the aspect ratio and centres the image; "stretch" fills the output.

    Returns:
        (n, 3, 3), or (3, 3) for single numbers.
    """
    y, x = out[0] / np.asarray(height, float), out[1] / np.asarray(width, float)
    if fit == "letterbox":
        y = x = np.minimum(x, y)
    matrix = np.zeros((*np.shape(y), 3, 3))
    matrix[..., 0, 0], matrix[..., 1, 1], matrix[..., 2, 2] = x, y, 1
    matrix[..., 0, 2] = (out[1] - x * width) / 2
    matrix[..., 1, 2] = (out[0] - y * height) / 2
    return matrix


def _about_centre(x: NDArray[np.float64], y: NDArray[np.float64], out: Shape) -> Matrices:
    matrix = np.zeros((len(x), 3, 3))
    matrix[:, 0, 0], matrix[:, 1, 1], matrix[:, 2, 2] = x, y, 1
    matrix[:, 0, 2], matrix[:, 1, 2] = (1 - x) * out[1] / 2, (1 - y) * out[0] / 2
    return matrix


def flip(u: Uniform, out: Shape, *, p: float = 0.5) -> Matrices:
    """Mirror left and right with probability p."""
    return _about_centre(np.where(u[:, 0] < p, -1.0, 1.0), np.ones(len(u)), out)


def scale(u: Uniform, out: Shape, *, low: float = 0.5, high: float = 1.5) -> Matrices:
    """Zoom about the centre by a factor between low and high, uniform in its logarithm."""
    factor = np.exp(np.log(low) + u[:, 0] * np.log(high / low))
    return _about_centre(factor, factor, out)


def translate(u: Uniform, out: Shape, *, fraction: float = 0.1) -> Matrices:
    """Shift by up to a fraction of the output's sides, either way."""
    matrix = np.tile(np.eye(3), (len(u), 1, 1))
    matrix[:, :2, 2] = (2 * u - 1) * fraction * (out[1], out[0])
    return matrix


def crop(u: Uniform, out: Shape, *, area: float = 0.5, aspect: float = 4 / 3, p: float = 1.0) -> Matrices:
    """Stretch a random part of the picture over all of it.

    Args:
        area: the smallest share of the picture that is kept.
        aspect: the part's aspect ratio is changed by up to this factor, either way.
        p: probability.
    """
    share = area + (1 - area) * u[:, 0]
    ratio = aspect ** (2 * u[:, 1] - 1)
    x, y = np.minimum(np.sqrt(share * ratio), 1), np.minimum(np.sqrt(share / ratio), 1)
    keep = u[:, 4] >= p
    x, y = np.where(keep, 1.0, x), np.where(keep, 1.0, y)
    matrix = np.zeros((len(u), 3, 3))
    matrix[:, 0, 0], matrix[:, 1, 1], matrix[:, 2, 2] = 1 / x, 1 / y, 1
    matrix[:, 0, 2], matrix[:, 1, 2] = -u[:, 2] * (1 - x) / x * out[1], -u[:, 3] * (1 - y) / y * out[0]
    return matrix


GEOMETRY: dict[str, tuple[Callable[..., Matrices], int]] = {  # name: how, draws
    "flip": (flip, 1),
    "scale": (scale, 1),
    "translate": (translate, 2),
    "crop": (crop, 5),
}
