"""What a recipe says beside its operations: which boxes stay, the fill colour, normalisation."""

from __future__ import annotations

from typing import Annotated

from dataforge.augment.move import MIN_VISIBLE
from dataforge.augment.operations.geometry import FILL, Share

Level = Annotated[float, 0, 255]


def keep(*, visible: Share = MIN_VISIBLE, centre: bool = False, min_size: float = 0.0) -> None:
    """Which moved boxes are used: at least this share of the box is seen, its centre is seen, its sides have at least
    so many pixels."""


def fill(*, red: Level = FILL, green: Level = FILL, blue: Level = FILL) -> None:
    """The colour, in 0..255, of what lies outside the source image."""


def normalise(
    *, mean: tuple[float, ...] = (0.485, 0.456, 0.406), std: tuple[float, ...] = (0.229, 0.224, 0.225)
) -> None:
    """Subtract the mean and divide by the standard deviation of each channel, in 0..1; not for detectors that do so."""
