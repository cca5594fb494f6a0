"""Which records make up which batch: a pure function of sizes, seed and epoch. No image is opened to plan."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dataforge.errors import ConfigError
from dataforge.rng import bits

Shape = tuple[int, int]


@dataclass(frozen=True, eq=False)
class Step:
    """One rank's part of a step.

    Attributes:
        shape: (height, width) of the batch's images.
        index: (B,) record numbers.
    """

    shape: Shape
    index: NDArray[np.int64]


def bucket(height: NDArray[np.int32], width: NDArray[np.int32], shapes: Sequence[Shape]) -> NDArray[np.int64]:
    """For each image the shape whose aspect ratio is nearest (by the ratio of ratios).

    Args:
        height, width: (N,) pixels.

    Returns:
        (N,) numbers into `shapes`.
    """
    image = np.log(width / height)
    return np.abs(image[:, None] - np.log([w / h for h, w in shapes])).argmin(1)


def plan(
    height: NDArray[np.int32],
    width: NDArray[np.int32],
    shapes: Sequence[Shape],
    batch_size: int,
    *,
    seed: int = 0,
    epoch: int = 0,
    rank: int = 0,
    world: int = 1,
    shuffle: bool = True,
    drop_last: bool = False,
    scales: Sequence[float] = (1.0,),
    scale_every: int = 10,
    multiple: int = 32,
) -> list[Step]:
    """Deal an epoch's records out to steps and ranks.

    Every record comes once an epoch, and every rank takes the same number of steps, each with at least one image. A
    step's images share one bucket. Only `drop_last` leaves records out: those that do not fill a step.

    Args:
        height, width: (N,) pixels of the records.
        shapes: the buckets' (height, width).
        batch_size: images of one rank in a full step; with 1, a bucket's last step may hold 2 on some ranks.
        scales: factors of the shapes; one is drawn every `scale_every` steps, the same for all ranks, and the sides
            are rounded to a multiple of `multiple`.

    Raises:
        ConfigError: fewer records than ranks.
    """
    n = len(height)
    if n < world:
        raise ConfigError(f"{n} records cannot be dealt to {world} ranks")
    records = np.arange(n)
    order = np.argsort(bits(seed, epoch, records, "shuffle")[:, 0], kind="stable") if shuffle else records
    buckets = bucket(height, width, shapes)
    _merge_small(buckets, shapes, world)
    steps: list[tuple[int, NDArray[np.int64]]] = []
    for b in range(len(shapes)):
        rows = order[buckets[order] == b]
        cuts = np.arange(batch_size * world, len(rows), batch_size * world)
        if len(cuts) and len(rows) - cuts[-1] < world:  # too few for the last step: no rank may be without an image
            if batch_size > 1:
                cuts[-1] = len(rows) - world  # it borrows from the step before
            else:
                cuts = cuts[:-1]  # that step takes them too
        parts = np.split(rows, cuts) if len(rows) else []
        if drop_last:
            parts = [part for part in parts if len(part) == batch_size * world]
        steps += [(b, part) for part in parts]
    if shuffle and len(shapes) > 1:
        first = np.array([part[0] for _, part in steps], np.int64)
        steps = [steps[i] for i in np.argsort(bits(seed, epoch, first, "steps")[:, 0], kind="stable")]
    drawn = bits(seed, epoch, np.arange(len(steps)) // scale_every, "scale")[:, 0] % np.uint64(len(scales))
    return [
        Step(_scaled(shapes[b], scales[int(s)], multiple), np.array_split(part, world)[rank])
        for (b, part), s in zip(steps, drawn, strict=True)
    ]


def _merge_small(buckets: NDArray[np.int64], shapes: Sequence[Shape], world: int) -> None:
    """Move the records of a bucket that cannot give every rank an image to the next nearest one that holds any."""
    ratio = np.log([w / h for h, w in shapes])
    while len(shapes) > 1:
        counts = np.bincount(buckets, minlength=len(shapes))
        small = np.flatnonzero((counts > 0) & (counts < world))
        if not len(small):
            return
        distance = np.where(counts > 0, np.abs(ratio - ratio[small[0]]), np.inf)
        distance[small[0]] = np.inf
        buckets[buckets == small[0]] = distance.argmin()


def _scaled(shape: Shape, scale: float, multiple: int) -> Shape:
    if scale == 1.0:
        return shape
    h, w = (max(multiple, round(side * scale / multiple) * multiple) for side in shape)
    return h, w
