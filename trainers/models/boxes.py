"""Legend: B images, N and M boxes, K candidates.

Geometry of boxes as tensors: float xyxy in edge coordinates, in any unit of length.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional
from torchvision.ops import nms as _nms

LOWEST = -1e30  # below all scores; unlike infinity, every runtime sorts it alike
_TINY = 1e-9  # keeps the union of two empty boxes from dividing by zero


def area(boxes: Tensor) -> Tensor:
    """Return the areas of boxes (..., 4); 0 where a box is inverted."""
    return (boxes[..., 2] - boxes[..., 0]).clamp(min=0) * (boxes[..., 3] - boxes[..., 1]).clamp(min=0)


def iou(a: Tensor, b: Tensor, crowd: Tensor | None = None) -> Tensor:
    """Compute the intersection over union of every box of `a` with every box of `b`.

    Args:
        a: (..., N, 4).
        b: (..., M, 4); zeros, as used for padding, give 0.
        crowd: (..., M) bool; for these boxes of `b` the result is the intersection over the area of `a` alone, as in
            COCO's evaluation: a box inside a crowd overlaps it fully.

    Returns:
        (..., N, M) in 0..1.
    """
    # each coordinate contiguous in memory, so that a CPU can vectorise
    ax1, ay1, ax2, ay2 = a.unsqueeze(-2).movedim(-1, 0).contiguous()
    bx1, by1, bx2, by2 = b.unsqueeze(-3).movedim(-1, 0).contiguous()
    width = torch.minimum(ax2, bx2).sub_(torch.maximum(ax1, bx1)).clamp_(min=0)
    height = torch.minimum(ay2, by2).sub_(torch.maximum(ay1, by1)).clamp_(min=0)
    shared = width.mul_(height)
    union = (area(a).unsqueeze(-1) + area(b).unsqueeze(-2)).sub_(shared)
    if crowd is not None:
        union = torch.where(crowd.unsqueeze(-2), area(a).unsqueeze(-1), union)
    return shared / union.clamp_(min=_TINY)


def shape_iou(sizes: Tensor, others: Tensor) -> Tensor:
    """Compute the IoU of boxes with a common upper left corner from their sizes: (..., N, 2), (M, 2) -> (..., N, M)."""
    return iou(functional.pad(sizes, (2, 0)), functional.pad(others, (2, 0)))


def giou(a: Tensor, b: Tensor) -> Tensor:
    """Compute the generalised IoU (Rezatofighi et al., arXiv 1902.09630) of pairs of boxes (..., 4), in -1..1.

    The shapes are broadcast: (N, 1, 4) and (M, 4) give (N, M).
    """
    (ax1, ay1, ax2, ay2), (bx1, by1, bx2, by2) = a.unbind(-1), b.unbind(-1)
    width = torch.minimum(ax2, bx2) - torch.maximum(ax1, bx1)
    height = torch.minimum(ay2, by2) - torch.maximum(ay1, by1)
    shared = width.clamp(min=0) * height.clamp(min=0)
    union = area(a) + area(b) - shared
    hull = (torch.maximum(ax2, bx2) - torch.minimum(ax1, bx1)) * (torch.maximum(ay2, by2) - torch.minimum(ay1, by1))
    return shared / union.clamp(min=_TINY) - (hull - union) / hull.clamp(min=_TINY)


def nms(
    boxes: Tensor, scores: Tensor, labels: Tensor, *, threshold: float | Tensor, top: int, classes: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Apply greedy non-maximum suppression within each image and class.

    Args:
        boxes: (B, K, 4); scores: (B, K); labels: (B, K), -1 for no candidate.
        threshold: of two boxes that overlap by more than this IoU, the one with the lower score is removed.
        top: the maximum number of boxes per image.
        classes: the number of classes.

    Returns:
        The same three, (B, min(K, top), ...), best first; padded with zeros and label -1.
    """
    if not scores.numel():
        return boxes[:, :top], scores[:, :top], labels[:, :top]
    scores, order = scores.where(labels >= 0, LOWEST).sort(dim=1, descending=True, stable=True)
    labels = labels.gather(1, order)
    boxes = boxes.gather(1, order.unsqueeze(-1).expand(-1, -1, 4))
    keep = suppress(boxes, labels, torch.as_tensor(threshold, dtype=torch.float32), classes)
    rank = torch.arange(labels.shape[1], device=boxes.device)
    first = torch.where(keep, rank, rank + labels.shape[1]).sort(dim=1).indices[:, :top]  # the kept ones, best first
    keep = keep.gather(1, first)
    boxes = boxes.gather(1, first.unsqueeze(-1).expand(-1, -1, 4)) * keep.unsqueeze(-1)
    return boxes, scores.gather(1, first).where(keep, 0), torch.where(keep, labels.gather(1, first), -1)


@torch.library.custom_op("dataforge::suppress", mutates_args=())
def suppress(boxes: Tensor, labels: Tensor, threshold: Tensor, classes: int) -> Tensor:
    """Return a mask of the boxes kept: those that no kept box before them, of the same image and class, overlaps by
    more than `threshold`. A custom operator, so that an exported graph can use ONNX's NonMaxSuppression instead.

    The groups are separated by offsets in float64: in float32, 64 images of 80 classes and 640 pixels would put
    the last boxes where adjacent floats are a quarter of a pixel apart. MPS has no float64, so the CPU does its work.

    Args:
        boxes: (B, K, 4), best first; labels: (B, K), -1 for no candidate, else below `classes`.
        threshold: () float32.

    Returns:
        (B, K) bool.
    """
    if boxes.device.type == "mps":
        return suppress(boxes.cpu(), labels.cpu(), threshold.cpu(), classes).to(boxes.device)
    count, places = labels.shape
    group = torch.arange(count, device=boxes.device).unsqueeze(1) * (classes + 1) + labels + 1
    apart = boxes.double() + (group * (boxes.amax().double() - boxes.amin() + 1)).unsqueeze(-1)
    scores = torch.arange(places, 0, -1, device=boxes.device, dtype=torch.float64).repeat(count)
    # The cost grows with the square of the boxes per call, so a CPU processes one image at a time; an accelerator
    # uses few calls, in blocks that bound its N x N / 8 bytes of mask.
    step = places if boxes.device.type == "cpu" else 16 * places
    blocks = zip(apart.flatten(0, 1).split(step), scores.split(step), strict=True)
    kept = torch.cat([_nms(b, s, float(threshold)) + i * step for i, (b, s) in enumerate(blocks)])
    keep = torch.zeros(count * places, dtype=torch.bool, device=boxes.device)
    keep[kept] = True
    return keep.view(count, places) & (labels >= 0)


@suppress.register_fake
def _(boxes: Tensor, labels: Tensor, threshold: Tensor, classes: int) -> Tensor:
    return torch.empty_like(labels, dtype=torch.bool)
