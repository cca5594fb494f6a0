"""Augmentation: parameters first, for all images of a batch at once; then one executor applies them.

`parameters` gives each image one matrix from source to output pixels and one colour matrix, as a pure function of
(seed, epoch, record). `move_boxes` moves the boxes by the same matrix. The pixels are moved by `cpu.render`, image by
image inside the decode threads, or by `device.render`, a whole batch at once on the accelerator.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dataforge.augment.cpu import warp
from dataforge.augment.geometry import FILL, GEOMETRY, Shape, fit_matrix
from dataforge.augment.photo import PHOTO
from dataforge.errors import ConfigError, unknown
from dataforge.rng import uniform

__all__ = ["FILL", "FITS", "RECIPES", "Parameters", "fit_matrix", "move_boxes", "parameters", "recipe", "warp"]

FITS = ("letterbox", "stretch")
MIN_VISIBLE = 0.25

Recipe = Sequence[dict[str, Any]]
RECIPES: dict[str, Recipe] = {
    "none": (),
    "flip": ({"op": "flip"},),
    "yolo": (
        {"op": "flip"},
        {"op": "scale", "low": 0.6, "high": 1.6},
        {"op": "translate", "fraction": 0.2},
        {"op": "brightness", "strength": 0.4},
        {"op": "contrast", "strength": 0.3},
        {"op": "saturation", "strength": 0.5},
        {"op": "hue", "strength": 0.03},
    ),
}


@dataclass(frozen=True)
class Parameters:
    """What will happen to n images.

    Attributes:
        matrix: (n, 3, 3) source pixels to output pixels, edge coordinates.
        colour: (n, 3, 4) on (r, g, b, 1) in 0..1, or None where colours stay.
    """

    matrix: NDArray[np.float64]
    colour: NDArray[np.float64] | None


def recipe(augment: str | Recipe | None) -> Recipe:
    """A recipe by name, or a user's own list of `{"op": name, **values}`, checked.

    Raises:
        ConfigError: unknown name, operation or value.
    """
    if augment is None:
        return ()
    if isinstance(augment, str):
        if augment not in RECIPES:
            raise unknown("augmentation recipe", augment, RECIPES)
        return RECIPES[augment]
    for step in augment:
        name = step.get("op", "")
        if name not in GEOMETRY and name not in PHOTO:
            raise unknown("augmentation", name, [*GEOMETRY, *PHOTO])
        function = (GEOMETRY.get(name) or PHOTO[name])[0]
        known = [p.name for p in inspect.signature(function).parameters.values() if p.kind is p.KEYWORD_ONLY]
        for key, value in step.items():
            if key == "op":
                continue
            if key not in known:
                raise ConfigError(f"augmentation {name!r}: unknown value {key!r}; known: {', '.join(known)}")
            if isinstance(value, bool) or not isinstance(value, int | float):
                raise ConfigError(f"augmentation {name!r}: {key} is {value!r}; expected a number")
    return tuple(augment)


def parameters(
    steps: Recipe,
    index: NDArray[np.int64],
    height: NDArray[np.int32],
    width: NDArray[np.int32],
    out: Shape,
    *,
    fit: str = "letterbox",
    seed: int = 0,
    epoch: int = 0,
) -> Parameters:
    """Draw and compose the parameters of a batch.

    Args:
        index: (n,) record numbers, which with seed and epoch determine every draw.
        height, width: (n,) source pixels.
        out: the output's (height, width).
    """
    matrix = fit_matrix(height, width, out, fit)
    colour = None
    for place, step in enumerate(steps):
        name = step["op"]
        values = {key: value for key, value in step.items() if key != "op"}
        if name in GEOMETRY:
            move, draws = GEOMETRY[name]
            matrix = move(uniform(seed, epoch, index, f"{place} {name}", draws), out, **values) @ matrix
        else:
            tint, draws = PHOTO[name]
            found = tint(uniform(seed, epoch, index, f"{place} {name}", draws), **values)
            colour = found if colour is None else found @ colour
    return Parameters(matrix, None if colour is None else colour[:, :3])


def move_boxes(
    boxes: NDArray[np.float32], image: NDArray[np.int64], matrix: NDArray[np.float64], out: Shape, min_visible: float
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Move boxes with their images, clip them to the output, and say which are still to be used.

    Args:
        boxes: (s, 4) xyxy source pixels.
        image: (s,) each box's row in `matrix`.
        matrix: (n, 3, 3).
        min_visible: a box is kept when at least this share of the moved box's area is inside.

    Returns:
        (s, 4) boxes in output pixels (the hull of the moved corners), and (s,) whether each is kept.
    """
    moved = matrix[image]
    corners = boxes[:, [0, 1, 2, 1, 2, 3, 0, 3]].reshape(-1, 4, 2).astype(np.float64)
    points = corners @ moved[:, :2, :2].transpose(0, 2, 1) + moved[:, None, :2, 2]
    hull = np.concatenate([points.min(1), points.max(1)], 1)
    limit = np.array([out[1], out[0]] * 2, np.float64)
    inside = hull.clip(0, limit)
    whole = (hull[:, 2:] - hull[:, :2]).prod(1)
    visible = (inside[:, 2:] - inside[:, :2]).prod(1)
    keep = (visible > 0) & (visible >= min_visible * whole)
    return inside.astype(np.float32), keep
