"""Planning of batches from records: a pure function of sizes, seed and epoch. No image is opened."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from dataforge.errors import ConfigError
from dataforge.loading.buckets import Shape, bucket, merge_small
from dataforge.loading.repeats import samples_of
from dataforge.loading.shuffle import Windows, spread, window_of
from dataforge.rng import bits
from dataforge.shards.table import Table
from dataforge.threads import cached_property

SCALE_EVERY = 10  # steps that share a drawn scale


@dataclass(frozen=True, eq=False)
class Step:
    """One rank's part of a step.

    Attributes:
        shape: (height, width) of the batch's images.
        index: (B,) record numbers.
        sample: (B,) numbers that seed augmentation: the record's number, and a different number each further time that
            an epoch takes the record.
    """

    shape: Shape
    index: NDArray[np.int64]
    sample: NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Order:
    """Settings that assign a loader's records to steps. The fields are the arguments of `plan` of the same names."""

    shapes: Sequence[Shape]
    batch_size: Sequence[int]
    seed: int
    rank: int
    world: int
    shuffle: bool | str
    drop_last: bool
    scales: tuple[float, ...]
    repeats: NDArray[np.float64] | None
    box_window: int

    def steps(self, table: Table, epoch: int) -> Epoch:
        """Return the plan of an epoch for the records of `table`."""
        boxes = np.diff(table.offsets) if self.box_window > 1 else None
        return plan(table.height, table.width, epoch=epoch, boxes=boxes, **vars(self))


