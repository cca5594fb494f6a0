"""What letterboxing and padding waste in a plan's batches: counted from sizes alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from dataforge.augment.operations.geometry import letterboxed
from dataforge.loading.sampler import Step, box_places
from dataforge.shards.table import Table


@dataclass(frozen=True)
class Waste:
    """What a plan's batches hold, and which share of it is padding.

    Attributes:
        steps, images: how many.
        pixels: of the batches' images; padded_pixels: the share that no source pixel fills, 0..1.
        places: the batches' box places; padded_places: the share that no box fills, 0..1.
    """

    steps: int
    images: int
    pixels: int
    padded_pixels: float
    places: int
    padded_places: float


def padding_waste(table: Table, steps: Sequence[Step]) -> Waste:
    """The padding of letterboxed batches without augmentation.

    Args:
        steps: what `dataforge.loading.sampler.plan` gave for the table's sizes, or a part of it.
    """
    if not steps:
        return Waste(0, 0, 0, 0.0, 0, 0.0)
    counts = np.array([len(step.index) for step in steps])
    index = np.concatenate([step.index for step in steps])
    height, width = np.repeat(np.array([step.shape for step in steps], float), counts, axis=0).T
    high, wide = letterboxed(table.height[index], table.width[index], height, width)
    pixels = int((height * width).sum())

    boxes = np.diff(table.offsets)[index]
    most = np.maximum.reduceat(boxes, np.cumsum(counts) - counts)
    total = int(box_places(most) @ counts)
    return Waste(
        steps=len(steps),
        images=len(index),
        pixels=pixels,
        padded_pixels=max(0.0, 1 - float(high @ wide) / pixels),
        places=total,
        padded_places=1 - int(boxes.sum()) / total,
    )
