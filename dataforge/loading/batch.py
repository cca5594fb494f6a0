"""Legend: B images, M box places an image (8, 16, 32, ...), N boxes in all, H x W pixels.

A batch of images with their boxes, padded so that few shapes exist.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dataforge.loading.sampler import box_places


@dataclass(eq=False)
class Batch:
    """Images with variable numbers of boxes.

    A plain dataclass, since importing tensordict costs more than importing torch itself.

    Attributes:
        images: (B, 3, H, W) RGB; uint8 as decoded, or float32 in 0..1 once augmented.
        boxes: (B, M, 4) float32 xyxy in pixels of `images`, edge coordinates; zeros where padded.
        labels: (B, M) int64; -1 marks padding, and a box that augmentation has dropped.
        flags: (B, M) uint8, CROWD | DIFFICULT | TRUNCATED of `dataforge.record`.
        affine: (B, 3, 3) float32, maps source pixels (edge coordinates) to pixels of `images`: those of the image's own
            record, where a recipe combines several. Its last row is 0, 0, 1, but after `perspective`.
        index: (B,) int64 record numbers in the shards.
    """

    images: Tensor
    boxes: Tensor
    labels: Tensor
    flags: Tensor
    affine: Tensor
    index: Tensor

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, rows: Tensor | slice) -> Batch:
        """Some of the images, with their boxes: a slice, numbers (n,) or a mask (B,)."""
        return self._each(lambda tensor: tensor[rows])

    def _each(self, change: Callable[[Tensor], Tensor]) -> Batch:
        return Batch(**{field.name: change(getattr(self, field.name)) for field in fields(self)})

    def to(self, device: str | torch.device, non_blocking: bool = False) -> Batch:
        """The batch on another device; tensors that are there already are shared."""
        return self._each(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> Batch:
        """The batch in page-locked memory, as torch's `DataLoader(pin_memory=True)` asks for."""
        return self._each(Tensor.pin_memory)

    def clone(self) -> Batch:
        """A copy that shares no memory with this one."""
        return self._each(Tensor.clone)

    def flat(self) -> tuple[Tensor, Tensor, Tensor]:
        """The boxes that are there, without padding.

        Returns:
            boxes (N, 4) xyxy pixels, labels (N,), and image (N,): each box's row in the batch.
        """
        image, place = torch.nonzero(self.labels >= 0, as_tuple=True)
        return self.boxes[image, place], self.labels[image, place], image


def pad(
    offsets: NDArray[np.int64], boxes: NDArray[np.float32], labels: NDArray[np.int64], flags: NDArray[np.uint8]
) -> tuple[Tensor, Tensor, Tensor]:
    """Boxes one after another, as padded tensors.

    Args:
        offsets: (B + 1,) image i's boxes are rows offsets[i]:offsets[i + 1] of the others.
        boxes: (N, 4); labels, flags: (N,).

    Returns:
        boxes (B, M, 4), labels (B, M) and flags (B, M), as in `Batch`.
    """
    counts = np.diff(offsets)
    width = int(box_places(counts).max(initial=8))
    row = np.repeat(np.arange(len(counts)), counts)
    place = np.arange(len(row)) - np.repeat(offsets[:-1], counts)
    padded_boxes = np.zeros((len(counts), width, 4), np.float32)
    padded_labels = np.full((len(counts), width), -1, np.int64)
    padded_flags = np.zeros((len(counts), width), np.uint8)
    padded_boxes[row, place], padded_labels[row, place], padded_flags[row, place] = boxes, labels, flags
    return torch.from_numpy(padded_boxes), torch.from_numpy(padded_labels), torch.from_numpy(padded_flags)
