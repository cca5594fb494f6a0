"""Legend: B images, M padded boxes, K detections, H x W pixels.

Pictures and gradient norms for the board: the true and the detected boxes of a few fixed images, the filters of the
first layer, and the norms of the gradients of each part.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from dataforge.images.draw import Pixels, contact_sheet
from dataforge.loading.batch import Batch
from dataforge.loading.loader import Loader
from trainers.models.detector import Detector, evaluating
from trainers.results import plots
from trainers.results.board import Board

IMAGES = 4
CONFIDENCE = 0.25  # detections below it are not drawn
SIDE = 960  # longer side of a picture, pixels


def watched(loader: Loader) -> Batch:
    """Return the first few images of a loader's first epoch. The loader's position is unchanged."""
    state = loader.state_dict()
    loader.set_epoch(0)
    batch = next(iter(loader))
    loader.load_state_dict(state)
    return batch[:IMAGES].clone()


def due(epoch: int, epochs: int) -> bool:
    """Return whether pictures are drawn after this epoch (from 1): after 1, 2, 4, 8, ... and the last, since they
    change most early in training.
    """
    return epoch & (epoch - 1) == 0 or epoch == epochs


def write(board: Board, detector: Detector, batch: Batch, names: Sequence[str], step: int) -> None:
    """Send the pictures to the board."""
    for name, pixels in pictures(detector, batch, names).items():
        board.add_image(name.replace(" ", "_"), pixels, step)


def gradients(board: Board, norms: dict[str, float], step: int, scale: float = 1.0) -> None:
    """Send the norm of the gradient of each of a detector's parts to the board.

    Args:
        norms: of `gradient_norms`; scale: the factor that the loss was multiplied by.
    """
    for name, norm in norms.items():
        board.add_scalar(f"gradient/{name}", norm / scale, step)


def gradient_norms(model: nn.Module) -> dict[str, float]:
    """Return the norm of the gradient as one vector, for each direct child that is trained.

    All ranks must call it if FSDP2 has divided the weights.
    """
    norms = {}
    for name, part in model.named_children():
        grads = [weight.grad for weight in part.parameters() if weight.grad is not None]
        if grads:
            norm = torch.stack(torch._foreach_norm(grads)).norm()
            norms[name] = norm.full_tensor() if hasattr(norm, "full_tensor") else norm
    return dict(zip(norms, torch.stack(list(norms.values())).tolist(), strict=True)) if norms else {}


def pictures(detector: Detector, batch: Batch, names: Sequence[str]) -> dict[str, Pixels]:
    """Draw a detector's results and internal values on some images, (H, W, 3) by name.

    Args:
        names: the classes' names by label.
    """
    shown = {"ground truth": plots.sheet(batch.images, batch.boxes, batch.labels, names, side=SIDE)}
    with evaluating(detector):
        raw = detector(batch.images)
        every, kept = detector.decode(raw, conf=CONFIDENCE, iou=1.0), detector.decode(raw, conf=CONFIDENCE)
        shown["found before NMS"] = plots.sheet(batch.images, every.boxes, every.labels, [""] * len(names), side=SIDE)
        shown["found"] = plots.sheet(batch.images, kept.boxes, kept.labels, names, kept.scores, side=SIDE)
        first = next((layer for layer in detector.modules() if isinstance(layer, nn.Conv2d)), None)
        if first is not None and first.in_channels in (1, 3):
            shown["filters"] = tiles(first.weight)
        return shown | detector.pictures(raw, batch, names)


def tiles(values: Tensor) -> Pixels:
    """Draw a sheet of small pictures, each scaled from its minimum (black) to its maximum (white).

    Args:
        values: (n, 1 or 3, h, w).
    """
    low, high = values.amin((1, 2, 3), keepdim=True), values.amax((1, 2, 3), keepdim=True)
    shades = ((values - low) / (high - low).clamp(min=1e-12)).expand(-1, 3, -1, -1)
    factor = max(1, 32 // max(shades.shape[2:]))  # enlarges small filters
    large = shades.repeat_interleave(factor, 2).repeat_interleave(factor, 3)
    none = [np.zeros((0, 4), np.float32)] * len(large), [np.zeros(0, np.int64)] * len(large)
    return contact_sheet(plots.pictures(large), *none, (), side=SIDE)
