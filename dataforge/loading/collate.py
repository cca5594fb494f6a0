"""Legend: B images, P parts (B where no records are combined), M box places per image, H x W pixels.

Collation of one step's records into a batch: lay it out, fill it image by image in any number of threads, and finish
it on its device.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dataforge.augment.executors import antialias, cpu
from dataforge.augment.executors import device as accelerator
from dataforge.augment.layout import Layout, lay_out
from dataforge.augment.operations.geometry import FILL
from dataforge.augment.operations.registry import Recipe
from dataforge.errors import DataError
from dataforge.loading import nvjpeg
from dataforge.loading.batch import Batch, pad
from dataforge.loading.buffers import Buffers
from dataforge.loading.sampler import Step
from dataforge.rng import bits
from dataforge.shards.reader import Shards
from dataforge.threads import opencv_threads

Matrices = NDArray[np.float64]
_NOTHING = torch.zeros((1, 1, 3), dtype=torch.uint8)  # in place of a missing image


@dataclass(eq=False)
class Pending:
    """A batch whose images are being made: the final images, or source images that the device will warp.

    Attributes:
        batch: final except for the pixels.
        rows: parts of the batch that no thread has begun yet; the thread that takes one fills it.
        layout: what is painted where, and how.
        record: (P,) record number of each part; reduce: (P,) factor by which it is decoded smaller.
        matrix: (P, 3, 3) decoded pixels to pixels of the part's region.
        inner: (P, 4) xyxy where the region takes decoded pixels unchanged; the first is -1 where it does not.
        canvas: (B, 3, 3) pixels of `batch.images` to output pixels, if the device warps them; else None.
        sources: (B,) the `sources` of `nvjpeg.canvas`, if the device decodes; else none.
        shape: (H, W) of the output.
        key: seeds the draws of `transform`.
        faults: row -> the error of its image.
    """

    batch: Batch
    rows: Iterator[slice]
    layout: Layout
    record: list[int]
    reduce: list[int]
    matrix: Matrices
    inner: list[list[int]]
    canvas: Matrices | None
    sources: list[Tensor]
    shape: tuple[int, int]
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
            pending = self.start(step, epoch)
            self.fill(pending)
            return self.finish(pending, self.move(pending))

    def start(self, step: Step, epoch: int) -> Pending:
        """Lay a batch out, ready for `fill`."""
        table, index, shape = self.shards.table, step.index, step.shape
        layout = lay_out(
            self.recipe,
            step.sample,
            table,
            shape,
            fit=self.fit,
            seed=self.seed,
            epoch=epoch,
            min_visible=self.min_visible,
        )
        record = layout.parts.record % len(table)
        if len(record) > len(index):
            self.shards.prefetch(record.tolist())  # a mixer's partners are not in the plan
        size = np.stack([table.height[record], table.width[record]], 1).astype(np.int64)
        reduce = _reductions(_shrink_factors(layout.parameters.matrix, size))
        size = -(-size // reduce[:, None])  # as decoded
        matrix = antialias.from_blocks(layout.parameters.matrix, reduce[:, None].repeat(2, 1))
        matrix[:, :2] -= layout.parts.region[:, :2, None] * matrix[:, 2:]
        images, canvas, sources = self._memory(layout, matrix, size, shape)
        boxes, labels, flags = pad(layout.offsets, layout.boxes, layout.labels, layout.flags)
        batch = Batch(
            images=images.permute(0, 3, 1, 2),
            boxes=boxes,
            labels=labels,
            flags=flags,
            affine=torch.from_numpy((layout.affine @ self.shards.to_stored(index)).astype(np.float32)),
            index=torch.from_numpy(index.copy()),
        )
        inner = np.full((len(record), 4), -1) if self.recipe else _inner(matrix, size, shape)
        stored = self.shards.codec == "raw" and self.shards.channels == 3
        copied = stored and canvas is None and (reduce == 1).all() and (inner == [0, 0, shape[1], shape[0]]).all()
        share = len(index) if copied else 1  # stored batches that are only copied are one copy
        key = 0
        if self.transform is not None:
            key = int(bits(self.seed, epoch, step.sample[:1], "transform")[0, 0] >> np.uint64(1))
        return Pending(
            batch=batch,
            rows=iter([slice(i, min(i + share, len(index))) for i in range(0, len(index), share)]),
            layout=layout,
            record=record.tolist(),
            reduce=reduce.tolist(),
            matrix=matrix,
            inner=inner.tolist(),
            canvas=canvas,
            sources=sources,
            shape=shape,
            key=key,
        )

    def _memory(
        self, layout: Layout, matrix: Matrices, size: NDArray[np.int64], shape: tuple[int, int]
    ) -> tuple[Tensor, Matrices | None, list[Tensor]]:
        """Return the memory that the images of a batch are written to, (B, height, width, 3), and, if the device has
        work left, `canvas` and `sources` of `Pending`.

        Args:
            matrix: (P, 3, 3), size: (P, 2) height and width, of the decoded images.
            shape: (H, W).
        """
        count = len(layout.first) - 1
        if self.on_cpu or len(matrix) > count:
            return self._buffers.take((count, *shape, 3), torch.float32 if self.recipe else torch.uint8), None, []
        factors = _shrink_factors(matrix, size)  # left after decoding
        canvas = antialias.from_blocks(matrix, factors)
        sides = (-(-size // factors)).max(0).tolist()
        if self.decode == "device" and self.shards.codec != "raw":
            return torch.empty((count, *sides, 0), dtype=torch.uint8), canvas, [_NOTHING] * count
        images = self._buffers.take((count, *sides, 3), torch.uint8)
        images[:] = torch.tensor(layout.parameters.fill, dtype=torch.uint8)
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
        i, damage = rows.start, pending.layout.parameters.damage.values()
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
                parameters, reduced = pending.layout.parameters, pending.reduce[i] > 1
                small, _ = cpu.ready(pixels, pending.matrix[i], parameters, i, reduced)
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
        layout, p = pending.layout, pending.layout.parameters
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
            cpu.paint(pixels, pending.matrix[part], p, part, canvas[y1:y2, x1:x2], weight, reduced)
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
            batch.images = accelerator.paint(canvas, pending.canvas, pending.layout, pending.shape, dtype)
        blank = pending.layout.parameters.blank if self.recipe else pending.layout.parameters.fill
        for i in pending.faults:
            for channel, value in zip(batch.images[i], blank, strict=True):
                channel.fill_(value)
        return batch

    def _decoded(self, pending: Pending) -> Tensor:
        """Decode a batch's JPEGs on the device and lay all its images on the canvas."""

        def canvas() -> Tensor:
            sides, fill = pending.batch.images.shape[2:], pending.layout.parameters.fill
            return nvjpeg.canvas(pending.sources, pending.matrix, pending.reduce, sides, fill, self.device)

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


def _shrink_factors(matrix: Matrices, size: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return (P, 2) `antialias.shrink_factors` of P images."""
    return np.array([antialias.shrink_factors(*image) for image in zip(matrix, size.tolist(), strict=True)])


def _reductions(factors: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return (P,) 1, 2, 4 or 8: how much smaller to decode images that are then averaged by (P, 2) factors."""
    exponent = np.floor(np.log2(factors.min(1)) + 1e-9).astype(np.int64)
    return np.int64(1) << np.minimum(exponent, 3)


def _inner(matrix: Matrices, size: NDArray[np.int64], shape: tuple[int, int]) -> NDArray[np.int64]:
    """Return (P, 4) xyxy of images of (P, 2) sizes that are only shifted by whole pixels and not cut; else -1."""
    region = np.concatenate([matrix[:, :2, 2], matrix[:, :2, 2] + size[:, ::-1]], 1)
    shifted = (matrix[:, :2, :2] == np.eye(2)).all((1, 2)) & (region[:, :2] % 1 == 0).all(1)
    inside = (region[:, :2] >= 0).all(1) & (region[:, 2:] <= shape[::-1]).all(1)
    return np.where((shifted & inside)[:, None], region, -1).astype(np.int64)