def images_within(shape: Shape, budget: int | Fraction, world: int, scales: Sequence[float]) -> int:
    """Return how many images of a shape a step of all ranks takes.

    Args:
        budget: pixels of one rank, at the largest of the scales. Ranks that share the budget of one process get the
            same steps as that process: so it may be a fraction, and is multiplied by the ranks before it is divided.

    Raises:
        ConfigError: less than one image.
    """
    largest = max(h * w for h, w in (scaled(shape, scale) for scale in scales))
    if budget < largest:
        raise ConfigError(f"budget {budget}; expected at least the {largest} pixels of one image")
    return int(budget * world // largest)


def box_places(counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the number of box places per image: 8, 16, 32, ..., so that few distinct shapes occur.

    Args:
        counts: (n,) numbers of boxes.
    """
    return np.int64(1) << np.ceil(np.log2(np.maximum(counts, 8))).astype(np.int64)


def plan(
    height: NDArray[np.int32],
    width: NDArray[np.int32],
    shapes: Sequence[Shape],
    batch_size: int | Sequence[int],
    *,
    seed: int = 0,
    epoch: int = 0,
    rank: int = 0,
    world: int = 1,
    shuffle: bool | str = True,
    drop_last: bool = False,
    scales: Sequence[float] = (1.0,),
    multiple: int = 32,
    repeats: NDArray[np.float64] | None = None,
    boxes: NDArray[np.int64] | None = None,
    box_window: int = 1,
) -> Epoch:
    """Assign an epoch's records to steps and ranks.

    Every record occurs once per epoch (with `repeats`, as often as these give), and every rank takes the same number of
    steps, each with at least one image. A step's images share one bucket. Only `drop_last` leaves records out: those
    that do not fill a step. The ranks' parts of a step, concatenated, are the same for any number of ranks, if each
    gets 2 images of a full step or more.

    Args:
        height, width: (N,) pixels of the records.
        shapes: the buckets' (height, width).
        batch_size: images of a full step, over all ranks, one number or one per bucket. A rank gets its share, rounded
            down or up; if that is 1, a bucket's last step may have 2 on some ranks.
        shuffle: "window:N" deals windows of N records, as `shuffle.Windows`, each as if it were an epoch: so with
            several buckets, each may have steps that are not full. N is rounded down to a multiple of a full step.
        drop_last: take full steps only. Images of a bucket that fills no step go to the nearest bucket that does.
        scales: factors of the shapes; one is drawn every 10 steps, the same for all ranks, and the sides are rounded
            to a multiple of `multiple`.
        repeats: (N,) how often an epoch takes each record on average: 0.5 is every other epoch, 0 never. An epoch's
            length is their sum, rounded.
        boxes: (N,) the records' numbers of boxes, for `box_window`.
        box_window: number of successive steps whose records are regrouped by the number of boxes, to reduce padding of
            the box places; 1 leaves them as drawn. Without `shuffle` it has no effect.

    Raises:
        ConfigError: there are fewer records, or images in a step, than ranks; `drop_last` is set and there are fewer
            records than a step takes; or a window has fewer than a step of each bucket takes.
    """
    drawn = None if repeats is None else samples_of(repeats, seed, epoch)
    total = len(height) if drawn is None else len(drawn)
    full = np.broadcast_to(np.asarray(batch_size), len(shapes))
    if total < world:
        raise ConfigError(f"{total} records cannot be dealt to {world} ranks; expected at least one per rank")
    if full.min() < world:
        raise ConfigError(
            f"steps of {full.min()} images cannot be dealt to {world} ranks; expected at least one per rank"
        )
    size, needed = window_of(shuffle), int(full.sum())
    if size is not None and size < needed:
        raise ConfigError(f"shuffle is {shuffle!r}; expected at least a full step of each shape, {needed} images")
    if size is not None:
        size -= size % needed
        if drawn is not None:
            drawn.sort()  # the first occurrence of each record, in their order, then the second ones, ...
    planned = Epoch(
        height=height,
        width=width,
        boxes=boxes if shuffle and box_window > 1 else None,
        shapes=shapes,
        full=full.tolist(),
        # depends on the number of ranks only if one gets a single image
        least=(full if drop_last else np.maximum(full // 2, world)).tolist(),
        drawn=drawn,
        windows=Windows(total, size, seed, epoch),
        rank=rank,
        world=world,
        shuffle=bool(shuffle),
        drop_last=drop_last,
        scales=scales,
        multiple=multiple,
        box_window=box_window,
    )
    if drop_last and len(planned.windows) == 1 and not len(planned):
        numbers = " or ".join(map(str, sorted(set(full.tolist()))))
        raise ConfigError(
            f"drop_last leaves no step: an epoch has {total} records, a step of all ranks takes {numbers}; "
            "expected a smaller batch size, or drop_last=False"
        )
    return planned


@dataclass(frozen=True, eq=False)
class Epoch:
    """The steps of an epoch for one rank, which `plan` returns. Each window is dealt when its first step is needed.

    Attributes: those of `plan`, and
        full, least: per bucket, images of a full step over all ranks, and the least of one that is not full.
        drawn: the sample numbers that the windows' numbers stand for; None if they are the same.
    """

    height: NDArray[np.int32]
    width: NDArray[np.int32]
    boxes: NDArray[np.int64] | None
    shapes: Sequence[Shape]
    full: list[int]
    least: list[int]
    drawn: NDArray[np.int64] | None
    windows: Windows
    rank: int
    world: int
    shuffle: bool
    drop_last: bool
    scales: Sequence[float]
    multiple: int
    box_window: int

    def __len__(self) -> int:
        """Return the number of steps. With windows and several buckets it takes a pass over all sizes."""
        return int(self._ends[-1])

    def __iter__(self) -> Iterator[Step]:
        return chain.from_iterable(self.dealt())

    def dealt(self, first: int = 0) -> Iterator[list[Step]]:
        """Yield the steps from number `first` on, those of a window at a time."""
        window = int(np.searchsorted(self._ends, first, "right")) if first else 0
        start = int(self._ends[window - 1]) if window else 0
        for number in range(window, len(self.windows)):
            steps = self._deal(number, start)
            yield steps[max(0, first - start) :]
            start += len(steps)

    @cached_property
    def _ends(self) -> NDArray[np.int64]:
        """(windows,) how many steps there are up to the end of each window."""
        count = len(self.windows)
        if len(self.shapes) > 1:
            return np.cumsum([sum(map(len, self._divide(self._samples(window)[1])[1])) for window in range(count)])
        start, end = self.windows.bounds(count - 1)
        steps = np.full(count, (self.windows.size or 0) // self.full[0])
        steps[-1] = len(_sizes(end - start, self.full[0], self.least[0], self.drop_last))
        return np.cumsum(steps)

    def _samples(self, window: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return the sample and record numbers of a window."""
        samples = self.windows.samples(window)
        samples = samples if self.drawn is None else self.drawn[samples]
        return samples, samples if self.drawn is None else samples % len(self.height)

    def _divide(self, record: NDArray[np.int64]) -> tuple[NDArray[np.int64], list[list[int]]]:
        """Return the bucket of each record of a window if there are several, and the images of each bucket's steps."""
        buckets, counts = np.zeros(0, np.int64), [len(record)]  # of one bucket
        if len(self.shapes) > 1:
            buckets = bucket(self.height[record], self.width[record], self.shapes)
            merge_small(buckets, self.shapes, self.least)
            counts = np.bincount(buckets, minlength=len(self.shapes)).tolist()
        return buckets, [_sizes(*each, self.drop_last) for each in zip(counts, self.full, self.least, strict=True)]

    def _deal(self, window: int, start: int) -> list[Step]:
        """Return the steps of a window, the first of which is number `start` of the epoch."""
        samples, record = self._samples(window)
        buckets, sizes = self._divide(record)
        seed, epoch = self.windows.seed, self.windows.epoch
        order = np.arange(len(samples))
        if self.shuffle:
            order = np.argsort(bits(seed, epoch, samples, "shuffle")[:, 0], kind="stable")
        steps: list[tuple[Shape, NDArray[np.int64]]] = []
        for b, shape in enumerate(self.shapes):
            rows, full = (order if len(self.shapes) == 1 else order[buckets[order] == b]), self.full[b]
            whole = rows[: sizes[b].count(full) * full]
            if len(self.windows) > 1:
                spread(whole, full)
            if self.boxes is not None:
                _group(whole, self.boxes[record[whole]], full, self.box_window)
            ends = np.cumsum(sizes[b], dtype=np.int64)
            steps += [(shape, rows[end - size : end]) for end, size in zip(ends, sizes[b], strict=True)]
        if self.shuffle and (len(self.shapes) > 1 or self.box_window > 1):
            first = samples[np.array([rows[0] for _, rows in steps], np.int64)]
            steps = [steps[i] for i in np.argsort(bits(seed, epoch, first, "steps")[:, 0], kind="stable")]
        drawn = (start + np.arange(len(steps))) // SCALE_EVERY
        scale = bits(seed, epoch, drawn, "scale")[:, 0] % np.uint64(len(self.scales))
        planned = []
        for (shape, rows), s in zip(steps, scale.tolist(), strict=True):
            each, more = divmod(len(rows), self.world)
            if len(self.windows) > 1:
                rows.sort()  # by part, see `spread`
            part = samples[rows[self.rank * each + min(self.rank, more) :][: each + (self.rank < more)]]
            index = part if self.drawn is None else part % len(self.height)
            planned.append(Step(scaled(shape, self.scales[s], self.multiple), index, part))
        return planned


def _sizes(count: int, full: int, least: int, drop_last: bool) -> list[int]:
    """Return how many records each step of a bucket takes, over all ranks."""
    sizes, rest = [full] * (count // full), count % full
    if drop_last or not rest:
        return sizes
    if not sizes or rest >= least:
        return [*sizes, rest]
    if full - (least - rest) >= least:  # every rank needs an image: the last step borrows
        return [*sizes[:-1], full - (least - rest), least]
    return [*sizes[:-1], full + rest]


def _group(rows: NDArray[np.int64], boxes: NDArray[np.int64], full: int, window: int) -> None:
    """Regroup the rows of full steps in place: within each window, put those with most box places together."""
    for start in range(0, len(rows), window * full):
        part = slice(start, min(start + window * full, len(rows)))
        order = np.argsort(-box_places(boxes[part]), kind="stable").reshape(-1, full)
        rows[part] = rows[part][np.sort(order, axis=1).ravel()]  # inside a step as drawn: no rank gets all the boxes


def scaled(shape: Shape, scale: float, multiple: int = 32) -> Shape:
    """Return a shape times a factor, its sides rounded to a multiple; unchanged by a factor of 1."""
    if scale == 1.0:
        return shape
    h, w = (max(multiple, round(side * scale / multiple) * multiple) for side in shape)
    return h, w
