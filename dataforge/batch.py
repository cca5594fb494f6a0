"""Legend: B images, M box places an image (8, 16, 32, ...), N boxes in all, H x W pixels.

A batch of images with their boxes, padded so that few shapes exist.
"""

from __future__ import annotations

import torch
from tensordict import TensorClass
from torch import Tensor


class Batch(TensorClass):
    """Images with variable numbers of boxes.

    Attributes:
        images: (B, 3, H, W) RGB; uint8 as decoded, or float32 in 0..1 once augmented.
        boxes: (B, M, 4) float32 xyxy in pixels of `images`, edge coordinates; zeros where padded.
        labels: (B, M) int64; -1 marks padding, and a box that augmentation has dropped.
        flags: (B, M) uint8, CROWD | DIFFICULT | TRUNCATED of `dataforge.record`.
        affine: (B, 2, 3) float32, maps source pixels (edge coordinates) to pixels of `images`.
        index: (B,) int64 record numbers in the shards.
    """

    images: Tensor
    boxes: Tensor
    labels: Tensor
    flags: Tensor
    affine: Tensor
    index: Tensor

    def flat(self) -> tuple[Tensor, Tensor, Tensor]:
        """The boxes that are there, without padding.

        Returns:
            boxes (N, 4) xyxy pixels, labels (N,), and image (N,): each box's row in the batch.
        """
        image, place = torch.nonzero(self.labels >= 0, as_tuple=True)
        return self.boxes[image, place], self.labels[image, place], image


def box_places(most: int) -> int:
    """How many box places a batch has whose fullest image holds `most` boxes: 8, 16, 32, ..."""
    places = 8
    while places < most:
        places *= 2
    return places
