"""Operations on colour and quality. Whatever their order in a recipe, they act in the order of the dicts below.

DAMAGE: what cameras and files do to the source's pixels, before they are moved; (n,) strengths, 0 for none.
COLOUR: affine maps of RGB, (n, 4, 4) on (r, g, b, 1) with colours in 0..1. They become one matrix, clipped once.
CURVES: tables (n, 256) of new values for the old, the same for all channels. They become one table.
ERASE: (n, 4) rectangles of the canvas that are painted over, in shares of its sides.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray

from dataforge.augment.operations.geometry import Draw, Factor, Floats, Share

Matrices = NDArray[np.float64]

_LUMA = np.array([0.299, 0.587, 0.114])  # ITU-R BT.601
_TO_YIQ = np.array([_LUMA, [0.596, -0.274, -0.322], [0.211, -0.523, 0.312]])
_VALUES = np.arange(256) / 255


def _between(draw: Draw, low: float, high: float) -> Floats:
    return low + (high - low) * draw(1)[:, 0]


def equalise(draw: Draw) -> Floats:
    """Spread the histogram of the brightness evenly; colours keep their hue."""
    return np.ones(len(draw(1)))


def blur(draw: Draw, *, low: Annotated[float, 0.01, 20] = 0.3, high: Annotated[float, 0.01, 20] = 1.5) -> Floats:
    """Gaussian blur; its sigma is low..high pixels of the source, once that is reduced to near the output's scale."""
    return _between(draw, low, high)


def noise(draw: Draw, *, low: Share = 0.0, high: Share = 0.05) -> Floats:
    """Gaussian noise on every channel; its sigma is low..high of full brightness."""
    return _between(draw, low, high)


def jpeg(draw: Draw, *, low: Annotated[float, 1, 100] = 30.0, high: Annotated[float, 1, 100] = 90.0) -> Floats:
    """The marks that JPEG leaves at a quality of low..high."""
    return _between(draw, low, high).round()


def _matrices(linear: NDArray[np.float64], offset: NDArray[np.float64] | float = 0.0) -> Matrices:
    matrix = np.tile(np.eye(4), (len(linear), 1, 1))
    matrix[:, :3, :3] = linear
    matrix[:, :3, 3] = np.asarray(offset).reshape(-1, 1)
    return matrix


def _factor(draw: Draw, strength: float) -> NDArray[np.float64]:
    return 1 + (2 * draw(1)[:, 0, None, None] - 1) * strength


def brightness(draw: Draw, *, strength: Share = 0.3) -> Matrices:
    """Multiply by 1 - strength .. 1 + strength."""
    return _matrices(_factor(draw, strength) * np.eye(3))


def contrast(draw: Draw, *, strength: Share = 0.3) -> Matrices:
    """Stretch about middle grey (0.5, not the image's own mean: that would need its pixels) by 1 -+ strength."""
    factor = _factor(draw, strength)
    return _matrices(factor * np.eye(3), (1 - factor) * 0.5)


def saturation(draw: Draw, *, strength: Share = 0.5) -> Matrices:
    """Blend with the image's own grey; the factor is 1 - strength .. 1 + strength."""
    factor = _factor(draw, strength)
    return _matrices(factor * np.eye(3) + (1 - factor) * _LUMA)


def hue(draw: Draw, *, strength: Share = 0.03) -> Matrices:
    """Turn the colours about the grey axis in YIQ space by up to `strength` of a full turn, either way."""
    angle = (2 * draw(1)[:, 0] - 1) * strength * 2 * np.pi
    turn = np.tile(np.eye(3), (len(angle), 1, 1))
    turn[:, 1, 1] = turn[:, 2, 2] = np.cos(angle)
    turn[:, 1, 2], turn[:, 2, 1] = -np.sin(angle), np.sin(angle)
    return _matrices(np.linalg.inv(_TO_YIQ) @ turn @ _TO_YIQ)


def gain(draw: Draw, *, strength: Share = 0.1) -> Matrices:
    """Multiply each channel by its own 1 - strength .. 1 + strength."""
    return _matrices((1 + (2 * draw(3) - 1) * strength)[:, :, None] * np.eye(3))


def grey(draw: Draw) -> Matrices:
    """No colour: three equal channels."""
    return _matrices(np.tile(_LUMA, (len(draw(1)), 3, 1)))


def gamma(draw: Draw, *, low: Factor = 0.7, high: Factor = 1.5) -> Floats:
    """Raise brightness, in 0..1, to a power of low..high, uniform in its logarithm."""
    return 255 * _VALUES ** np.exp(_between(draw, np.log(low), np.log(high)))[:, None]


def posterize(draw: Draw, *, bits: Annotated[float, 1, 8] = 4.0) -> Floats:
    """Keep the upper bits of each channel."""
    step = 2 ** (8 - int(bits))
    return np.tile(np.arange(256.0) // step * step, (len(draw(1)), 1))


def solarize(draw: Draw, *, threshold: Share = 0.5) -> Floats:
    """Invert what is at least as bright as a threshold."""
    return np.tile(255 * np.where(threshold <= _VALUES, 1 - _VALUES, _VALUES), (len(draw(1)), 1))


def erase(draw: Draw, *, low: Share = 0.02, high: Share = 0.2, aspect: Annotated[float, 1, 100] = 3.0) -> Floats:
    """Paint a rectangle over with the fill colour (random erasing, cut-out); boxes stay as they are.

    Args:
        low, high: its area as a share of the picture.
        aspect: its sides' ratio is in 1 / aspect..aspect of the picture's.
    """
    u = draw(4)
    area, ratio = low + (high - low) * u[:, 0], aspect ** (2 * u[:, 1] - 1)
    side = np.sqrt(np.stack([area * ratio, area / ratio], 1)).clip(max=1)
    corner = u[:, 2:] * (1 - side)
    return np.concatenate([corner, corner + side], 1)


DAMAGE: dict[str, Callable[..., Any]] = {"equalise": equalise, "blur": blur, "noise": noise, "jpeg": jpeg}
COLOUR: dict[str, Callable[..., Any]] = {
    "brightness": brightness,
    "contrast": contrast,
    "saturation": saturation,
    "hue": hue,
    "gain": gain,
    "grey": grey,
}
CURVES: dict[str, Callable[..., Any]] = {"gamma": gamma, "posterize": posterize, "solarize": solarize}
ERASE: dict[str, Callable[..., Any]] = {"erase": erase}
