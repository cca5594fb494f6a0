"""Legend: B images, A anchors, C classes. Losses shared by several detectors."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def focal(logits: Tensor, targets: Tensor, *, alpha: float = 0.25, gamma: float = 2.0) -> Tensor:
    """Compute the element-wise sigmoid focal loss (Lin et al., "Focal Loss for Dense Object Detection", arXiv
    1708.02002, equation 5).

    Args:
        logits, targets: any shape, the same; targets are 0 or 1.
        alpha: weight of the ones; that of the zeros is 1 - alpha. Negative for no weights.
    """
    loss = functional.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    right = torch.where(targets > 0, logits, -logits).sigmoid()
    loss = loss * (1 - right) ** gamma
    return loss * torch.where(targets > 0, alpha, 1 - alpha) if alpha >= 0 else loss


def hard_negatives(loss: Tensor, positive: Tensor, negative: Tensor, *, ratio: float = 3.0) -> Tensor:
    """Select each image's negatives of highest loss, `ratio` for each of its positives (SSD, arXiv 1512.02325,
    section 2.2, "Hard negative mining").

    Args:
        loss: (B, A); positive, negative: (B, A) bool.

    Returns:
        (B, A) bool.
    """
    hardness = torch.where(negative, loss.detach(), -torch.inf)
    order = hardness.argsort(dim=1, descending=True, stable=True)
    place = torch.arange(order.shape[1], device=order.device).expand_as(order)
    rank = torch.empty_like(order).scatter_(1, order, place)
    return negative & (rank < ratio * positive.sum(1, keepdim=True))
