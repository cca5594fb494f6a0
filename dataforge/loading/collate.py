"""Legend: B images, P parts (B where no records are combined), M box places per image, H x W pixels.

Collation of one step's records into a batch: lay it out, fill it image by image in any number of threads, and finish
it on its device.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dataforge.augment.executors import antialias, cpu
from dataforge.augment.executors import device as accelerator
from dataforge.augment.operations.geometry import FILL
from dataforge.augment.operations.registry import Recipe
from dataforge.errors import DataError
from dataforge.loading import nvjpeg
from dataforge.loading.batch import Batch
from dataforge.loading.buffers import Buffers
from dataforge.loading.sampler import Step
from dataforge.loading.window import Matrices, Plan, lay_out_steps, shrink_factors
from dataforge.rng import bits
from dataforge.shards.index import PIXELS
from dataforge.shards.reader import Shards
from dataforge.threads import opencv_threads

CONVERTED = 8  # images that a thread converts from planes at once
_NOTHING = torch.zeros((1, 1, 3), dtype=torch.uint8)  # in place of a missing image


@dataclass(eq=False)
class Pending:
    """A batch whose images are being made: the final images, or source images that the device will warp.

    Attributes:
        batch: final except for the pixels.
        shares: number of `rows` at first.
        rows: parts of the batch that no thread has begun yet; the thread that takes one fills it.
        plan: the rest of it; record, reduce, inner: as there.
        canvas: (B, 3, 3) pixels of `batch.images` to output pixels, if the device warps them; else None.
        sources: (B,) the `sources` of `nvjpeg.canvas`, if the device decodes; else none.
        key: seeds the draws of `transform`.
        faults: row -> the error of its image.
    """

    batch: Batch
    shares: int
    rows: Iterator[slice]
    plan: Plan
    record: list[int]
    reduce: list[int]
    inner: list[list[int]]
    canvas: Matrices | None
    sources: list[Tensor]
    key: int
    faults: dict[int, str] = field(default_factory=dict)


class Collate:
    """Makes batches of steps. Threads may share it, and it pickles.

    Args:
        device: where the batches are. On the CPU, the thread that decodes an image also warps it; another device warps
            the whole batch at once, except for recipes that combine records.
        decode: "host", or "device" to decode JPEGs there too.
        skip: replace a damaged image by one of the recipe's fill colour without boxes; else it is an error.
        keep: number of batches whose memory is kept for reuse.
        transform: applied to a batch's images at the end.

    Attributes:
        skipped: record -> the error of its own image or of one that the recipe combines with it, for all records
            skipped so far.
    """

    def __init__(
        self,
        shards: Shards,
        recipe: Recipe,
        *,
        fit: str,
        seed: int,
        min_visible: float | None,
        device: torch.device,
        decode: str,
        skip: bool,
        keep: int,
        transform: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        self.shards, self.recipe, self.fit, self.seed, self.min_visible = shards, recipe, fit, seed, min_visible
        self.device, self.on_cpu, self.decode, self.skip = device, device.type == "cpu", decode, skip
        self.keep, self.transform = keep, transform
        self.skipped: dict[int, str] = {}
        self._buffers = Buffers(keep, pin=device.type == "cuda")

    def __getstate__(self) -> dict[str, object]:
        return {name: value for name, value in vars(self).items() if name != "_buffers"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._buffers = Buffers(self.keep, pin=self.device.type == "cuda")

    def make(self, step: Step, epoch: int) -> Batch:
        """Make a batch in the calling thread."""
        with opencv_threads(1):  # processes or threads are the caller's; OpenCV's own would compete with them
            pending = self.start(self.lay_out([step], epoch)[0], epoch)
            self.fill(pending)
            return self.finish(pending, self.move(pending))

    def lay_out(self, steps: Sequence[Step], epoch: int) -> list[Plan]:
        """Lay out the batches of some steps."""
        how: dict[str, Any] = {"fit": self.fit, "seed": self.seed, "epoch": epoch, "min_visible": self.min_visible}
        return lay_out_steps(steps, self.shards, self.recipe, **how)

    def start(self, plan: Plan, epoch: int) -> Pending:
        """Take memory for a batch, ready for `fill`."""
        count, (height, width) = len(plan.index), plan.step.shape
        if self.shards.remote and len(plan.record) > count:
            self.shards.prefetch(plan.record.tolist())  # a mixer's partners are not in the step
        images, canvas, sources = self._memory(plan)
        stored = self.shards.codec in PIXELS and self.shards.channels == 3
        whole = plan.inner == [0, 0, width, height]
        copied = stored and canvas is None and bool((plan.reduce == 1).all() and whole.all())
        # stored batches that are only copied are one copy; the conversion of planes is worth several threads
        share = 1 if not copied else count if self.shards.codec == "raw" else CONVERTED
        key = 0
        if self.transform is not None:
            key = int(bits(self.seed, epoch, plan.step.sample[:1], "transform")[0, 0] >> np.uint64(1))
        return Pending(
            batch=Batch(images.permute(0, 3, 1, 2), plan.boxes, plan.labels, plan.flags, plan.affine, plan.index),
            shares=-(-count // share),
            rows=iter([slice(i, min(i + share, count)) for i in range(0, count, share)]),
            plan=plan,
            record=plan.record.tolist(),
            reduce=plan.reduce.tolist(),
            inner=plan.inner.tolist(),
            canvas=canvas,
            sources=sources,
            key=key,
        )

    def _memory(self, plan: Plan) -> tuple[Tensor, Matrices | None, list[Tensor]]:
        """Return the memory that the images of a batch are written to, (B, height, width, 3), and, if the device has
        work left, `canvas` and `sources` of `Pending`."""
        count = len(plan.index)
        if self.on_cpu or len(plan.record) > count:
            shape = (count, *plan.step.shape, 3)
            return self._buffers.take(shape, torch.float32 if self.recipe else torch.uint8), None, []
        factors = shrink_factors(plan.matrix, plan.size)  # left after decoding
        canvas = antialias.from_blocks(plan.matrix, factors)
        sides = (-(-plan.size // factors)).max(0).tolist()
        if self.decode == "device" and self.shards.codec not in PIXELS:
            return torch.empty((count, *sides, 0), dtype=torch.uint8), canvas, [_NOTHING] * count
        images = self._buffers.take((count, *sides, 3), torch.uint8)
        images[:] = torch.tensor(plan.layout.parameters.fill, dtype=torch.uint8)
        return images, canvas, []

    def fill(self, pending: Pending) -> None:
        """Make images until all are begun. Any number of threads may call this at once.

        Raises:
            DataError: an image is damaged and `skip` is off. ShardError: a store is missing or broken.
        """
        images = pending.batch.images.permute(0, 2, 3, 1).numpy()
        for rows in pending.rows:
            self._make(pending, rows, images)

    def _make(self, pending: Pending, rows: slice, images: NDArray[Any], on_host: bool = False) -> None:
        """Make some of the images: all if `on_host`, else all except those that the device decodes."""
        i, damage = rows.start, pending.plan.layout.parameters.damage.values()
        left = bool(pending.sources) and not on_host and not any(strength[i] > 0 for strength in damage)
        try:
            if rows.stop - i > 1:
                self.shards.gather(np.array(pending.record[rows]), images[rows])
            elif pending.canvas is None:
                self._paint(pending, i, images[i])
            elif left and (jpeg := nvjpeg.jpeg(self.shards, pending.record[i])) is not None:
                pending.sources[i] = jpeg
            else:
                pixels = self.shards.pixels(pending.record[i], pending.reduce[i])
                parameters, reduced = pending.plan.layout.parameters, pending.reduce[i] > 1
                small, _ = cpu.ready(pixels, pending.plan.matrix[i], parameters, i, reduced)
                if pending.sources:
                    pending.sources[i] = torch.from_numpy(small)
                else:
                    images[i, : small.shape[0], : small.shape[1]] = small
        except DataError as error:
            if not self.skip:
                raise
            if rows.stop - i > 1:  # it may be any of them
                for k in range(i, rows.stop):
                    self._make(pending, slice(k, k + 1), images, on_host)
            else:
                pending.faults[i] = str(error)

    def _paint(self, pending: Pending, i: int, out: NDArray[Any]) -> None:
        """Make image i on the CPU, directly in `out`."""
        layout, p = pending.plan.layout, pending.plan.layout.parameters
        first, end = layout.first[i : i + 2].tolist()
        canvas = out if out.dtype == np.uint8 else cpu.memory("canvas", (out.shape[0], out.shape[1]))
        decoded: dict[tuple[int, int], NDArray[np.uint8]] = {}  # reused by later parts
        needed = list(zip(pending.record[first:end], pending.reduce[first:end], strict=True))
        for part in range(first, end):
            left, top, right, bottom = pending.inner[part]
            if left >= 0:
                inner = canvas[top:bottom, left:right]
                pixels = self.shards.pixels(*needed[0], inner)
                if pixels is not inner:
                    inner[...] = pixels
                canvas[:top], canvas[bottom:], canvas[:, :left], canvas[:, right:] = (FILL,) * 4
                continue
            x1, y1, x2, y2 = layout.parts.region[part].tolist()
            if x1 >= x2 or y1 >= y2:
                continue
            source = needed[part - first]
            pixels = decoded[source] if source in decoded else self.shards.pixels(*source)
            if source in needed[part - first + 1 :]:
                decoded[source] = pixels
            weight, reduced = float(layout.parts.weight[part]), source[1] > 1
            cpu.paint(pixels, pending.plan.matrix[part], p, part, canvas[y1:y2, x1:x2], weight, reduced)
        if self.recipe:
            cpu.finish(canvas, p, first, out)

    def move(self, pending: Pending) -> Batch:
        """Return the batch on its device, its images painted, once every image is made. Any thread may call this."""
        decoded = self._decoded(pending) if pending.sources else None
        batch = pending.batch
        for i in pending.faults:
            batch.boxes[i], batch.labels[i], batch.flags[i] = 0, -1, 0
        if self.device.type == "cuda":
            batch = batch.pin_memory()  # copies from other memory block
        if not self.on_cpu:
            batch = batch.to(self.device, non_blocking=True)
        if pending.canvas is not None:
            canvas = batch.images if decoded is None else decoded
            dtype = torch.float32 if self.recipe else torch.uint8
            batch.images = accelerator.paint(
                canvas, pending.canvas, pending.plan.layout, pending.plan.step.shape, dtype
            )
        blank = pending.plan.layout.parameters.blank if self.recipe else pending.plan.layout.parameters.fill
        for i in pending.faults:
            for channel, value in zip(batch.images[i], blank, strict=True):
                channel.fill_(value)
        return batch

    def _decoded(self, pending: Pending) -> Tensor:
        """Decode a batch's JPEGs on the device and lay all its images on the canvas."""

        def canvas() -> Tensor:
            sides, fill = pending.batch.images.shape[2:], pending.plan.layout.parameters.fill
            return nvjpeg.canvas(pending.sources, pending.plan.matrix, pending.reduce, sides, fill, self.device)

        try:
            return canvas()
        except torch.OutOfMemoryError:
            raise
        except RuntimeError:  # one damaged or rare JPEG fails the whole call: decode on the host, which names it
            images = pending.batch.images.numpy()
            for i in range(len(images)):
                pending.sources[i] = _NOTHING
                self._make(pending, slice(i, i + 1), images, on_host=True)
            return canvas()

    def finish(self, pending: Pending, batch: Batch) -> Batch:
        """Warn about skipped images, then apply `transform` to the result of `move`.

        Call it in the thread that uses the batch: warnings are then attributed to its loop, and `transform` may draw
        from torch's global generator, which no other thread may use at the same time.
        """
        for i, fault in pending.faults.items():
            record = int(pending.batch.index[i])
            if record not in self.skipped:
                warnings.warn(f"skipped: {fault}", stacklevel=2)
            self.skipped[record] = fault
        if self.transform is not None:
            with torch.random.fork_rng([self.device] if self.device.type == "cuda" else []):
                torch.manual_seed(pending.key)
                batch.images = self.transform(batch.images)
        return batch
