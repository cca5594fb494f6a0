"""Layout of a batch: which records are painted where and how, and which boxes it has, without pixels."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dataforge.augment.move import move_boxes
from dataforge.augment.operations.geometry import Floats, Shape
from dataforge.augment.operations.mix import MIXERS, Partners, Parts, single
from dataforge.augment.operations.registry import Recipe, setting
from dataforge.augment.parameters import Parameters, chosen, dice, parameters


@dataclass(frozen=True)
class Layout:
    """n images made of P parts (P = n if no records are combined).

    Attributes:
        parts: in the order of painting; an image's own record is its first part.
        first: (n + 1,) image i has the parts first[i]:first[i + 1].
        parameters: of the P parts; their matrices map to output pixels.
        offsets: (n + 1,) image i has the boxes offsets[i]:offsets[i + 1].
        boxes: (s, 4) xyxy output pixels; labels: (s,), -1 for a dropped box; flags: (s,).
    """

    parts: Parts
    first: NDArray[np.int64]
    parameters: Parameters
    offsets: NDArray[np.int64]
    boxes: NDArray[np.float32]
    labels: NDArray[np.int64]
    flags: NDArray[np.uint8]

    @property
    def affine(self) -> Floats:
        """(n, 3, 3) source pixels of each image's own record to output pixels."""
        return self.parameters.matrix[self.first[:-1]]

    def images(self, rows: slice) -> Layout:
        """Return the layout of some of the images, as views."""
        first, offsets = (each[rows.start : rows.stop + 1] for each in (self.first, self.offsets))
        part, box = (slice(int(each[0]), int(each[-1])) for each in (first, offsets))
        parts = {name: value[part] for name, value in vars(self.parts).items()}
        return Layout(
            parts=Parts(**parts | {"owner": parts["owner"] - rows.start}),
            first=first - part.start,
            parameters=self.parameters.images(part),
            offsets=offsets - box.start,
            boxes=self.boxes[box],
            labels=self.labels[box],
            flags=self.flags[box],
        )


def lay_out(
    steps: Recipe,
    index: NDArray[np.int64],
    table: Any,
    out: Shape,
    *,
    fit: str = "letterbox",
    seed: int = 0,
    epoch: int = 0,
    min_visible: float | None = None,
) -> Layout:
    """Lay out the batch of the records `index`.

    Args:
        index: (n,) record numbers; adding the number of all records gives the same record with other draws.
        table: of the shards: `height`, `width` (N,), and `take(index)` with offsets, boxes, labels, flags.
        out: (height, width).
        min_visible: as in `move_boxes`; None takes the recipe's value. Without a recipe no box is dropped.
    """
    n = len(index)
    parts = single(index, out)
    partners = Partners(table.height, table.width, out, fit)
    for name, mixer in MIXERS.items():
        for position, step in enumerate(steps):
            until = step.get("until", 0)
            if step["op"] == name and (epoch < until or not until):
                values = {key: value for key, value in step.items() if key not in ("op", "p")}
                rows = np.flatnonzero(chosen(step, position, seed, epoch, index))
                mixer(dice(step, position, seed, epoch, index), rows, parts, partners, **values)
    parts.sort()
    record = parts.record % len(table.height)
    objects = table.take(record)
    row = np.repeat(np.arange(len(record)), np.diff(objects.offsets))
    height, width = table.height[record], table.width[record]
    look = parameters(
        steps, parts.record, height, width, out, fit=fit, seed=seed, epoch=epoch, boxes=objects.boxes, image=row
    )
    look = replace(look, matrix=parts.place @ look.matrix)
    _choose_pasted(parts, objects, row, look.matrix, out)

    rule = setting(steps, "keep")
    visible = rule.pop("visible") if min_visible is None else min_visible
    rule.pop("visible", None)
    if not steps:
        visible, rule = 0.0, {}
    boxes, keep = move_boxes(objects.boxes, row, look.matrix, out, visible, region=parts.region, **rule)
    first = np.searchsorted(parts.owner, np.arange(n + 1))
    if len(parts.record) > n:
        boxes, keep = _uncover(boxes, keep, row, parts, first, visible)
    counts = np.bincount(parts.owner[row], minlength=n)
    return Layout(
        parts=parts,
        first=first,
        parameters=look,
        offsets=np.concatenate([[0], np.cumsum(counts)]),
        boxes=boxes,
        labels=np.where(keep, objects.labels, -1),
        flags=objects.flags,
    )


def _choose_pasted(parts: Parts, objects: Any, row: NDArray[np.int64], matrix: Floats, out: Shape) -> None:
    """Set the regions of the parts that consist of one box of their record."""
    pasted = np.flatnonzero(parts.boxed >= 0)
    if not len(pasted):
        return
    boxes, keep = move_boxes(objects.boxes, row, matrix, out, 0.0)
    for part in pasted.tolist():
        seen = objects.offsets[part] + np.flatnonzero(keep[objects.offsets[part] : objects.offsets[part + 1]])
        box = boxes[seen[int(parts.boxed[part] * len(seen))]] if len(seen) else np.zeros(4, np.float32)
        parts.region[part] = [*np.floor(box[:2]), *np.ceil(box[2:])]


def _uncover(
    boxes: NDArray[np.float32],
    keep: NDArray[np.bool_],
    row: NDArray[np.int64],
    parts: Parts,
    first: NDArray[np.int64],
    visible: float,
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Drop boxes that later parts of their image cover, and cut those of which a whole side is covered."""
    whole = (boxes[:, 2:] - boxes[:, :2]).prod(1)
    boxes, owner = boxes.copy(), parts.owner[row]
    for k in range(1, int(np.diff(first).max(initial=1))):
        part = first[owner] + k
        exists = part < first[owner + 1]
        part = np.where(exists, part, 0)
        over = exists & (part > row) & (parts.weight[part] == 1)
        cover = np.where(over[:, None], parts.region[part], 0)
        for axis in (0, 1):  # a strip that is covered over the box's whole height, or width
            other = 1 - axis
            across = (cover[:, other] <= boxes[:, other]) & (cover[:, other + 2] >= boxes[:, other + 2])
            start = across & (cover[:, axis] <= boxes[:, axis]) & (cover[:, axis + 2] > boxes[:, axis])
            end = across & (cover[:, axis + 2] >= boxes[:, axis + 2]) & (cover[:, axis] < boxes[:, axis + 2])
            boxes[:, axis] = np.where(start, np.minimum(cover[:, axis + 2], boxes[:, axis + 2]), boxes[:, axis])
            boxes[:, axis + 2] = np.where(end, np.maximum(cover[:, axis], boxes[:, axis]), boxes[:, axis + 2])
        shared = np.minimum(boxes[:, 2:], cover[:, 2:]) - np.maximum(boxes[:, :2], cover[:, :2])
        left = (boxes[:, 2:] - boxes[:, :2]).prod(1) - shared.clip(0).prod(1)
        keep = keep & (left > 0) & (left >= visible * whole)
    return boxes, keep
