"""Legend: B images, P parts (B where no records are combined), M box places per image.

Layout of a window of steps at once. NumPy's calls cost most of the time for the few numbers of one step.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dataforge.augment.executors import antialias
from dataforge.augment.layout import Layout, lay_out
from dataforge.augment.operations.registry import Recipe
from dataforge.loading.batch import pad_each
from dataforge.loading.sampler import Step
from dataforge.shards.reader import Shards
from dataforge.shards.table import Table

Ints = NDArray[np.int64]
Matrices = NDArray[np.float64]

FIRST, MOST = 4, 64  # steps of the first window, for which the first batch waits, and of the largest
ROWS = 1 << 13  # records and boxes of a window: `iou_crop` takes 50 numbers for each box


@dataclass(frozen=True, eq=False)
class Plan:
    """A batch except for its images.

    Attributes:
        step: its records and its shape.
        layout: what is painted where, and how.
        record: (P,) record number of each part; reduce: (P,) factor by which it is decoded smaller.
        size: (P, 2) height and width as decoded.
        matrix: (P, 3, 3) decoded pixels to pixels of the part's region.
        inner: (P, 4) xyxy where the region takes decoded pixels unchanged; the first is -1 where it does not.
        boxes (B, M, 4), labels (B, M), flags (B, M), affine (B, 3, 3), index (B,): of the `Batch`.
    """

    step: Step
    layout: Layout
    record: Ints
    reduce: Ints
    size: Ints
    matrix: Matrices
    inner: Ints
    boxes: Tensor
    labels: Tensor
    flags: Tensor
    affine: Tensor
    index: Tensor


def windows(steps: Sequence[Step], table: Table) -> Iterator[list[Step]]:
    """Split steps into windows, small ones first."""
    window: list[Step] = []
    rows, most = 0, FIRST
    for step in steps:
        more = len(step.index) + int((table.offsets[step.index + 1] - table.offsets[step.index]).sum())
        if window and (len(window) == most or rows + more > ROWS):
            yield window
            window, rows, most = [], 0, min(2 * most, MOST)
        window.append(step)
        rows += more
    if window:
        yield window


def lay_out_steps(
    steps: Sequence[Step],
    shards: Shards,
    recipe: Recipe,
    *,
    fit: str,
    seed: int,
    epoch: int,
    min_visible: float | None,
) -> list[Plan]:
    """Lay out the batches of some steps: for each the same as if it were laid out alone."""
    plans: dict[Step, Plan] = {}
    for shape in {step.shape for step in steps}:
        alike = [step for step in steps if step.shape == shape]
        layout = lay_out(
            recipe,
            np.concatenate([step.sample for step in alike]),
            shards.table,
            shape,
            fit=fit,
            seed=seed,
            epoch=epoch,
            min_visible=min_visible,
        )
        plans.update(zip(alike, _plans(alike, layout, shards, not recipe), strict=True))
    return [plans[step] for step in steps]


def _plans(steps: Sequence[Step], layout: Layout, shards: Shards, unchanged: bool) -> Iterator[Plan]:
    """Yield the plans of steps of one shape, given their layout; `unchanged` says that there is no recipe."""
    index, table, shape = np.concatenate([step.index for step in steps]), shards.table, steps[0].shape
    record = layout.parts.record % len(table)
    size = np.stack([table.height[record], table.width[record]], 1).astype(np.int64)
    reduce = _reductions(shrink_factors(layout.parameters.matrix, size))
    size = -(-size // reduce[:, None])
    matrix = antialias.from_blocks(layout.parameters.matrix, reduce[:, None].repeat(2, 1))
    matrix[:, :2] -= layout.parts.region[:, :2, None] * matrix[:, 2:]
    inner = _inner(matrix, size, shape) if unchanged else np.full((len(record), 4), -1)
    affine = (layout.affine @ shards.to_stored(index)).astype(np.float32)
    counts = [len(step.index) for step in steps]
    padded = pad_each(counts, layout.offsets, layout.boxes, layout.labels, layout.flags)
    end = 0
    for step, count, (boxes, labels, flags) in zip(steps, counts, padded, strict=True):
        images, end = slice(end, end + count), end + count
        parts = slice(int(layout.first[images.start]), int(layout.first[end]))
        yield Plan(
            step=step,
            layout=layout.images(images),
            record=record[parts],
            reduce=reduce[parts],
            size=size[parts],
            matrix=matrix[parts],
            inner=inner[parts],
            boxes=boxes,
            labels=labels,
            flags=flags,
            affine=torch.from_numpy(affine[images]),
            index=torch.from_numpy(index[images]),
        )


def shrink_factors(matrix: Matrices, size: Ints) -> Ints:
    """Return (P, 2) `antialias.shrink_factors` of P images."""
    factors = np.ones((len(matrix), 2), np.int64)
    scaled = (matrix[:, :2, :2] != np.eye(2)).any((1, 2)) | (matrix[:, 2] != [0, 0, 1]).any(1)
    for i in np.flatnonzero(scaled).tolist():
        factors[i] = antialias.shrink_factors(matrix[i], size[i].tolist())
    return factors


def _reductions(factors: Ints) -> Ints:
    """Return (P,) 1, 2, 4 or 8: how much smaller to decode images that are then averaged by (P, 2) factors."""
    exponent = np.floor(np.log2(factors.min(1)) + 1e-9).astype(np.int64)
    return np.int64(1) << np.minimum(exponent, 3)


def _inner(matrix: Matrices, size: Ints, shape: tuple[int, int]) -> Ints:
    """Return (P, 4) xyxy of images of (P, 2) sizes that are only shifted by whole pixels and not cut; else -1."""
    region = np.concatenate([matrix[:, :2, 2], matrix[:, :2, 2] + size[:, ::-1]], 1)
    shifted = (matrix[:, :2, :2] == np.eye(2)).all((1, 2)) & (region[:, :2] % 1 == 0).all(1)
    inside = (region[:, :2] >= 0).all(1) & (region[:, 2:] <= shape[::-1]).all(1)
    return np.where((shifted & inside)[:, None], region, -1).astype(np.int64)
