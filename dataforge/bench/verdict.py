"""What a training waits for, in one sentence: the figures are measured elsewhere, here they are only weighed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

WAITS = 0.02  # a smaller share of the time than this is no waiting
HELPS = 1.05  # a change that gives less than this factor is none


@dataclass(frozen=True)
class Figures:
    """Images a second, but for the last two.

    Attributes:
        step: the training step alone, on a batch that is there.
        loader: the loader alone.
        together: a training with both at work.
        threads: the loader's.
        waited: the share of a training's time that it waits for a batch, 0..1.
        costs: seconds an image that each of "read", "decode", "resize" and "augment" takes on all threads.
        changes: what could be changed -> images a second of the loader with it.
    """

    step: float
    loader: float
    together: float
    threads: int
    waited: float
    costs: Mapping[str, float]
    changes: Mapping[str, float]


def verdict(found: Figures) -> str:
    """The cause, the figures, and the one change that helps most."""
    threads = f"{found.threads} thread{'s' if found.threads > 1 else ''}"
    have = (
        f"{threads} deliver{'' if found.threads > 1 else 's'} {_number(found.loader)} img/s, "
        f"the step takes {_number(found.step)}"
    )
    have += f", and together they reach {_number(found.together)}"
    if found.waited <= WAITS:
        return f"step-bound: {have}, waiting {found.waited:.1%} of the time"
    cause = max(found.costs, key=lambda name: found.costs[name])
    text = f"{cause}-bound: {have}, waiting {found.waited:.0%}"
    best = max(found.changes, key=lambda name: found.changes[name], default="")
    if best and found.changes[best] >= HELPS * found.loader:
        return f"{text} of the time; {best} gives {_number(found.changes[best])}"
    tried = ", ".join(f"{name} {_number(value)}" for name, value in found.changes.items())
    return f"{text} of the time; nothing that was tried gives more ({tried or 'nothing could be tried'})"


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 10 else f"{value:.2g}"
