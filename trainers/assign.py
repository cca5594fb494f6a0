"""Legend: B images, A anchors, M box places, C classes.

Which box each anchor is to learn, for a whole batch at once: padded boxes in, one number an anchor out.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from dataforge.batch import Batch
from dataforge.boxes import iou
from dataforge.record import CROWD, DIFFICULT

NEGATIVE, IGNORED = -1, -2
BLOCK = {"cpu": 1 << 18}  # overlaps that are held at a time: on a CPU as many as stay in its cache


def targets(batch: Batch, *, difficult: bool = True) -> tuple[Tensor, Tensor]:
    """Which boxes are to be learnt, and which only keep anchors from being called background.

    Args:
        difficult: learn difficult boxes too.

    Returns:
        eligible (B, M) bool, shields (B, M) bool; padding is in neither.
    """
    there = batch.labels >= 0
    aside = batch.flags & (CROWD if difficult else CROWD | DIFFICULT) > 0
    return there & ~aside, there & aside


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
    """Give each anchor the box that overlaps it most.

    An anchor is positive from an IoU of `high`, negative below `low`, and ignored between. `force` makes sure that
    every box with any overlap has an anchor: "best" gives it the one it overlaps most, whatever that one had (SSD,
    arXiv 1512.02325, section 2.2; of boxes that want the same anchor the last one gets it); "ties" makes all anchors
    that some box overlaps most positive, each for its own best box (Faster R-CNN, arXiv 1506.01497, section 3.1.2).

    Args:
        anchors: (A, 4) or (B, A, 4) xyxy; boxes: (B, M, 4).
        eligible: (B, M) the boxes that count; shields: (B, M) boxes that turn negatives that lie in them by at least
            `shield_iou` of the anchor's area into ignored ones.

    Returns:
        (B, A) int64: the box's number, NEGATIVE or IGNORED.
    """
    count, places = eligible.shape
    anchors = anchors.expand(count, -1, 4)
    if not places:
        return torch.full(anchors.shape[:2], NEGATIVE, device=anchors.device)
    size = max(1, BLOCK.get(anchors.device.type, 1 << 24) // (count * places))
    best, owner, shielded = [], [], []
    top = boxes.new_zeros(count, places)  # each box's best overlap, and the anchor it is with
    first = torch.zeros_like(top, dtype=torch.int64)
    for start in range(0, anchors.shape[1], size):
        block = anchors[:, start : start + size]
        overlap = iou(block, boxes, shields)  # with a shield: the share of the anchor that lies in it
        if shields is not None:
            shielded.append(overlap.where(shields.unsqueeze(1), 0.0).amax(2) >= shield_iou)
        overlap.masked_fill_(~eligible.unsqueeze(1), -1.0)
        value, number = overlap.max(2)
        best.append(value)
        owner.append(number)
        if force != "no":
            value, number = overlap.max(1)
            better = value > top
            top, first = torch.where(better, value, top), torch.where(better, number + start, first)
    value, number = torch.cat(best, 1), torch.cat(owner, 1)
    found = torch.where(value >= high, number, torch.where(value < low, NEGATIVE, IGNORED))
    if shields is not None:
        found = torch.where((found == NEGATIVE) & torch.cat(shielded, 1), IGNORED, found)
    forced = top > 0
    if force == "best":
        order = torch.where(forced, torch.arange(places, device=boxes.device), -1)
        wanted = torch.full_like(found, -1).scatter_reduce(1, first, order, "amax")
        found = torch.where(wanted >= 0, wanted, found)
    elif force == "ties":
        top = torch.where(forced, top, 2.0)
        ties = [
            (iou(block, boxes) == top.unsqueeze(1)).logical_and_(eligible.unsqueeze(1)).any(2)
            for block in anchors.split(size, 1)
        ]
        found = torch.where(torch.cat(ties, 1), number, found)
    return found


def goals(batch: Batch, found: Tensor) -> tuple[Tensor, Tensor]:
    """What each anchor is to learn.

    Args:
        found: (B, A) as `match` gives it.

    Returns:
        boxes (B, A, 4), zeros or another's where there is none, and labels (B, A), -1 where there is none.
    """
    if not batch.labels.shape[1]:
        return batch.boxes.new_zeros(*found.shape, 4), torch.full_like(found, -1)
    place = found.clamp(min=0)
    labels = torch.where(found >= 0, batch.labels.gather(1, place), -1)
    return batch.boxes.gather(1, place.unsqueeze(-1).expand(-1, -1, 4)), labels


def sample(found: Tensor, keys: Tensor, *, count: int, positive: float) -> Tensor:
    """Draw `count` anchors an image, at most the share `positive` of them positive ones, the rest negative.

    Args:
        found: (B, A) as `match` gives it; keys: (B, A) random numbers, of which the smallest are drawn.

    Returns:
        (B, A) bool.
    """
    is_positive, is_negative = found >= 0, found == NEGATIVE
    kept = is_positive & (_rank(keys, is_positive) < int(count * positive))
    room = count - kept.sum(1, keepdim=True)
    return kept | (is_negative & (_rank(keys, is_negative) < room))


def keys(index: Tensor, count: int, step: Tensor) -> Tensor:
    """Random numbers for `sample`, as a function of the record, the step and the anchor alone.

    So a resumed run draws the same ones, and several processes draw what one would.

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
    """A bijection of 32-bit integers that mixes them (Wellons, "Prospecting for hash functions", lowbias32)."""
    for shift, factor in ((16, 0x7FEB352D), (15, 0x846CA68B)):
        state = ((state ^ (state >> shift)) * factor) & 0xFFFFFFFF
    return state ^ (state >> 16)


def _rank(keys: Tensor, among: Tensor) -> Tensor:
    """(B, A) each key's place among those marked, by rising key; meaningless for the others."""
    order = torch.where(among, keys, torch.inf).argsort(dim=1, stable=True)
    return torch.empty_like(order).scatter_(
        1, order, torch.arange(order.shape[1], device=order.device).expand_as(order)
    )
