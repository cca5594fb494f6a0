"""Legend: B images, A anchors, M padded boxes, C classes.

Assignment of boxes to anchors for a whole batch at once: padded boxes in, one index per anchor out.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from dataforge.loading.batch import Batch
from dataforge.record import CROWD, DIFFICULT
from trainers.models.boxes import iou, shape_iou

NEGATIVE, IGNORED = -1, -2
BLOCK = {"cpu": 1 << 18}  # overlaps computed at a time: on a CPU as many as fit in its cache


def targets(batch: Batch, *, difficult: bool = True) -> tuple[Tensor, Tensor]:
    """Return masks of the boxes to assign, and of those that only prevent anchors from becoming background.

    Args:
        difficult: include difficult boxes in the former.

    Returns:
        eligible (B, M) bool, shields (B, M) bool; padding is in neither.
    """
    labelled = batch.labels >= 0
    aside = batch.flags & (CROWD if difficult else CROWD | DIFFICULT) > 0
    return labelled & ~aside, labelled & aside


def match(
    anchors: Tensor,
    boxes: Tensor,
    eligible: Tensor,
    *,
    high: float,
    low: float,
    force: Literal["no", "best", "ties"] = "no",
    shields: Tensor | None = None,
    shield_iou: float = 0.5,
) -> Tensor:
    """Assign to each anchor the box that overlaps it most.

    An anchor is positive from an IoU of `high`, negative below `low`, and ignored in between. `force` ensures that
    every box with any overlap has an anchor: "best" reassigns the anchor that it overlaps most (SSD, arXiv 1512.02325,
    section 2.2; if several boxes share that anchor, the last one gets it); "ties" makes all anchors that some box
    overlaps most positive, each for its own best box (Faster R-CNN, arXiv 1506.01497, section 3.1.2).

    Args:
        anchors: (A, 4) or (B, A, 4) xyxy; boxes: (B, M, 4).
        eligible: (B, M) the boxes that may be assigned; shields: (B, M) boxes for which negatives with at least
            `shield_iou` of the anchor's area inside them are ignored.

    Returns:
        (B, A) int64: the box's index, NEGATIVE or IGNORED.
    """
    count, total = len(boxes), anchors.shape[-2]
    anchors = (anchors if anchors.dim() == 3 else anchors.unsqueeze(0)).movedim(-1, 0).contiguous().movedim(0, -1)
    wanted = _those(boxes, eligible)
    best = boxes.new_zeros(count, total)  # each anchor's best overlap, and the box that it belongs to
    owner = torch.full((count, total), NEGATIVE, device=boxes.device)
    tied = torch.zeros_like(owner, dtype=torch.bool)
    first = []  # each box's best anchor, or `total`
    step = max(1, BLOCK.get(boxes.device.type, 1 << 24) // max(count * total, 1))
    for start in range(0, wanted.shape[1], step):
        overlap = iou(wanted[:, start : start + step], anchors)
        value, number = overlap.max(1) if step > 1 else (overlap[:, 0], 0)
        owner = torch.where(value > best, number + start, owner)
        best = torch.maximum(value, best)
        if force == "best":
            value, number = overlap.max(2)
            first.append(torch.where(value > 0, number, total))
        elif force == "ties":
            top = overlap.amax(2, keepdim=True)
            tied |= (overlap == torch.where(top > 0, top, 2.0)).any(1)
    matched = torch.where(best >= high, owner, torch.where(best < low, NEGATIVE, IGNORED))
    if first:
        anchor, order = torch.cat(first, 1), torch.arange(wanted.shape[1], device=boxes.device).expand(count, -1)
        forced = matched.new_full((count, total + 1), -1).scatter_reduce(1, anchor, order, "amax")[:, :total]
        matched = torch.where(forced >= 0, forced, matched)
    matched = torch.where(tied, owner, matched)
    shades = boxes[:, :0] if shields is None else _those(boxes, shields)
    if shades.shape[1]:
        inside = [iou(block, shades, torch.ones_like(shades[..., 0], dtype=torch.bool)).amax(2) >= shield_iou
                  for block in anchors.split(1 << 14, 1)]  # fmt: skip
        matched = torch.where((matched == NEGATIVE) & torch.cat(inside, 1), IGNORED, matched)
    return matched


def _those(boxes: Tensor, marked: Tensor) -> Tensor:
    """Replace boxes (B, M, 4) that are not marked (B, M) by zeros, which overlap nothing.

    On a CPU, entries after the last marked one are dropped; on other devices that would require a synchronisation.
    """
    if marked.device.type == "cpu":
        used = int(marked.any(0).nonzero().max()) + 1 if marked.any() else 0
        boxes, marked = boxes[:, :used], marked[:, :used]
    return boxes.where(marked.unsqueeze(-1), 0.0)


def in_cells(boxes: Tensor, eligible: Tensor, anchors: Tensor, grid: tuple[int, int]) -> Tensor:
    """Assign each box a predictor: in the cell of its centre, the anchor whose shape overlaps it best (YOLOv2).

    Where boxes compete for a predictor, Darknet lets the last one overwrite the others. Here the first one keeps it and
    the others take the next best free anchor of the cell; a box for which all A are taken gets none.
    Conflicts are resolved by the smallest box index, as a minimum, which does not depend on the order of threads.

    Args:
        boxes: (B, M, 4) xyxy in cells; eligible: (B, M) bool, the boxes to assign.
        anchors: (A, 2) in cells; grid: (h, w).

    Returns:
        (B, P) int64, the index of the box assigned to each predictor, M for none.
    """
    rows, columns = grid
    count, places = eligible.shape
    column, row = ((boxes[..., :2] + boxes[..., 2:]) / 2).long().unbind(-1)
    cell = row.clamp(0, rows - 1) * columns + column.clamp(0, columns - 1)
    overlap = shape_iou(boxes[..., 2:] - boxes[..., :2], anchors)
    wishes = overlap.argsort(dim=-1, descending=True, stable=True) * (rows * columns) + cell.unsqueeze(-1)
    number = torch.arange(places, device=boxes.device).expand(count, places)
    owner = torch.full((count, len(anchors) * rows * columns), places, device=boxes.device)
    waiting = eligible
    for wish in wishes.unbind(-1):
        asks = waiting & (owner.gather(1, wish) == places)
        owner = owner.scatter_reduce(1, wish, torch.where(asks, number, places), "amin")
        waiting = waiting & (owner.gather(1, wish) != number)
    return owner


def goals(batch: Batch, owner: Tensor) -> tuple[Tensor, Tensor]:
    """Return the target box and label of each anchor.

    Args:
        owner: (B, A), the result of `match`.

    Returns:
        Boxes (B, A, 4), arbitrary for anchors without a box, and labels (B, A), -1 for anchors without a box.
    """
    if not batch.labels.shape[1]:
        return batch.boxes.new_zeros(*owner.shape, 4), torch.full_like(owner, -1)
    box = owner.clamp(min=0)
    labels = torch.where(owner >= 0, batch.labels.gather(1, box), -1)
    return batch.boxes.gather(1, box.unsqueeze(-1).expand(-1, -1, 4)), labels


def sample(owner: Tensor, keys: Tensor, *, count: int, positive: float) -> tuple[Tensor, Tensor]:
    """Sample `count` anchors per image, at most the share `positive` of them positive, the rest negative.

    Args:
        owner: (B, A), the result of `match`; keys: (B, A) random numbers in 0..1, of which the smallest are drawn.

    Returns:
        The indices of S anchors (B, S), where S is the smaller of A and `count`, and their values in `owner` (B, S),
        IGNORED where there are fewer to draw.
    """
    size = min(count, owner.shape[1])
    numbers, kept, room = [], [], torch.full_like(owner[:, :1], count)
    for marked, most in ((owner >= 0, int(count * positive)), (owner == NEGATIVE, count)):
        key, number = torch.where(marked, keys, 2.0).topk(min(most, size), dim=1, largest=False)
        drawn = (key < 2.0) & (torch.arange(number.shape[1], device=number.device) < room)
        room = room - drawn.sum(1, keepdim=True)
        numbers.append(number)
        kept.append(drawn)
    number, drawn = torch.cat(numbers, 1), torch.cat(kept, 1)
    first = torch.where(drawn, 0, 1).argsort(dim=1, stable=True)[:, :size]
    number = number.gather(1, first)
    return number, torch.where(drawn.gather(1, first), owner.gather(1, number), IGNORED)


def keys(index: Tensor, count: int, step: Tensor) -> Tensor:
    """Return random numbers for `sample` that depend only on the record, the step and the anchor.

    A resumed run and any number of processes therefore draw the same numbers.

    Args:
        index: (B,) record numbers; count: A; step: () int64.

    Returns:
        (B, A) float32 in 0..1.
    """
    low = 0xFFFFFFFF
    state = _scramble((_scramble(index & low) + step) & low).unsqueeze(1)
    state = _scramble((state + torch.arange(count, device=index.device) * 0x9E3779B1) & low)
    return (state >> 8).float() / (1 << 24)


def _scramble(state: Tensor) -> Tensor:
    """Hash 32-bit integers by a bijection (Wellons, "Prospecting for hash functions", lowbias32)."""
    for shift, factor in ((16, 0x7FEB352D), (15, 0x846CA68B)):
        state = ((state ^ (state >> shift)) * factor) & 0xFFFFFFFF
    return state ^ (state >> 16)
