"""A one-sentence verdict on what a training waits for, from figures measured elsewhere."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

WAITS = 0.02  # a smaller share of the time does not count as waiting
HELPS = 1.05  # a change with a smaller factor is ignored


@dataclass(frozen=True)
class Figures:
    """Measured figures: images per second, except as stated.

    Attributes:
        step: the training step alone, on a prepared batch.
        loader: the loader alone.
        together: a training with both.
        threads: number of threads of the loader.
        waited: share of the training time spent waiting for a batch, 0..1.
        costs: seconds per image of each of "read", "decode", "resize" and "augment", on all threads.
        changes: possible change -> images per second of the loader with it.
    """

    step: float
    loader: float
    together: float
    threads: int
    waited: float
    costs: Mapping[str, float]
    changes: Mapping[str, float]


def verdict(figures: Figures) -> str:
    """Return the cause, the figures, and the change that helps most."""
    threads = f"{figures.threads} thread{'s' if figures.threads > 1 else ''}"
    have = (
        f"{threads} deliver{'' if figures.threads > 1 else 's'} {_number(figures.loader)} img/s, "
        f"the step takes {_number(figures.step)}"
    )
    have += f", and together they reach {_number(figures.together)}"
    if figures.waited <= WAITS:
        return f"step-bound: {have}, waiting {figures.waited:.1%} of the time"
    cause = max(figures.costs, key=lambda name: figures.costs[name])
    text = f"{cause}-bound: {have}, waiting {figures.waited:.0%}"
    best = max(figures.changes, key=lambda name: figures.changes[name], default="")
    if best and figures.changes[best] >= HELPS * figures.loader:
        return f"{text} of the time; {best} gives {_number(figures.changes[best])}"
    tried = ", ".join(f"{name} {_number(value)}" for name, value in figures.changes.items())
    return f"{text} of the time; nothing that was tried gives more ({tried or 'nothing could be tried'})"


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 10 else f"{value:.2g}"
