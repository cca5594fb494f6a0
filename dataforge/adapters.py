"""Legend: B images, N boxes in total, n boxes of one image, H x W pixels.

Adapters for other training loops: a loader's images in `torch.utils.data.DataLoader`, and batches in the formats of
torchvision's detectors and Ultralytics' trainers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from dataforge.errors import ConfigError
from dataforge.loading.batch import Batch
from dataforge.loading.loader import Loader
from dataforge.loading.sampler import Step
from dataforge.record import CROWD
from dataforge.shards.reader import Shards

__all__ = ["Records", "to_torchvision", "to_ultralytics"]


class Records(Dataset[Batch]):
    """A loader's records as a map-style dataset, for a `DataLoader` with any sampler and any number of workers:

        DataLoader(Records(Loader(...)), batch_size=32, shuffle=True, num_workers=2, collate_fn=Records.collate)

    It returns whole batches, made in the calling thread. The `DataLoader` determines order and batch size; the loader
    determines the images, by (seed, epoch, record). Workers copy the epoch when they start, so `set_epoch` has no
    effect on `persistent_workers`. While a batch is made, OpenCV has one thread.

    Args:
        loader: on the CPU, with one size.

    Raises:
        ConfigError: the loader has buckets or another device. DataError, when an image is damaged. ShardError, when a
            store is missing or broken.
    """

    def __init__(self, loader: Loader) -> None:
        if len(loader.shapes) > 1 or loader.device.type != "cpu":
            raise ConfigError(
                f"the loader has sizes {loader.shapes} on {loader.device}; expected one size and the CPU, since a "
                "DataLoader's batches mix all images and come from its workers"
            )
        self.loader = loader
        # 1 + the epoch in which a record was last skipped, 0 for never; workers write to the same memory
        self._skipped_in = torch.zeros(len(loader.shards), dtype=torch.int64).share_memory_()

    @property
    def skipped(self) -> dict[int, str]:
        """`Loader.skipped`, with the records that workers skipped: they are made again here to get the error."""
        for i in torch.nonzero(self._skipped_in)[:, 0].tolist():
            if i not in self.loader.skipped:
                self._make(np.array([i], np.int64), int(self._skipped_in[i]) - 1)
        return self.loader.skipped

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch whose augmentation the next images get."""
        self.loader.set_epoch(epoch)

    def __len__(self) -> int:
        return len(self.loader.shards)

    def __getitem__(self, i: int) -> Batch:
        """Return a batch of record i alone."""
        return self.__getitems__([i])

    def __getitems__(self, indices: Sequence[int]) -> Batch:
        """Return a batch of these records."""
        index, epoch = np.array(indices, np.int64), self.loader.epoch
        batch = self._make(index, epoch)
        for i in self.loader.skipped.keys() & set(indices):
            self._skipped_in[i] = epoch + 1
        return batch

    def _make(self, index: NDArray[np.int64], epoch: int) -> Batch:
        return self.loader.collate.make(Step(self.loader.shapes[0], index, index), epoch)

    @staticmethod
    def collate(batch: Batch) -> Batch:
        """Return the batch unchanged; the `collate_fn` to pass to the `DataLoader`."""
        return batch


def to_torchvision(batch: Batch, first_label: int = 1) -> tuple[list[Tensor], list[dict[str, Tensor]]]:
    """Return the lists that `torchvision.models.detection` takes: `model(images, targets)`.

    Args:
        first_label: the number of class 0; torchvision counts the background as 0.

    Returns:
        B images (3, H, W) float32 in 0..1, and B dicts: "boxes" (n, 4) float32 xyxy pixels, "labels" (n,) int64,
        "image_id" (1,) the record's number, "area" (n,) float32 of the boxes, "iscrowd" (n,) int64.
    """
    images = batch.images if batch.images.is_floating_point() else batch.images.float() / 255
    targets = []
    for i, used in enumerate(batch.labels >= 0):
        boxes = batch.boxes[i, used]
        targets.append(
            {
                "boxes": boxes,
                "labels": batch.labels[i, used] + first_label,
                "image_id": batch.index[i : i + 1],
                "area": (boxes[:, 2:] - boxes[:, :2]).prod(1),
                "iscrowd": (batch.flags[i, used] & CROWD > 0).long(),
            }
        )
    return list(images), targets


def to_ultralytics(batch: Batch, shards: Shards) -> dict[str, Any]:
    """Return the dict that Ultralytics' detection trainers take, as `ultralytics.data.YOLODataset.collate_fn` does.

    Crowd boxes are left out: the format cannot mark them.

    Args:
        shards: where the batch is from, for the names and sizes.

    Returns:
        "img" (B, 3, H, W) uint8; "cls" (N, 1) float32, "bboxes" (N, 4) float32 centre x, centre y, width, height in
        0..1 of the image, "batch_idx" (N,) float32 each box's image; and lists of B: "im_file" the key, "ori_shape"
        and "resized_shape" (height, width).
    """
    height, width = batch.images.shape[-2:]
    image, slot = torch.nonzero((batch.labels >= 0) & (batch.flags & CROWD == 0), as_tuple=True)
    boxes = batch.boxes[image, slot] / batch.boxes.new_tensor([width, height, width, height])
    cxcywh_unit = torch.cat([(boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]], 1)
    index = batch.index.tolist()
    table = shards.source
    return {
        "img": (batch.images * 255).round().byte() if batch.images.is_floating_point() else batch.images,
        "cls": batch.labels[image, slot, None].float(),
        "bboxes": cxcywh_unit,
        "batch_idx": image.float(),
        "im_file": [table.key[i] for i in index],
        "ori_shape": [(int(table.height[i]), int(table.width[i])) for i in index],
        "resized_shape": [(height, width)] * len(index),
    }
