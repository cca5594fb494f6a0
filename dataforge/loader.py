"""Legend: B images, M box places an image, H x W pixels.

From shards to batches. Threads decode and move pixels straight into the batch's memory; nothing is random but by
(seed, epoch, record), so the same batches come from any number of threads and after any restart.
"""

from __future__ import annotations

import os
import zlib
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from dataforge import augment as aug
from dataforge.augment import cpu
from dataforge.augment import device as accelerator
from dataforge.batch import Batch, pad
from dataforge.errors import ConfigError
from dataforge.sampler import Shape, Step, plan
from dataforge.shards.reader import Shards

AHEAD = 3  # batches that are being made while one is used


def cores() -> int:
    """How many CPU cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@dataclass
class _Pending:
    """A batch whose images the threads are filling: the output itself on the CPU, else a canvas of source pixels."""

    batch: Batch
    parameters: aug.Parameters
    canvas_matrix: NDArray[np.float64]  # (B, 3, 3) canvas pixels to output pixels
    shape: Shape
    futures: list[Future[None]]


class Loader:
    """Batches of one split, for one epoch at a time.

    Iterating twice gives the same batches; call `set_epoch` before each epoch for another order and other
    augmentation, as with torch's `DistributedSampler`.

    Args:
        shards: a folder made by `dataforge ingest`, or opened `Shards`.
        split: the split's name, or the start of one that fits no other.
        batch_size: images a step of one rank.
        size: (height, width) of all images; None with `buckets`.
        buckets: several (height, width): each image goes to the one nearest in aspect ratio, and a batch has one size.
        fit: "letterbox" keeps the aspect ratio, "stretch" does not.
        augment: a recipe's name, a list of `{"op": name, **values}`, or None.
        device: where the batches are; off the CPU, pixels are moved there by the device itself.
        seed: together with the epoch and the record's number it determines all that is random.
        threads: how many decode; None takes one for each core this process may use.
        rank, world: this process's number among those that share the epoch. All take the same number of steps.
        shuffle: mix the records' order.
        drop_last: leave out records that do not fill a step.
        scales: factors of the size, of which one is drawn every 10 steps (multi-scale training).
        min_visible: after augmentation a box is kept when at least this share of its area is in the picture.

    Yields:
        `Batch`: images uint8 (B, 3, H, W), or float32 in 0..1 with a recipe (channels-last in memory).

    Raises:
        ConfigError: an argument is wrong. ShardError: the shards cannot be opened. DataError, while iterating: a
            record is damaged; the text names its shard, number and key.
    """

    def __init__(
        self,
        shards: str | Path | Shards,
        split: str = "train",
        batch_size: int = 32,
        size: Shape | None = (320, 320),
        augment: str | aug.Recipe | None = None,
        device: str | torch.device = "cpu",
        seed: int = 0,
        threads: int | None = None,
        rank: int = 0,
        world: int = 1,
        shuffle: bool = True,
        drop_last: bool = False,
        *,
        buckets: Sequence[Shape] | None = None,
        fit: str = "letterbox",
        scales: Sequence[float] = (1.0,),
        min_visible: float = aug.MIN_VISIBLE,
    ) -> None:
        if (size is None) == (buckets is None):
            if buckets is None:
                raise ConfigError("size is None and no buckets are given; expected one of them")
            size = None
        if batch_size < 1 or not 0 <= rank < world or (threads is not None and threads < 1):
            raise ConfigError(
                f"batch_size {batch_size}, rank {rank}, world {world}, threads {threads}; expected batch_size and "
                "threads of at least 1 and 0 <= rank < world"
            )
        if fit not in aug.FITS:
            raise ConfigError(f"fit is {fit!r}; expected one of {', '.join(aug.FITS)}")
        wanted: Any = buckets if size is None else [size]
        try:
            self.shapes = [(int(h), int(w)) for h, w in wanted]
        except (TypeError, ValueError):
            self.shapes = []
        if not self.shapes or min(min(shape) for shape in self.shapes) < 1:
            raise ConfigError(f"size or buckets {wanted}; expected (height, width), each of at least 1 pixel")
        self.shards = Shards(shards.path if isinstance(shards, Shards) else shards, split)
        self.batch_size, self.seed, self.rank, self.world = batch_size, seed, rank, world
        self.shuffle, self.drop_last, self.fit = shuffle, drop_last, fit
        self.scales, self.min_visible = tuple(scales), min_visible
        self.device = torch.device(device)
        self._on_cpu = self.device.type == "cpu"
        self.recipe = aug.recipe(augment)
        self.threads = threads or cores()
        self.epoch = 0
        self._steps: list[Step] | None = None
        self._first = 0  # where the next iteration starts
        self._next = 0  # the step after the last one given out

    @property
    def classes(self) -> tuple[str, ...]:
        return self.shards.classes

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch that the next iteration gives, from its first step."""
        if epoch != self.epoch:
            self._steps = None
        self.epoch, self._first, self._next = epoch, 0, 0

    def steps(self) -> list[Step]:
        """This epoch's plan, for this rank."""
        if self._steps is None:
            table = self.shards.table
            self._steps = plan(
                table.height,
                table.width,
                self.shapes,
                self.batch_size,
                seed=self.seed,
                epoch=self.epoch,
                rank=self.rank,
                world=self.world,
                shuffle=self.shuffle,
                drop_last=self.drop_last,
                scales=self.scales,
            )
        return self._steps

    def __len__(self) -> int:
        """Steps an epoch."""
        return len(self.steps())

    def _fingerprint(self) -> str:
        facts = (self.shards.fingerprint, self.shards.split, self.batch_size * self.world, self.shapes, self.seed)
        rules = (self.shuffle, self.drop_last, self.fit, self.scales, self.min_visible, [dict(s) for s in self.recipe])
        return f"{zlib.crc32(repr((facts, rules)).encode()):08x}"

    def state_dict(self) -> dict[str, Any]:
        """Where the epoch stands: after the batches that were given out so far."""
        return {"epoch": self.epoch, "step": self._next, "fingerprint": self._fingerprint()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where another loader stood: the next iteration gives the rest of that epoch.

        Raises:
            ConfigError: the state was taken with other data or other settings.
        """
        if state["fingerprint"] != self._fingerprint():
            raise ConfigError("the loader's state was saved with other shards, sizes, seed, batch size or augmentation")
        self.set_epoch(state["epoch"])
        self._first = self._next = state["step"]

    def __iter__(self) -> Iterator[Batch]:
        first = self._first
        self._first, self._next = 0, first
        cv2.setNumThreads(1)  # the threads are ours; OpenCV's own would fight them
        pool = ThreadPoolExecutor(self.threads, "dataforge-decode")
        try:
            todo = iter(self.steps()[first:])
            pending = deque(self._start(pool, step) for step in islice(todo, AHEAD))
            while pending:
                batch = self._finish(pending.popleft())
                pending.extend(self._start(pool, step) for step in islice(todo, 1))
                self._next += 1
                yield batch
        finally:
            pool.shutdown(wait=True, cancel_futures=True)

    def _start(self, pool: ThreadPoolExecutor, step: Step) -> _Pending:
        """Lay a batch out, and hand its images to the threads."""
        table, index, shape = self.shards.table, step.index, step.shape
        height, width = table.height[index], table.width[index]
        parameters = aug.parameters(
            self.recipe, index, height, width, shape, fit=self.fit, seed=self.seed, epoch=self.epoch
        )
        objects = table.take(index)
        row = np.repeat(np.arange(len(index)), np.diff(objects.offsets))
        boxes, keep = aug.move_boxes(
            objects.boxes, row, parameters.matrix, shape, self.min_visible if self.recipe else 0.0
        )
        labels = np.where(keep, objects.labels, -1)

        factors = np.array([cpu.shrink_factors(matrix) for matrix in parameters.matrix])
        if self._on_cpu:
            images = torch.empty((len(index), *shape, 3), dtype=torch.float32 if self.recipe else torch.uint8)
        else:
            sides = -(-np.stack([height, width], 1) // factors)
            images = torch.full((len(index), *sides.max(0).tolist(), 3), aug.FILL, dtype=torch.uint8)
        buffer = images.numpy()

        def work(part: int) -> None:
            for i in range(part, len(index), self.threads):
                pixels = self.shards.pixels(int(index[i]))
                if self._on_cpu:
                    colour = None if parameters.colour is None else parameters.colour[i]
                    cpu.render(pixels, parameters.matrix[i], colour, buffer[i])
                else:
                    small = cpu.shrink(pixels, (int(factors[i, 0]), int(factors[i, 1])))
                    buffer[i, : small.shape[0], : small.shape[1]] = small

        padded_boxes, padded_labels, padded_flags = pad(objects.offsets, boxes, labels, objects.flags)
        batch = Batch(
            images=images.permute(0, 3, 1, 2),
            boxes=padded_boxes,
            labels=padded_labels,
            flags=padded_flags,
            affine=torch.from_numpy(parameters.matrix[:, :2].astype(np.float32)),
            index=torch.from_numpy(index.copy()),
            batch_size=[len(index)],
        )
        widen = np.zeros_like(parameters.matrix)  # canvas pixels to source pixels
        widen[:, 0, 0], widen[:, 1, 1], widen[:, 2, 2] = factors[:, 1], factors[:, 0], 1
        futures = [pool.submit(work, part) for part in range(min(len(index), self.threads))]
        return _Pending(batch, parameters, parameters.matrix @ widen, shape, futures)

    def _finish(self, pending: _Pending) -> Batch:
        for future in pending.futures:
            future.result()
        if self._on_cpu:
            return pending.batch
        batch = pending.batch.pin_memory() if self.device.type == "cuda" else pending.batch
        batch = batch.to(self.device, non_blocking=True)
        matrix = torch.from_numpy(pending.canvas_matrix).float().to(self.device, non_blocking=True)
        images = accelerator.render(batch.images, matrix, pending.shape)
        if pending.parameters.colour is not None:
            colour = torch.from_numpy(pending.parameters.colour).float().to(self.device, non_blocking=True)
            images = accelerator.tint(images, colour)
        batch.images = images if self.recipe else (images * 255).round().byte()
        return batch
