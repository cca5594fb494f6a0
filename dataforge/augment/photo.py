"""Operations on colour, each as one affine map of RGB an image.

A function gets uniform numbers `u` (n, draws) and returns (n, 4, 4) matrices on (r, g, b, 1), colours in 0..1. They
are composed into one, and the result is clipped once.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Matrices = NDArray[np.float64]
Uniform = NDArray[np.float64]

_LUMA = np.array([0.299, 0.587, 0.114])  # ITU-R BT.601
_TO_YIQ = np.array([_LUMA, [0.596, -0.274, -0.322], [0.211, -0.523, 0.312]])


def _matrices(linear: NDArray[np.float64], offset: NDArray[np.float64] | float = 0.0) -> Matrices:
    matrix = np.tile(np.eye(4), (len(linear), 1, 1))
    matrix[:, :3, :3] = linear
    matrix[:, :3, 3] = np.asarray(offset).reshape(-1, 1)
    return matrix


def _factor(u: Uniform, strength: float) -> NDArray[np.float64]:
    return 1 + (2 * u[:, 0, None, None] - 1) * strength


def brightness(u: Uniform, *, strength: float = 0.3) -> Matrices:
    """Multiply by 1 - strength .. 1 + strength."""
    return _matrices(_factor(u, strength) * np.eye(3))


def contrast(u: Uniform, *, strength: float = 0.3) -> Matrices:
    """Stretch about middle grey (0.5, not the image's own mean: that would need its pixels) by 1 -+ strength."""
    factor = _factor(u, strength)
    return _matrices(factor * np.eye(3), (1 - factor) * 0.5)


def saturation(u: Uniform, *, strength: float = 0.5) -> Matrices:
    """Blend with the image's own grey; the factor is 1 - strength .. 1 + strength."""
    factor = _factor(u, strength)
    return _matrices(factor * np.eye(3) + (1 - factor) * _LUMA)


def hue(u: Uniform, *, strength: float = 0.03) -> Matrices:
    """Turn the colours about the grey axis in YIQ space by up to `strength` of a full turn, either way."""
    angle = (2 * u[:, 0] - 1) * strength * 2 * np.pi
    turn = np.tile(np.eye(3), (len(u), 1, 1))
    turn[:, 1, 1] = turn[:, 2, 2] = np.cos(angle)
    turn[:, 1, 2], turn[:, 2, 1] = -np.sin(angle), np.sin(angle)
    return _matrices(np.linalg.inv(_TO_YIQ) @ turn @ _TO_YIQ)


PHOTO: dict[str, tuple[Callable[..., Matrices], int]] = {  # name: how, draws
    "brightness": (brightness, 1),
    "contrast": (contrast, 1),
    "saturation": (saturation, 1),
    "hue": (hue, 1),
}
