"""The loader, from shards to batches. Threads decode images and warp them into the batch's memory. All randomness is a
function of (seed, epoch, record), so that any number of threads and ranks, and a resumed loader, give the same batches.
"""

from __future__ import annotations

import os
import zlib
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from dataforge.augment import recipes
from dataforge.augment.operations.geometry import FITS
from dataforge.augment.operations.registry import Recipe
from dataforge.errors import ConfigError
from dataforge.loading import ahead, nvjpeg
from dataforge.loading.batch import Batch
from dataforge.loading.buckets import Shape, shapes_of
from dataforge.loading.collate import Collate, Pending
from dataforge.loading.repeats import repeats_of
from dataforge.loading.sampler import Epoch, Order, Step, images_within
from dataforge.loading.shuffle import window_of
from dataforge.loading.transfer import Transfer
from dataforge.loading.window import Plan, windows
from dataforge.shards.reader import Shards
from dataforge.threads import cores, opencv_threads, ordered, workers

AHEAD = 3  # batches being made while one is in use


class Loader:
    """Batches of one split, for one epoch at a time.

    Each complete pass is followed by the next epoch, with another order and other augmentation. `set_epoch` chooses the
    epoch of the next pass, as with torch's `DistributedSampler`; the same epoch gives the same batches.

    A batch, and every view of it, is valid for as long as you keep a reference. When none is left, the memory of its
    images is reused for a later batch, so a loop that drops its batches needs the memory of only a few.

    OpenCV is set to one thread from the first batch of an iteration to its end, since the loader's own threads call it;
    this applies to the whole process. Afterwards the previous number is restored.

    Args:
        shards: a folder written by `dataforge ingest`, or opened `Shards`.
        split: the split's name, or an unambiguous prefix of it. By default the split that `shards` were opened with,
            else "train".

    Sizes of batches and of images:
        batch_size: images per step of one rank, on average over the ranks: a fraction is dealt unevenly.
        budget: instead of `batch_size`, the maximum total pixels of the images of a step of one rank, on average over
            the ranks. A step of all ranks has as many images as `budget * world` pixels allow, so that steps are the
            same for any number of ranks that share one budget.
        size: (height, width) of all images; ignored with a list of `buckets`.
        buckets: several (height, width): each image goes to the one nearest in aspect ratio, and a batch has one size.
            "auto" picks 4 that have at most the area of `size` and leave the least of it empty.
        scales: factors of the size, of which one is drawn every 10 steps (multi-scale training).
        fit: "letterbox" keeps the aspect ratio, "stretch" does not.

    Selection and order of records:
        seed: together with the epoch and the record's number it determines everything random.
        rank, world: this process's number, and how many processes share the epoch. All take the same number of steps.
        shuffle: shuffle the records; "full" is True. "window:N" shuffles within windows of about N records, which hold
            random blocks of 64 successive ones, so that reading is local: docs/scale.md.
        drop_last: leave out records that do not fill a step.
        sampling: "none" takes every record once per epoch; "repeat-factor" takes those of rare classes more often
            (LVIS); (N,) numbers give how often an epoch takes each record on average.
        repeat_threshold: with "repeat-factor", the share of images below which a class counts as rare.
        box_window: number of successive steps whose records are regrouped by their number of boxes, to reduce padding;
            1 disables it.

    Augmentation and errors:
        augment: a recipe's name, a list of `{"op": name, **values}`, or None.
        min_visible: after augmentation a box is kept if at least this share of its area is inside the image; None takes
            the recipe's value.
        transform: a function or `nn.Module` applied to the images of a batch (B, 3, H, W), such as a colour operation
            of kornia; boxes are not changed. What it draws by torch depends on (seed, epoch, the batch's first record).
            A saved state does not contain it: pass the same one when you resume.
        on_error: a damaged image is an error ("raise"), or becomes an image of the fill colour without boxes ("skip"):
            a warning names it, and it is listed in `skipped`. A store that is missing or broken is always an error.

    Device and threads:
        device: where the batches are; if not the CPU, the device itself warps the images, for 3 batches ahead.
        decode: "device" decodes JPEGs there, by nvJPEG. The host decodes all other formats, and images whose pixels the
            recipe changes before the warp or which it combines. Pixels differ by rounding from those of "host".
        threads: number of decoding threads; None takes one for each core this process may use. One more thread lays
            out the next steps.
        verify: compare each image with its CRC-32 when it is read for the first time. False skips the check, as does
            passing `shards` that were opened without it.

    Yields:
        `Batch`: images uint8 (B, 3, H, W), or float32 in 0..1 with a recipe (channels-last in memory).

    Raises:
        ConfigError: an argument is wrong; when steps are planned, an epoch has too few records for them; a forked
            process continues an iteration of its parent.
        ShardError: the shards cannot be opened, or, while iterating, a store is missing or broken.
        DataError, while iterating: a record is damaged; the message names its shard, number and key.
    """

    def __init__(
        self,
        shards: str | Path | Shards,
        split: str | None = None,
        batch_size: int | Fraction = 32,
        size: Shape | None = (320, 320),
        augment: str | Recipe | None = None,
        device: str | torch.device = "cpu",
        seed: int = 0,
        threads: int | None = None,
        rank: int = 0,
        world: int = 1,
        shuffle: bool | str = True,
        drop_last: bool = False,
        *,
        buckets: Sequence[Shape] | str | None = None,
        budget: int | Fraction | None = None,
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
        for name, value, choices in (
            ("fit", fit, FITS),
            ("on_error", on_error, ("raise", "skip")),
            ("decode", decode, ("host", "device")),
        ):
            if value not in choices:
                raise ConfigError(f"{name} is {value!r}; expected {' or '.join(choices)}")
        if isinstance(shards, Shards):
            split, verify = split or shards.split or "train", verify and shards.verify
            self.shards = Shards(shards.path, split, shards.view, verify, shards.trust)
        else:
            self.shards = Shards(shards, split or "train", verify=verify)
        self.local = window_of(shuffle) is not None
        shuffle = shuffle == "full" or shuffle
        self.device = torch.device(device)
        if decode == "device":
            nvjpeg.check(self.device)
        self.threads = threads or cores()
        table = self.shards.table
        self.shapes, self.scales = shapes_of(size, buckets, table), tuple(scales)
        self.order = Order(
            shapes=self.shapes,
            batch_size=[
                int(batch_size * world) if budget is None else images_within(shape, budget, world, self.scales)
                for shape in self.shapes
            ],
            seed=seed,
            rank=rank,
            world=world,
            shuffle=shuffle,
            drop_last=drop_last,
            scales=self.scales,
            repeats=repeats_of(sampling, repeat_threshold, table),
            box_window=box_window,
        )
        self.collate = Collate(
            self.shards,
            recipes.recipe(augment),
            fit=fit,
            seed=seed,
            min_visible=min_visible,
            device=self.device,
            decode=decode,
            skip=on_error == "skip",
            keep=AHEAD + 2,  # the consumer's batch, and the one it still references while it asks for the next
            transform=transform,
        )
        self.epoch = 0
        self._steps: Epoch | None = None
        self._first = 0  # where the next iteration starts
        self._next = 0  # the step after the last one yielded
        self._passed = False  # whether the last iteration reached the end of the epoch

    @property
    def classes(self) -> tuple[str, ...]:
        return self.shards.classes

    @property
    def skipped(self) -> dict[int, str]:
        """Record number -> error, for all records skipped so far: its own image is damaged, or one that the recipe
        combines with it."""
        return self.collate.skipped

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch of the next iteration, which starts from its first step."""
        if epoch != self.epoch:
            self._steps = None
        self.epoch, self._first, self._next, self._passed = epoch, 0, 0, False

    def steps(self) -> Epoch:
        """Return this epoch's plan for this rank: its steps, to iterate over; the last ones may be planned later."""
        if self._steps is None:
            self._steps = self.order.steps(self.shards.table, self.epoch)
        return self._steps

    def __len__(self) -> int:
        """Return the number of steps per epoch."""
        return len(self.steps())

    def _fingerprint(self) -> str:
        order, look = self.order, self.collate
        facts = (
            self.shards.fingerprint,
            self.shards.split,
            self.shards.view,
            order.batch_size,
            self.shapes,
            order.seed,
        )
        repeats = None if order.repeats is None else zlib.crc32(order.repeats.tobytes())
        recipe = [dict(step) for step in look.recipe]
        rules = (
            order.shuffle,
            order.drop_last,
            look.fit,
            order.scales,
            look.min_visible,
            recipe,
            repeats,
            order.box_window,
        )
        return f"{zlib.crc32(repr((facts, rules)).encode()):08x}"

    def state_dict(self) -> dict[str, Any]:
        """Return the position in the epoch, after the batches yielded so far, and a fingerprint of the settings."""
        return {"epoch": self.epoch, "step": self._next, "fingerprint": self._fingerprint()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Resume where another loader stopped: the next iteration yields the rest of that epoch.

        The number of ranks may differ if `batch_size * world` is the same, and each rank has 2 images or more.

        Raises:
            ConfigError: the state was taken with other data or other settings.
        """
        if state["fingerprint"] != self._fingerprint():
            raise ConfigError("the loader's state was saved with other shards, sizes, seed, batch size or augmentation")
        self.set_epoch(state["epoch"])
        self._first = self._next = state["step"]

    def __iter__(self) -> Iterator[Batch]:
        if self._passed:
            self.set_epoch(self.epoch + 1)
        first, epoch, process = self._first, self.epoch, os.getpid()
        self._first, self._next = 0, first
        self.shards.check_unchanged()
        lay_out = partial(self.collate.lay_out, epoch=epoch)
        laid = ordered(lay_out, windows(self.announced(first), self.shards.table), threads=1, ahead=2)
        with opencv_threads(1):  # the threads are the loader's; OpenCV's own would compete with them
            pool = workers(self.threads, "dataforge-decode")
            transfer = None if self.collate.on_cpu else Transfer(self.device)
            try:
                todo = ahead.read_ahead(self.shards, chain.from_iterable(laid))
                begun = deque(self._begin(pool, transfer, plan, epoch) for plan in islice(todo, AHEAD))
                while begun:
                    if os.getpid() != process:
                        raise ConfigError(
                            f"these batches are made by threads of process {process}, which this forked process does "
                            "not have; expected iter(loader) in the process that takes the batches"
                        )
                    pending, moved = begun.popleft()
                    batch = moved()
                    begun.extend(self._begin(pool, transfer, plan, epoch) for plan in islice(todo, 1))
                    self._next += 1
                    yield self.collate.finish(pending, batch)
                    del pending, moved, batch
                self._passed = True
            finally:
                laid.close()
                pool.shutdown(wait=True, cancel_futures=True)
                if transfer:
                    transfer.end()

    def announced(self, first: int = 0) -> Iterator[Step]:
        """Yield the steps from `first` on, and announce their records to a store at a URL."""

        def following() -> Epoch:
            return self.order.steps(self.shards.table, self.epoch + 1)

        return ahead.announced(self.shards, self.steps(), following, first=first, local=self.local)

    def _begin(
        self, pool: ThreadPoolExecutor, transfer: Transfer | None, plan: Plan, epoch: int
    ) -> tuple[Pending, Callable[[], Batch]]:
        pending = self.collate.start(plan, epoch)
        work = [pool.submit(self.collate.fill, pending) for _ in range(min(self.threads, pending.shares))]

        def move() -> Batch:
            for done in work:
                done.result()
            return self.collate.move(pending)

        return pending, transfer.begin(move) if transfer else move
