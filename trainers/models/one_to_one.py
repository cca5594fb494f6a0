"""Legend: B images, M padded boxes, A locations, C classes.

One-to-one assignment of locations to boxes, which avoids duplicates and NMS (Sun et al., "What Makes for End-to-End
Object Detection?", OneNet, arXiv 2012.05780): the location of minimum cost, including a class cost.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor
from torch.nn import functional

from trainers.models.assign import BLOCK
from trainers.models.boxes import giou

ALPHA, GAMMA = 0.25, 2.0
SURE = 2.0
BESIDE, AROUND = 8.0, 1.0  # how many times a logit's distance to its neighbours' maximum is subtracted when decoding
WEIGHTS = (2.0, 5.0, 2.0)  # of the class, L1 and GIoU terms, in the cost and in the loss (section 3.2)


def cost(
    logits: Tensor, predicted: Tensor, boxes: Tensor, labels: Tensor, limit: Tensor, weights: Sequence[float] = WEIGHTS
) -> Tensor:
    """Compute the cost of assigning each location to each box (section 3.1, equation 2).

    Logits are clamped at SURE. Above it, the focal term would grow without bound, and a box would be assigned the
    location of a very confident neighbour instead of one whose box fits.

    Args:
        logits: (B, A, C); predicted: (B, A, 4) xyxy pixels.
        boxes: (B, M, 4) xyxy pixels; labels: (B, M), -1 counts as class 0.
        limit: (4,) the images' width, height, width, height, by which L1 is normalised.
        weights: of the focal class cost, L1 and -GIoU.

    Returns:
        (B, M, A) float32.
    """
    own = logits.clamp(max=SURE).gather(2, labels.clamp(min=0).unsqueeze(1).expand(-1, logits.shape[1], -1)).mT
    shown, hidden = functional.logsigmoid(own), functional.logsigmoid(-own)
    focal = (1 - ALPHA) * shown.exp() ** GAMMA * hidden - ALPHA * hidden.exp() ** GAMMA * shown
    near, there = (predicted / limit).unsqueeze(1), (boxes / limit).unsqueeze(2)
    l1 = sum(((near[..., k] - there[..., k]).abs() for k in range(4)), start=torch.zeros_like(focal))
    return weights[0] * focal + weights[1] * l1 - weights[2] * giou(predicted.unsqueeze(1), boxes.unsqueeze(2))


@torch.no_grad()
def assign(
    logits: Tensor, predicted: Tensor, boxes: Tensor, labels: Tensor, limit: Tensor, weights: Sequence[float] = WEIGHTS
) -> Tensor:
    """Return the location of minimum cost for each box, regardless of the others: (B, M) int64. Arguments as in `cost`.

    For padding the result is meaningless. Boxes are processed in chunks to limit memory.
    """
    count, locations = predicted.shape[:2]
    step = max(1, BLOCK.get(boxes.device.type, 1 << 24) // max(count * locations, 1))
    blocks = zip(boxes.split(step, 1), labels.split(step, 1), strict=True)
    places = [cost(logits, predicted, some, own, limit, weights).argmin(2) for some, own in blocks]
    return torch.cat(places, 1)


def class_targets(place: Tensor, labels: Tensor, marked: Tensor, locations: int, classes: int) -> Tensor:
    """Return (B, A, C), 1 where a class is a location's target, else 0. Classes of boxes that share a location add up.

    Args:
        place, labels, marked: (B, M) each box's location, class, and whether it is used.
    """
    slot = torch.where(marked, place * classes + labels, locations * classes)
    shown = torch.zeros(len(place), locations * classes + 1, device=place.device)
    return shown.scatter_(1, slot, 1.0)[:, :-1].unflatten(1, (locations, classes))


def sharpened(logits: Tensor, shapes: Sequence[Sequence[int]]) -> Tensor:
    """Lower each logit by its distance to the greatest ones of its class nearby: `BESIDE` times that among 3x3 cells of
    its level and of the next finer and coarser ones, and `AROUND` times that among 5x5 cells of its level.

    Where training leaves two locations a similar score for one object, the lower one falls behind. Unlike NMS this
    compares no boxes; it is a max filter over levels (as in DeFCN, arXiv 2012.03544, section 3.3, but without weights).

    Args:
        logits: (B, A, C); shapes: rows and columns of each level, finest first.
    """
    if not shapes:
        return logits
    parts = logits.mT.split([rows * columns for rows, columns in shapes], 2)
    maps = [part.unflatten(2, tuple(shape)) for part, shape in zip(parts, shapes, strict=True)]
    around = [functional.max_pool2d(x, 5, 1, 2) for x in maps]
    beside = [functional.max_pool2d(x, 3, 1, 1) for x in maps]
    best = list(beside)
    for i, (fine, coarse) in enumerate(pairwise(beside)):
        ratio = shapes[i][0] // shapes[i + 1][0]
        best[i] = torch.maximum(best[i], functional.interpolate(coarse, scale_factor=ratio))
        best[i + 1] = torch.maximum(best[i + 1], functional.max_pool2d(fine, ratio))
    lowered = [x - BESIDE * (near - x) - AROUND * (far - x) for x, near, far in zip(maps, best, around, strict=True)]
    return torch.cat([x.flatten(2) for x in lowered], 2).mT
