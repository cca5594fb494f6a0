"""Legend: B images, M box places, K detections, C classes, H x W pixels.

What every detector is, and what it gives.
"""

from __future__ import annotations

from typing import Any

import torch
from tensordict import TensorClass
from torch import Tensor, nn

from dataforge.batch import Batch
from dataforge.shards.reader import Shards


class Detections(TensorClass):
    """The boxes found in B images, best first, padded to K.

    Attributes:
        boxes: (B, K, 4) float32 xyxy pixels, edge coordinates.
        scores: (B, K) float32 in 0..1.
        labels: (B, K) int64; -1 marks padding.
    """

    boxes: Tensor
    scores: Tensor
    labels: Tensor

    def to_source(self, affine: Tensor) -> Detections:
        """The same detections in the pixels of the source images.

        Args:
            affine: (B, 2, 3), `Batch.affine`: source pixels to pixels of the network's input, axis-aligned.
        """
        inverse = torch.linalg.inv(affine[:, :, :2].double())
        corners = self.boxes.double().unflatten(-1, (2, 2)) - affine[:, None, None, :, 2]
        moved = torch.einsum("bij,bkcj->bkci", inverse, corners)
        low, high = moved.amin(2), moved.amax(2)
        boxes = torch.cat([low, high], -1).float()
        return Detections(boxes=boxes, scores=self.scores, labels=self.labels, batch_size=self.batch_size)


class Detector(nn.Module):
    """The contract. A subclass's constructor takes `classes: int` and flat keyword values that a checkpoint can hold.

    Attributes:
        stride: image sides must be multiples of it.
    """

    stride: int

    @classmethod
    def configure(cls, config: Any, shards: Shards) -> dict[str, Any]:
        """The constructor's keyword values for a new run.

        Args:
            config: the detector's own subclass of `trainers.config.Config`.
            shards: the training split.
        """
        raise NotImplementedError

    def pretrain(self, config: Any) -> str:
        """Load the pretrained weights that a configuration names; what was done, in words ("" for nothing)."""
        return ""

    def forward(self, images: Tensor) -> Any:
        """Raw outputs, with no targets and no post-processing, so that it can be exported.

        Args:
            images: (B, 3, H, W) RGB, uint8 or float32 in 0..1.
        """
        raise NotImplementedError

    def loss(self, raw: Any, batch: Batch) -> dict[str, Tensor]:
        """Scalars by name; their sum is minimised. An empty or all-padding batch gives finite values."""
        raise NotImplementedError

    def decode(self, raw: Any, *, conf: float = 0.001, iou: float = 0.5, top: int = 300) -> Detections:
        """Boxes in pixels of `images`.

        Args:
            conf: the lowest score that is kept.
            iou: the overlap from which, within a class, the weaker of two boxes is dropped.
            top: K, the most detections an image gets.
        """
        raise NotImplementedError


def unit(images: Tensor) -> Tensor:
    """Images as floats in 0..1, whichever of the two forms a `Batch` holds them in."""
    return images if images.is_floating_point() else images.float() / 255
