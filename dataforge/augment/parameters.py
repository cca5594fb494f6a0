"""Augmentation parameters of a batch's images, as a pure function of (seed, epoch, record): numbers, no pixels."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import reduce
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dataforge.augment.operations import kornia
from dataforge.augment.operations.geometry import FILL, Canvas, Draw, Floats, Shape, fit_matrix
from dataforge.augment.operations.photo import COLOUR, CURVES, DAMAGE, ERASE
from dataforge.augment.operations.registry import GEOMETRY, Recipe, setting, values_of
from dataforge.rng import bits, uniform


@dataclass(frozen=True)
class KorniaStep:
    """A recipe step that kornia draws and applies.

    Attributes:
        values: the step itself.
        chosen: (n,) the records that it is applied to; seed: (n,) of the draws for each.
    """

    values: dict[str, Any]
    chosen: NDArray[np.bool_]
    seed: NDArray[np.uint64]


@dataclass(frozen=True)
class Parameters:
    """Augmentation parameters of n images.

    Attributes:
        matrix: (n, 3, 3) source pixels to output pixels, edge coordinates.
        colour: (n, 3, 4) on (r, g, b, 1) in 0..1, or None if colours are unchanged.
        curve: (n, 256) uint8, the new value of each old one, applied after `colour`; or None.
        damage: (n,) strengths by operation, 0 for none, applied to the source.
        erase: (n, 4) xyxy output pixels that are painted over at the end, empty if there are none; or None.
        seed: (n,) for the pixels' noise.
        fill: red, green, blue in 0..255 outside the source.
        kornia: steps that kornia applies to finished images, in this order; by the image's own record.
        mean, std: three numbers each, of the final normalisation; or None.
    """

    matrix: Floats
    colour: Floats | None
    curve: NDArray[np.uint8] | None = None
    damage: dict[str, Floats] = field(default_factory=dict)
    erase: NDArray[np.int64] | None = None
    seed: NDArray[np.uint64] | None = None
    fill: tuple[int, int, int] = (FILL, FILL, FILL)
    kornia: tuple[KorniaStep, ...] = ()
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None

    def images(self, rows: slice) -> Parameters:
        """Return the parameters of some of the images, as views."""
        columns = {name: getattr(self, name) for name in ("matrix", "colour", "curve", "erase", "seed")}
        return replace(
            self,
            damage={name: strength[rows] for name, strength in self.damage.items()},
            kornia=tuple(replace(step, chosen=step.chosen[rows], seed=step.seed[rows]) for step in self.kornia),
            **{name: column[rows] for name, column in columns.items() if column is not None},
        )

    @property
    def blank(self) -> list[float]:
        """Red, green, blue of the fill colour as in a floating-point image: in 0..1, or normalised."""
        levels = np.array(self.fill) / 255
        return ((levels - (self.mean or 0.0)) / (self.std or 1.0)).tolist()  # type: ignore[no-any-return]


def dice(step: dict[str, Any], place: int, seed: int, epoch: int, index: NDArray[np.int64]) -> Draw:
    """Return the random draws of a recipe step: the same for a record on every call, different for each `turn`."""

    def draw(count: int, turn: int = 0) -> Floats:
        return uniform(seed, epoch, index, f"{place} {step['op']}" + (f" {turn}" if turn else ""), count)

    return draw


def chosen(step: dict[str, Any], place: int, seed: int, epoch: int, index: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Return (n,) whether a recipe step is applied to each record."""
    p = step["p"] if "p" in step else values_of(step["op"]).get("p", (1.0,))[0]
    return uniform(seed, epoch, index, f"{place} {step['op']} p")[:, 0] < p


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
    boxes: NDArray[np.float32] | None = None,
    image: NDArray[np.int64] | None = None,
) -> Parameters:
    """Draw and compose the parameters of a batch; operations that combine records are skipped.

    Args:
        index: (n,) record numbers, which with seed and epoch determine every draw.
        height, width: (n,) source pixels.
        out: the output's (height, width).
        boxes: (s, 4) source pixels, for the operations that use them; image: (s,) their rows, ascending.
    """
    where = (np.zeros((0, 4), np.float32), np.zeros(0, np.int64)) if boxes is None or image is None else (boxes, image)
    canvas = Canvas(out, fit, fit_matrix(height, width, out, fit), np.stack([width, height], 1).astype(float), *where)
    colours: list[Floats] = []
    curves: list[NDArray[np.uint8]] = []
    found: dict[str, Any] = {"damage": {}}
    for place, step in enumerate(steps):
        name = step["op"]
        values = {key: value for key, value in step.items() if key not in ("op", "p")}
        draw = dice(step, place, seed, epoch, index)
        mine = chosen(step, place, seed, epoch, index)[:, None]
        if name in GEOMETRY:
            move = GEOMETRY[name](draw, canvas, **values)
            canvas.matrix = np.where(mine[:, :, None], move, np.eye(3)) @ canvas.matrix
        elif name in COLOUR:
            colours.append(np.where(mine[:, :, None], COLOUR[name](draw, **values), np.eye(4)))
        elif name in CURVES:
            curve = np.where(mine, CURVES[name](draw, **values), np.arange(256.0))
            curves.append(np.round(curve).clip(0, 255).astype(np.uint8))
        elif name in DAMAGE:
            found["damage"][name] = np.where(mine[:, 0], DAMAGE[name](draw, **values), 0.0)
        elif name in ERASE:
            share = np.where(mine, ERASE[name](draw, **values), 0.0)
            found["erase"] = np.round(share * ([out[1], out[0]] * 2)).astype(np.int64)
        elif name.startswith(kornia.PREFIX):
            key = bits(seed, epoch, index, f"{place} {name} kornia")[:, 0]
            found["kornia"] = (*found.get("kornia", ()), KorniaStep(step, mine[:, 0], key))
        elif name == "normalise":
            found |= setting(steps, "normalise")
    if "noise" in found["damage"]:
        found["seed"] = bits(seed, epoch, index, "pixels")[:, 0]
    red, green, blue = (round(level) for level in setting(steps, "fill").values())
    return Parameters(
        matrix=canvas.matrix,
        colour=reduce(lambda first, then: then @ first, colours)[:, :3] if colours else None,
        curve=reduce(lambda first, then: np.take_along_axis(then, first.astype(int), 1), curves) if curves else None,
        fill=(red, green, blue),
        **found,
    )
