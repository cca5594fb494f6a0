"""Padding in the batches of a plan, by letterboxing and by box places, computed from sizes alone."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from dataforge.augment.operations.geometry import letterboxed
from dataforge.loading.sampler import Step, box_places
from dataforge.shards.table import Table


@dataclass(frozen=True)
class Waste:
    """Contents of the batches of a plan, and the share of padding in them.

    Attributes:
        steps, images: their numbers.
        pixels: pixels of the images in the batches; padded_pixels: the share without a source pixel, 0..1.
        places: box places in the batches; padded_places: the share without a box, 0..1.
    """

    steps: int
    images: int
    pixels: int
    padded_pixels: float
    places: int
    padded_places: float


def padding_waste(table: Table, steps: Iterable[Step]) -> Waste:
    """Compute the padding of letterboxed batches without augmentation.

    Args:
        steps: result of `dataforge.loading.sampler.plan` for the sizes in the table, or a part of it.
    """
    steps = list(steps)
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
