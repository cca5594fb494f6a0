"""Legend: B images, M box places per image (8, 16, 32, ...), N boxes in total, H x W pixels.

A batch of images with their boxes, padded so that few distinct shapes occur.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor
from torch.utils import _pytree as pytree

from dataforge.loading.sampler import box_places

if TYPE_CHECKING:
    from tensordict import TensorDict

    from dataforge.polygons import Polygons
    from dataforge.shards.reader import Shards

# torch's functions that take batches, and the position of `dim` among their arguments
_ALONG_IMAGES = {torch.cat: 1, torch.stack: 1, torch.unbind: 1, torch.split: 2, torch.chunk: 2, torch.tensor_split: 2}


@dataclass(eq=False)
class Batch:
    """Images with variable numbers of boxes.

    Index it, or pass it to `torch.cat`, `stack`, `split`, `chunk`, `tensor_split` or `unbind`: these work along the
    images and pad the boxes of batches with fewer places. It is a pytree of its tensors. `to_tensordict` gives access
    to other features of tensordict, such as memory-mapped files; a batch is not a TensorClass, because importing
    tensordict takes longer than importing torch.

    Attributes:
        images: (B, 3, H, W) RGB; uint8 as decoded, or float32 in 0..1 once augmented.
        boxes: (B, M, 4) float32 xyxy in pixels of `images`, edge coordinates; zeros where padded.
        labels: (B, M) int64; -1 marks padding, and a box that augmentation has dropped.
        flags: (B, M) uint8, CROWD | DIFFICULT | TRUNCATED of `dataforge.record`.
        affine: (B, 3, 3) float32, maps source pixels (edge coordinates) to pixels of `images`: those of the image's own
            record, if a recipe combines several. Its last row is 0, 0, 1, except after `perspective`.
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
        """Return the images, with their boxes, selected by a slice, numbers (n,) or a mask (B,)."""
        return self._each(lambda tensor: tensor[rows])

    def _each(self, change: Callable[[Tensor], Tensor]) -> Batch:
        return Batch(**{field.name: change(getattr(self, field.name)) for field in fields(self)})

    def to(self, device: str | torch.device, non_blocking: bool = False) -> Batch:
        """Return the batch on another device; tensors that are already there are shared."""
        return self._each(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> Batch:
        """Return the batch in page-locked memory, as torch's `DataLoader(pin_memory=True)` asks for."""
        return self._each(Tensor.pin_memory)

    def clone(self) -> Batch:
        """Return a copy that shares no memory with this one."""
        return self._each(Tensor.clone)

    def to_tensordict(self) -> TensorDict:
        """Return the tensors as a `tensordict.TensorDict` of batch size (B,); `Batch(**tensordict)` converts back.

        The first call imports tensordict, which takes seconds if torchvision has not been imported.
        """
        from tensordict import TensorDict

        return TensorDict(vars(self), batch_size=self.index.shape)

    @classmethod
    def __torch_function__(
        cls,
        function: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Apply a torch function that is given batches, tensor by tensor.

        Raises:
            ValueError: a dimension other than the first.
        """
        kwargs = kwargs or {}
        place = _ALONG_IMAGES.get(function)
        if place is None:
            return NotImplemented
        dim = kwargs.get("dim", args[place] if len(args) > place else 0)
        if dim != 0:
            raise ValueError(f"torch.{function.__name__} of batches along dimension {dim}; expected 0, the images")
        values, structure = pytree.tree_flatten((tuple(args), dict(kwargs)), is_leaf=_is_batch)
        width = max(value.labels.shape[-1] for value in values if _is_batch(value))
        values = [value._widened(width) if _is_batch(value) else value for value in values]
        made = {}
        for field in fields(cls):
            parts = [getattr(value, field.name) if _is_batch(value) else value for value in values]
            tensor_args, tensor_kwargs = structure.unflatten(parts)
            made[field.name] = function(*tensor_args, **tensor_kwargs)
        if isinstance(made["index"], Tensor):
            return cls(**made)
        return tuple(cls(*tensors) for tensors in zip(*made.values(), strict=True))

    def _widened(self, width: int) -> Batch:
        """Return the batch with `width` box places per image."""
        more = width - self.labels.shape[-1]
        if more == 0:
            return self
        return replace(
            self,
            boxes=F.pad(self.boxes, (0, 0, 0, more)),
            labels=F.pad(self.labels, (0, more), value=-1),
            flags=F.pad(self.flags, (0, more)),
        )

    def jagged(self) -> tuple[Tensor, Tensor]:
        """Return the boxes without padding, as nested tensors of torch's jagged layout.

        Returns:
            boxes (B, n, 4) xyxy pixels and labels (B, n), where n differs from image to image.
        """
        boxes, labels, _ = self.flat()
        offsets = F.pad((self.labels >= 0).sum(1).cumsum(0), (1, 0))
        nested = torch.nested.nested_tensor_from_jagged
        return nested(boxes, offsets), nested(labels, offsets)

    def polygons(self, shards: Shards) -> Polygons:
        """Return the polygons of the boxes, moved as the images are: number b * M + m is that of box m of image b.

        They are not clipped to the image. There is none for padding, for a box that augmentation has dropped, and for
        a box of another record that a recipe combines with the image's own.

        Args:
            shards: the loader's, with the same split and view.
        """
        table, index, labels = shards.source, self.index.cpu().numpy(), self.labels.cpu().numpy()
        row = table.offsets[index, None] + np.arange(labels.shape[1])
        known = (row < table.offsets[index + 1, None]) & (labels >= 0)
        matrix = self.affine.cpu().numpy().astype(np.float64).repeat(labels.shape[1], axis=0)
        return table.polygons.take(np.where(known, row, -1).reshape(-1)).move(matrix)

    def flat(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return the boxes without padding, one after another.

        Returns:
            boxes (N, 4) xyxy pixels, labels (N,), and image (N,): each box's row in the batch.
        """
        image, place = torch.nonzero(self.labels >= 0, as_tuple=True)
        return self.boxes[image, place], self.labels[image, place], image


pytree.register_dataclass(Batch)


def _is_batch(value: object) -> bool:
    return isinstance(value, Batch)


def pad(
    offsets: NDArray[np.int64], boxes: NDArray[np.float32], labels: NDArray[np.int64], flags: NDArray[np.uint8]
) -> tuple[Tensor, Tensor, Tensor]:
    """Return boxes that are given one after another as padded tensors.

    Args:
        offsets: (B + 1,) image i's boxes are rows offsets[i]:offsets[i + 1] of the others.
        boxes: (N, 4); labels, flags: (N,).

    Returns:
        boxes (B, M, 4), labels (B, M) and flags (B, M), as in `Batch`.
    """
    return pad_each([len(offsets) - 1], offsets, boxes, labels, flags)[0]


def pad_each(
    images: Sequence[int],
    offsets: NDArray[np.int64],
    boxes: NDArray[np.float32],
    labels: NDArray[np.int64],
    flags: NDArray[np.uint8],
) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Return `pad` of several batches, given the number of images of each and the boxes of all."""
    counts, ends = np.diff(offsets), np.cumsum(images)
    most = [counts[end - count : end].max(initial=0) for count, end in zip(images, ends, strict=True)]
    widths = box_places(np.array(most))
    first = np.cumsum(np.repeat(widths, images))  # of each image's places, all in one row
    total = int(first[-1]) if len(first) else 0
    first -= np.repeat(widths, images)
    place = np.arange(len(boxes)) + np.repeat(first - offsets[:-1], counts)
    padded: list[NDArray[Any]] = [np.zeros((total, 4), np.float32), np.full(total, -1), np.zeros(total, np.uint8)]
    for column, values in zip(padded, (boxes, labels, flags), strict=True):
        column[place] = values
    batches, end = [], 0
    for count, width in zip(images, widths.tolist(), strict=True):
        start, end = end, end + count * width
        made = (torch.from_numpy(column[start:end].reshape(count, width, *column.shape[1:])) for column in padded)
        batches.append((next(made), next(made), next(made)))
    return batches
