"""From shards to batches. Threads decode and move pixels straight into the batch's memory; nothing is random but by
(seed, epoch, record), so the same batches come from any number of threads and ranks and after any restart.
"""

from __future__ import annotations

import zlib
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from dataforge.augment import recipes
from dataforge.augment.operations.geometry import FITS
from dataforge.augment.operations.registry import Recipe
from dataforge.errors import ConfigError
from dataforge.loading import nvjpeg
from dataforge.loading.batch import Batch
from dataforge.loading.buckets import Shape, auto_shapes
from dataforge.loading.collate import Collate, Pending
from dataforge.loading.sampler import Step, plan, repeat_factors, scaled
from dataforge.loading.transfer import Transfer
from dataforge.shards.reader import Shards
from dataforge.threads import cores

AHEAD = 3  # batches that are being made while one is used


class Loader:
    """Batches of one split, for one epoch at a time.

    Iterating twice gives the same batches; call `set_epoch` before each epoch for another order and other
    augmentation, as with torch's `DistributedSampler`.

    A batch, and every view of it, is yours for as long as you keep it. When nobody refers to its images any more, their
    memory is used for a later batch; so a loop that lets batches go runs in the memory of a few.

    Args:
        shards: a folder made by `dataforge ingest`, or opened `Shards`.
        split: the split's name, or the start of one that fits no other. By default the split that `shards` were opened
            with, else "train".
        batch_size: images a step of one rank.
        size: (height, width) of all images; of no effect with a list of `buckets`.
        buckets: several (height, width): each image goes to the one nearest in aspect ratio, and a batch has one size.
            "auto" picks 4 that have at most the area of `size` and leave the least of it empty.
        budget: instead of `batch_size`, how many pixels the images of a step of one rank may have together.
        fit: "letterbox" keeps the aspect ratio, "stretch" does not.
        augment: a recipe's name, a list of `{"op": name, **values}`, or None.
        device: where the batches are; off the CPU, pixels are moved there by the device itself, for 3 batches ahead.
        seed: together with the epoch and the record's number it determines all that is random.
        threads: how many decode; None takes one for each core this process may use.
        rank, world: this process's number among those that share the epoch. All take the same number of steps.
        shuffle: mix the records' order.
        drop_last: leave out records that do not fill a step.
        scales: factors of the size, of which one is drawn every 10 steps (multi-scale training).
        min_visible: after augmentation a box is kept when at least this share of its area is in the picture; None takes
            what the recipe says.
        sampling: "none" takes every record once an epoch; "repeat-factor" those of rare classes more often (LVIS); (N,)
            numbers say how often an epoch takes each record on average.
        repeat_threshold: with "repeat-factor", the share of images below which a class counts as rare.
        box_window: so many steps deal their records out anew by the number of boxes, against padding; 1 does not.
        on_error: a damaged image is an error ("raise"), or becomes an empty grey image without boxes ("skip"); it is
            warned of and listed in `skipped`.
        transform: your own function or `nn.Module` on the images of a batch (B, 3, H, W), such as one of kornia's on
            colour; boxes stay where they are. What it draws by torch goes by (seed, epoch, the batch's first record).
            A saved state does not know it: give the same one when you go on.
        decode: "device" has JPEGs decoded there, by nvJPEG; the host decodes all else, and what is turned, blurred or
            the like by the recipe, or combined with others. Pixels differ by rounding from those of "host".
        verify: compare each image with its CRC-32 when it is read for the first time. False trusts the disk, as it
            does for `shards` that were opened so.

    Yields:
        `Batch`: images uint8 (B, 3, H, W), or float32 in 0..1 with a recipe (channels-last in memory).

    Raises:
        ConfigError: an argument is wrong. ShardError: the shards cannot be opened. DataError, while iterating: a
            record is damaged; the text names its shard, number and key.
    """

    def __init__(
        self,
        shards: str | Path | Shards,
        split: str | None = None,
        batch_size: int = 32,
        size: Shape | None = (320, 320),
        augment: str | Recipe | None = None,
        device: str | torch.device = "cpu",
        seed: int = 0,
        threads: int | None = None,
        rank: int = 0,
        world: int = 1,
        shuffle: bool = True,
        drop_last: bool = False,
        *,
        buckets: Sequence[Shape] | str | None = None,
        budget: int | None = None,
        fit: str = "letterbox",
        scales: Sequence[float] = (1.0,),
        min_visible: float | None = None,
        sampling: str | NDArray[np.float64] = "none",
        repeat_threshold: float = 0.001,
        box_window: int = 1,
        on_error: str = "raise",
        transform: Callable[[torch.Tensor], torch.Tensor] | None = None,
        decode: str = "host",
        verify: bool = True,
    ) -> None:
        if batch_size < 1 or not 0 <= rank < world or (threads is not None and threads < 1) or box_window < 1:
            raise ConfigError(
                f"batch_size {batch_size}, rank {rank}, world {world}, threads {threads}, box_window {box_window}; "
                "expected 0 <= rank < world, and at least 1 of the others"
            )
        if fit not in FITS:
            raise ConfigError(f"fit is {fit!r}; expected one of {', '.join(FITS)}")
        if on_error not in ("raise", "skip"):
            raise ConfigError(f"on_error is {on_error!r}; expected raise or skip")
        if decode not in ("host", "device"):
            raise ConfigError(f"decode is {decode!r}; expected host or device")
        if isinstance(shards, Shards):
            split, verify = split or shards.split or "train", verify and shards.verify
            self.shards = Shards(shards.path, split, shards.view, verify)
        else:
            self.shards = Shards(shards, split or "train", verify=verify)
        self.shapes = self._shapes(size, buckets)
        self.batch_size, self.seed, self.rank, self.world = batch_size, seed, rank, world
        self.shuffle, self.drop_last, self.fit = shuffle, drop_last, fit
        self.scales, self.min_visible, self.box_window = tuple(scales), min_visible, box_window
        self.batch_sizes = [batch_size if budget is None else self._fitting(shape, budget) for shape in self.shapes]
        self.repeats = self._repeats(sampling, repeat_threshold)
        self.device = torch.device(device)
        if decode == "device":
            nvjpeg.check(self.device)
        self.recipe = recipes.recipe(augment)
        self.threads = threads or cores()
        self.collate = Collate(
            self.shards,
            self.recipe,
            fit=fit,
            seed=seed,
            min_visible=min_visible,
            device=self.device,
            decode=decode,
            skip=on_error == "skip",
            keep=AHEAD + 2,  # the consumer's, and the one it has not let go of while it asks for the next
            transform=transform,
        )
        self.epoch = 0
        self._steps: list[Step] | None = None
        self._first = 0  # where the next iteration starts
        self._next = 0  # the step after the last one given out

    def _shapes(self, size: Shape | None, buckets: Sequence[Shape] | str | None) -> list[Shape]:
        if size is None and (buckets is None or isinstance(buckets, str)):
            raise ConfigError("size is None and no buckets are given; expected one of them")
        wanted: Any = [size] if buckets is None or buckets == "auto" else buckets
        try:
            shapes = [(int(h), int(w)) for h, w in wanted]
        except (TypeError, ValueError):
            shapes = []
        if not shapes or min(min(shape) for shape in shapes) < 1:
            raise ConfigError(
                f"size or buckets {wanted!r}; expected (height, width), each of at least 1 pixel, or buckets 'auto'"
            )
        if buckets == "auto":
            table = self.shards.table
            return auto_shapes(table.height, table.width, shapes[0][0] * shapes[0][1])
        return shapes

    def _fitting(self, shape: Shape, budget: int) -> int:
        """How many images of a shape a budget of pixels allows, at the largest of the scales."""
        largest = max(h * w for h, w in (scaled(shape, scale) for scale in self.scales))
        if budget < largest:
            raise ConfigError(f"budget {budget}; expected at least the {largest} pixels of one image")
        return budget // largest

    def _repeats(self, sampling: str | NDArray[np.float64], threshold: float) -> NDArray[np.float64] | None:
        if isinstance(sampling, str):
            if sampling == "none":
                return None
            if sampling != "repeat-factor" or not threshold > 0:
                raise ConfigError(
                    f"sampling is {sampling!r}, repeat_threshold {threshold}; expected none, repeat-factor or an "
                    "array of how often to take each record, and a threshold above 0"
                )
            table = self.shards.table
            return repeat_factors(table.labels, table.image, len(table), threshold)
        repeats = np.asarray(sampling, np.float64)
        if repeats.shape != (len(self.shards),) or not np.isfinite(repeats).all() or (repeats < 0).any():
            raise ConfigError(
                f"sampling: an array of shape {repeats.shape}; expected ({len(self.shards)},) finite numbers from 0 on"
            )
        return repeats

    @property
    def classes(self) -> tuple[str, ...]:
        return self.shards.classes

    @property
    def skipped(self) -> dict[int, str]:
        """Record number -> what is wrong with its image, of those that were skipped so far."""
        return self.collate.skipped

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
                self.batch_sizes,
                seed=self.seed,
                epoch=self.epoch,
                rank=self.rank,
                world=self.world,
                shuffle=self.shuffle,
                drop_last=self.drop_last,
                scales=self.scales,
                repeats=self.repeats,
                boxes=np.diff(table.offsets),
                box_window=self.box_window,
            )
        return self._steps

    def __len__(self) -> int:
        """Steps an epoch."""
        return len(self.steps())

    def _fingerprint(self) -> str:
        whole = [size * self.world for size in self.batch_sizes]
        facts = (self.shards.fingerprint, self.shards.split, self.shards.view, whole, self.shapes, self.seed)
        repeats = None if self.repeats is None else zlib.crc32(self.repeats.tobytes())
        recipe = [dict(step) for step in self.recipe]
        rules = (
            self.shuffle,
            self.drop_last,
            self.fit,
            self.scales,
            self.min_visible,
            recipe,
            repeats,
            self.box_window,
        )
        return f"{zlib.crc32(repr((facts, rules)).encode()):08x}"

    def state_dict(self) -> dict[str, Any]:
        """Where the epoch stands: after the batches that were given out so far."""
        return {"epoch": self.epoch, "step": self._next, "fingerprint": self._fingerprint()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where another loader stood: the next iteration gives the rest of that epoch.

        The number of ranks may be another one if `batch_size * world` is the same, and each rank has 2 images or more.

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
        pool = ThreadPoolExecutor(self._workers, "dataforge-decode")
        transfer = None if self.collate.on_cpu else Transfer(self.device)
        try:
            todo = iter(self.steps()[first:])
            begun = deque(self._begin(pool, transfer, step) for step in islice(todo, AHEAD))
            while begun:
                pending, moved = begun.popleft()
                batch = moved()
                begun.extend(self._begin(pool, transfer, step) for step in islice(todo, 1))
                self._next += 1
                yield self.collate.finish(pending, batch)
                del pending, moved, batch
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
            if transfer:
                transfer.end()

    @cached_property
    def _workers(self) -> int:
        """How many threads decode: one less where all batches are copies of stored pixels.

        While one core copies such a batch, the caller's is busy with laying out the next ones; of two that copied on
        two cores, one would wait for the other, at three quarters of the speed.
        """
        table, shards = self.shards.table, self.shards
        if shards.codec != "raw" or shards.channels != 3 or self.recipe or not self.collate.on_cpu:
            return self.threads
        fitting = [(table.height == h) & (table.width == w) for h, w in self.shapes]
        return max(1, self.threads - 1) if self.scales == (1.0,) and np.any(fitting, 0).all() else self.threads

    def _begin(
        self, pool: ThreadPoolExecutor, transfer: Transfer | None, step: Step
    ) -> tuple[Pending, Callable[[], Batch]]:
        pending = self.collate.start(step, self.epoch)
        work = [pool.submit(self.collate.fill, pending) for _ in range(min(self._workers, len(step.index)))]

        def move() -> Batch:
            for done in work:
                done.result()
            return self.collate.move(pending)

        return pending, transfer.begin(move) if transfer else move
