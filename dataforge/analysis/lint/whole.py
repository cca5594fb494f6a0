"""Checks of the set as a whole: rare and missing classes, and splits whose distributions differ."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from dataforge.record import Finding, Record, box_areas

RARE = 100  # a class is rare if the most frequent class has more than this many times its boxes
DIVERGENCE = 0.05  # bits (0..1) above chance; two splits with a greater divergence are reported
OCTAVES = 16  # bins of the histogram of box sizes, each up to twice the one before


@dataclass
class SplitCounts:
    """Counts of one split: images; boxes per class; boxes per octave of their side in pixels."""

    classes: NDArray[np.int64]
    images: int = 0
    octaves: NDArray[np.int64] = field(default_factory=lambda: np.zeros(OCTAVES, np.int64))

    def add(self, record: Record) -> None:
        self.images += 1
        if len(record.labels):
            side = np.sqrt(box_areas(record.boxes))
            octave = np.log2(side.clip(1)).astype(np.int64).clip(max=OCTAVES - 1)
            self.classes += np.bincount(record.labels, minlength=len(self.classes))
            self.octaves += np.bincount(octave, minlength=OCTAVES)


def to_train_on(splits: dict[str, SplitCounts]) -> str:
    """Return the split whose name begins with "train", or else the one with the most images."""
    named = [name for name in splits if name.lower().startswith("train")]
    return max(named or splits, key=lambda name: splits[name].images)


def of_set(classes: Sequence[str], splits: dict[str, SplitCounts], file: str) -> Iterator[Finding]:
    """Yield findings about the whole set, with scope "set"; their keys are names of classes or splits.

    Args:
        file: name of the set.
    """

    def noted(code: str, key: str, value: str, reason: str) -> Finding:
        return Finding("noted", code, file, key, value, reason, "set")

    total = np.sum([split.classes for split in splits.values()], axis=0)
    first = to_train_on(splits)
    most = int(total.argmax()) if len(total) else -1
    for label, name in enumerate(classes):
        if total[label] == 0:
            yield noted("class-unused", name, "", "no box has it")
            continue
        if total[label] * RARE < total[most]:
            yield noted("class-rare", name, f"{total[label]} boxes", f"{classes[most]!r} has {total[most]}")
        if splits[first].classes[label] == 0:
            yield noted("class-untrained", name, f"no box in {first}", f"{total[label]} boxes in other splits")
        for other, split in splits.items():
            if other != first and split.classes[label] == 0:
                yield noted("class-untested", name, f"no box in {other}", f"{total[label]} boxes in other splits")
    for other, split in splits.items():
        for code, one, two in (
            ("split-classes", splits[first].classes, split.classes),
            ("split-sizes", splits[first].octaves, split.octaves),
        ):
            if other == first or not one.any() or not two.any():
                continue
            bits, chance = divergence(one, two), by_chance(one, two, splits[first].images, split.images)
            if bits > DIVERGENCE + chance:
                reason = f"from {first}'s, more than {DIVERGENCE} over the {chance:.2f} of chance"
                most_of_it = _largest(code, one, two, classes)
                yield noted(code, other, f"Jensen-Shannon divergence {bits:.2f}", f"{reason}; {most_of_it}")


def divergence(one: NDArray[np.int64], two: NDArray[np.int64]) -> float:
    """Compute the Jensen-Shannon divergence of two histograms in bits, 0 (equal shares) to 1 (Lin 1991, section IV)."""
    p, q = one / one.sum(), two / two.sum()
    middle = (p + q) / 2

    def from_middle(share: NDArray[np.float64]) -> float:
        positive = share > 0
        return float((share[positive] * np.log2(share[positive] / middle[positive])).sum())

    return (from_middle(p) + from_middle(q)) / 2


def by_chance(one: NDArray[np.int64], two: NDArray[np.int64], images: int, others: int) -> float:
    """Compute twice the expected divergence, in bits, between two random splits.

    (k - 1) / (8 ln 2) * (1 / m + 1 / n) for k bins and m, n draws, from the chi-squared expansion of the divergence.
    The boxes of an image are not independent, so images count as draws. Any divergence above this is beyond chance.
    """
    bins = int(((one > 0) | (two > 0)).sum())
    return 2 * (bins - 1) / (8 * np.log(2)) * (1 / images + 1 / others)


def _largest(code: str, one: NDArray[np.int64], two: NDArray[np.int64], classes: Sequence[str]) -> str:
    """Describe the bin whose shares differ most."""
    p, q = one / one.sum(), two / two.sum()
    most = int(np.abs(p - q).argmax())
    what = classes[most] if code == "split-classes" else f"{2**most} to {2 ** (most + 1)} pixels"
    return f"most of it in {what}: {p[most]:.0%} there, {q[most]:.0%} here"
