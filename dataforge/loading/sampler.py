"""Planning of batches from records: a pure function of sizes, seed and epoch. No image is opened."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from dataforge.errors import ConfigError
from dataforge.loading.buckets import Shape, bucket, merge_small
from dataforge.rng import bits, uniform
from dataforge.shards.table import Table

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
    shuffle: bool
    drop_last: bool
    scales: tuple[float, ...]
    repeats: NDArray[np.float64] | None
    box_window: int

    def steps(self, table: Table, epoch: int) -> list[Step]:
        """Return the plan of an epoch for the records of `table`."""
        return plan(table.height, table.width, epoch=epoch, boxes=np.diff(table.offsets), **vars(self))


def repeats_of(sampling: str | NDArray[np.float64], threshold: float, table: Table) -> NDArray[np.float64] | None:
    """Return how often an epoch takes each record: `plan`'s `repeats` for `sampling` and `repeat_threshold`.

    Raises:
        ConfigError: an unknown name, a threshold of 0 or less, or an array of wrong shape or with invalid numbers.
    """
    if isinstance(sampling, str):
        if sampling == "none":
            return None
        if sampling != "repeat-factor" or not threshold > 0:
            raise ConfigError(
                f"sampling is {sampling!r}, repeat_threshold {threshold}; expected none, repeat-factor or an "
                "array of how often to take each record, and a threshold above 0"
            )
        return repeat_factors(table.labels, table.image, len(table), threshold)
    repeats = np.asarray(sampling, np.float64)
    if repeats.shape != (len(table),) or not np.isfinite(repeats).all() or (repeats < 0).any():
        raise ConfigError(
            f"sampling: an array of shape {repeats.shape}; expected ({len(table)},) finite numbers from 0 on"
        )
    return repeats


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


def repeat_factors(
    labels: NDArray[np.int32], image: NDArray[np.int64], records: int, threshold: float = 0.001
) -> NDArray[np.float64]:
    """Return how often an epoch takes each record so that rare classes are seen more often: `plan`'s `repeats`.

    LVIS (Gupta et al. 2019, 1908.03195, appendix B): max over the record's classes of max(1, sqrt(threshold / f)),
    where f is the share of records that contain the class.

    Args:
        labels, image: (S,) each box's label and record.
        threshold: the share of records below which a class is repeated.

    Returns:
        (records,) factors of at least 1.
    """
    classes = int(labels.max(initial=-1)) + 1
    pairs = np.unique(image * max(classes, 1) + labels)
    share = np.bincount(pairs % max(classes, 1), minlength=classes) / max(records, 1)
    factor = np.maximum(1.0, np.sqrt(threshold / np.maximum(share, 1e-12)))
    factors = np.ones(records)
    np.maximum.at(factors, image, factor[labels])
    return factors


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
    shuffle: bool = True,
    drop_last: bool = False,
    scales: Sequence[float] = (1.0,),
    multiple: int = 32,
    repeats: NDArray[np.float64] | None = None,
    boxes: NDArray[np.int64] | None = None,
    box_window: int = 1,
) -> list[Step]:
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
        drop_last: take full steps only. Images of a bucket that fills no step go to the nearest bucket that does.
        scales: factors of the shapes; one is drawn every 10 steps, the same for all ranks, and the sides are rounded
            to a multiple of `multiple`.
        repeats: (N,) how often an epoch takes each record on average: 0.5 is every other epoch, 0 never. An epoch's
            length is their sum, rounded.
        boxes: (N,) the records' numbers of boxes, for `box_window`.
        box_window: number of successive steps whose records are regrouped by the number of boxes, to reduce padding of
            the box places; 1 leaves them as drawn. Without `shuffle` it has no effect.

    Raises:
        ConfigError: there are fewer records, or images in a step, than ranks; or `drop_last` is set and there are fewer
            records than a step takes.
    """
    n = len(height)
    drawn = np.arange(n) if repeats is None else _repeat(repeats, seed, epoch)
    full = np.broadcast_to(np.asarray(batch_size), len(shapes))
    if len(drawn) < world:
        raise ConfigError(f"{len(drawn)} records cannot be dealt to {world} ranks; expected at least one per rank")
    if full.min() < world:
        raise ConfigError(
            f"steps of {full.min()} images cannot be dealt to {world} ranks; expected at least one per rank"
        )
    if shuffle:
        drawn = drawn[np.argsort(bits(seed, epoch, drawn, "shuffle")[:, 0], kind="stable")]
    # depends on the number of ranks only if one gets a single image
    least = full if drop_last else np.maximum(full // 2, world)
    buckets = bucket(height, width, shapes)[drawn % n]
    merge_small(buckets, shapes, least.tolist())
    steps: list[tuple[int, NDArray[np.int64]]] = []
    for b in range(len(shapes)):
        rows = drawn[buckets == b]
        sizes = _sizes(len(rows), int(full[b]), int(least[b]), drop_last)
        if shuffle and box_window > 1 and boxes is not None:
            _group(rows[: sizes.count(full[b]) * full[b]], boxes[rows % n], int(full[b]), box_window)
        ends = np.cumsum(sizes, dtype=np.int64)
        steps += [(b, rows[end - size : end]) for end, size in zip(ends, sizes, strict=True)]
    if not steps:
        needed = " or ".join(map(str, sorted(set(full.tolist()))))
        raise ConfigError(
            f"drop_last leaves no step: an epoch has {len(drawn)} records, a step of all ranks takes {needed}; "
            "expected a smaller batch size, or drop_last=False"
        )
    if shuffle and (len(shapes) > 1 or box_window > 1):
        first = np.array([part[0] for _, part in steps], np.int64)
        steps = [steps[i] for i in np.argsort(bits(seed, epoch, first, "steps")[:, 0], kind="stable")]
    scale = bits(seed, epoch, np.arange(len(steps)) // SCALE_EVERY, "scale")[:, 0] % np.uint64(len(scales))
    planned = []
    for (b, part), s in zip(steps, scale.tolist(), strict=True):
        each, more = divmod(len(part), world)
        sample = part[rank * each + min(rank, more) :][: each + (rank < more)]
        planned.append(Step(scaled(shapes[b], scales[s], multiple), sample if repeats is None else sample % n, sample))
    return planned


def _repeat(repeats: NDArray[np.float64], seed: int, epoch: int) -> NDArray[np.int64]:
    """Return sample numbers, record + N x its earlier occurrences. Systematic resampling: each record occurs as often
    as `repeats` gives, rounded up or down, and the total is always the same."""
    n = len(repeats)
    if not n:
        return np.zeros(0, np.int64)
    total = round(float(repeats.sum()))
    order = np.argsort(bits(seed, epoch, np.arange(n), "repeat order")[:, 0], kind="stable")
    edges = np.cumsum(repeats[order]) * (total / max(float(repeats.sum()), 1e-12))
    ends = np.floor(edges + uniform(seed, epoch, np.zeros(1, np.int64), "repeat")[0, 0]).astype(np.int64)
    ends = np.minimum(ends, total)
    ends[edges >= edges[-1]] = total  # against rounding: the last edges equal the total
    copies = np.zeros(n, np.int64)
    copies[order] = np.diff(ends, prepend=0)
    record = np.repeat(np.arange(n), copies)
    return record + n * (np.arange(total) - np.repeat(np.cumsum(copies) - copies, copies))


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
