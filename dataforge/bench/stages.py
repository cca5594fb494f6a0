"""Benchmarks of the stages from disk to batch, separately and together, over the same records."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain, islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from dataforge.augment.executors.cpu import warp
from dataforge.augment.move import move_boxes
from dataforge.augment.operations.geometry import fit_matrix
from dataforge.bench.measure import machine, measure
from dataforge.errors import ConfigError
from dataforge.loading.ahead import READ_AHEAD
from dataforge.loading.batch import Batch, pad
from dataforge.loading.loader import Loader
from dataforge.shards.reader import Shards
from dataforge.threads import cores, opencv_threads, workers

AHEAD = 3  # batches prepared ahead, as in the loader
HELD_PIXELS = 1 << 26  # bytes of decoded images that the stage "resize" cycles over


@dataclass(frozen=True)
class Setting:
    """Parameters of a measurement.

    Attributes:
        batches: the records of each batch, from the first batches of an epoch.
        threads: number of worker threads.
    """

    path: Path
    split: str
    size: tuple[int, int]
    fit: str
    batch_size: int
    augment: str | None
    device: str
    threads: int
    shuffle: bool | str
    batches: tuple[NDArray[np.int64], ...]

    @property
    def images(self) -> int:
        return sum(map(len, self.batches))


def setting(
    path: Path,
    *,
    size: tuple[int, int] = (320, 320),
    fit: str = "letterbox",
    batch_size: int = 32,
    images: int = 640,
    augment: str = "yolo",
    device: str = "cpu",
    threads: int | None = None,
    shuffle: bool | str = True,
) -> Setting:
    """Select at most `images` records of the largest split, in whole batches, but at least one batch.

    Raises:
        ShardError, ConfigError: as `Loader`.
    """
    split = largest(path)
    steps = Loader(path, split, batch_size, size, augment, device, shuffle=shuffle).steps()
    batches = tuple(step.index for step in islice(steps, max(1, images // batch_size)))
    recipe = None if augment == "none" else augment
    return Setting(path, split, size, fit, batch_size, recipe, device, threads or cores(), shuffle, batches)


def largest(path: Path) -> str:
    """Return the split with the most images.

    Raises:
        ShardError: as `Shards`. ConfigError: there are no splits.
    """
    shards = Shards(path)
    if not shards.index["splits"]:
        raise ConfigError(f"{path}: holds no images")
    return max(shards.index["splits"], key=lambda name: len(shards.splits[name]))


def read(given: Setting) -> Iterator[int]:
    """Read encoded bytes from the shards."""
    shards = Shards(given.path, given.split)
    return in_threads(given, lambda i: len(bytes(shards.blob(i))))


def read_ahead(given: Setting) -> Iterator[int]:
    """Read encoded bytes, of which the disk is told some batches or a window before, as by the loader."""
    loader = Loader(given.path, given.split, given.batch_size, given.size, shuffle=given.shuffle)
    shards, some = loader.shards, 1 + READ_AHEAD // given.batch_size
    if loader.local:
        announced = (step.index for step in islice(loader.announced(), len(given.batches)))
        yield from in_threads(given, lambda i: len(bytes(shards.blob(i))), announced)
        return
    shards.prefetch(chain.from_iterable(given.batches[:some]))
    for n, count in enumerate(in_threads(given, lambda i: len(bytes(shards.blob(i))))):
        shards.prefetch(chain.from_iterable(given.batches[n + some : n + some + 1]))
        yield count


def read_in_order(given: Setting) -> Iterator[int]:
    """Read as many bytes as `read`, from the beginning of the files on."""
    left = int(Shards(given.path, given.split).table.size[np.concatenate(given.batches)].sum())
    for file in sorted(path for path in given.path.rglob("*") if path.is_file()):
        with open(file, "rb", buffering=0) as opened:
            while left and (piece := opened.read(min(left, 1 << 20))):
                left -= len(piece)
                yield len(piece)


def cold(given: Setting, stage: Callable[[Setting], Iterator[int]]) -> Iterator[int]:
    """Run a stage that reads, after dropping the files from the page cache. Works on Linux only.

    Raises:
        ConfigError: the page cache could not be dropped.
    """
    for file in given.path.rglob("*") if hasattr(os, "posix_fadvise") else ():
        if file.is_file():
            with open(file, "rb") as opened:
                os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    before, handed = _read_from_disk(), 0
    for count in stage(given):
        handed += count
        yield count
    if _read_from_disk() - before < handed / 2:
        raise ConfigError(
            f"{given.path}: its files cannot be removed from the page cache, so cold reads cannot be measured; "
            "expected no other process to use them"
        )


def _read_from_disk() -> int:
    """Return the bytes that this process has read from disk so far; 0 if unknown."""
    try:
        lines = Path("/proc/self/io").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("read_bytes")), 0)


def decode(given: Setting) -> Iterator[int]:
    """Read and decode images to pixels."""
    shards = Shards(given.path, given.split)
    return in_threads(given, lambda i: shards.pixels(i).nbytes)


def resize(given: Setting) -> Iterator[int]:
    """Resize decoded images to the batch size, with the warp that also augments."""
    shards, held, pixels = Shards(given.path, given.split), 0, []
    for i in np.concatenate(given.batches).tolist():
        pixels.append(shards.pixels(i))
        held += pixels[-1].nbytes
        if held > HELD_PIXELS:
            break
    matrices = [fit_matrix(image.shape[0], image.shape[1], given.size, given.fit) for image in pixels]

    def one(i: int) -> int:
        image, matrix = pixels[i % len(pixels)], matrices[i % len(pixels)]
        return warp(image, matrix, given.size).nbytes

    return in_threads(given, one)


def collate(given: Setting) -> Iterator[int]:
    """Prepare all of a batch except pixels: look up, transform and pad its boxes."""
    table = Shards(given.path, given.split).table
    for index in given.batches:
        objects = table.take(index)
        row = np.repeat(np.arange(len(index)), np.diff(objects.offsets))
        matrix = fit_matrix(table.height[index], table.width[index], given.size, given.fit)
        boxes, keep = move_boxes(objects.boxes, row, matrix, given.size, 0.0)
        labels = np.where(keep, objects.labels, -1)
        yield sum(part.nbytes for part in pad(objects.offsets, boxes, labels, objects.flags))


def copy(given: Setting) -> Iterator[int]:
    """Copy batches of uint8 pixels to the device, from page-locked memory on CUDA."""
    images = torch.zeros((given.batch_size, 3, *given.size), dtype=torch.uint8)
    images = images.pin_memory() if given.device.startswith("cuda") else images
    for _ in given.batches:
        moved = images.to(given.device, non_blocking=True)
        int(moved[-1, -1, -1, -1])  # waits for the copy
        yield images.nbytes


def load(given: Setting) -> Iterator[int]:
    """Run all stages: the loader, with the recipe of the setting."""
    how: dict[str, Any] = {"augment": given.augment, "device": given.device, "threads": given.threads, "fit": given.fit}
    loader = Loader(given.path, given.split, given.batch_size, given.size, shuffle=given.shuffle, **how)
    return map(_arrived, islice(loader, len(given.batches)))


def _arrived(batch: Batch) -> int:
    """Wait for the device to finish a batch, and return its bytes of pixels."""
    if batch.images.device.type != "cpu":
        int(batch.images[-1, -1, -1, -1])
    return batch.images.nbytes


def in_threads(
    given: Setting, one: Callable[[int], int], batches: Iterable[NDArray[np.int64]] | None = None
) -> Iterator[int]:
    """Apply a function to each image, in threads and several batches ahead, and yield the sum per batch."""
    threads = given.threads

    def part(index: NDArray[np.int64], place: int) -> int:
        return sum(one(int(i)) for i in index[place::threads])

    with opencv_threads(1), workers(threads) as pool:
        pending: deque[list[Any]] = deque()
        for index in given.batches if batches is None else batches:
            pending.append([pool.submit(part, index, place) for place in range(threads)])
            if len(pending) > AHEAD:
                yield sum(future.result() for future in pending.popleft())
        for futures in pending:
            yield sum(future.result() for future in futures)


def rows(given: Setting, *, repeats: int = 5, sweep: bool = True, with_cold: bool = False) -> list[dict[str, Any]]:
    """Measure all stages.

    Args:
        sweep: also measure other numbers of threads.
        with_cold: also measure reading from the disk: the shuffled records, and as many bytes in the files' order.

    Returns:
        One row per stage, as in `bench/results/*.jsonl`: the result of `measure`, the setting, "cache" and `machine()`.
    """
    plain = replace(given, augment=None)
    stages: list[tuple[str, Callable[[Setting], Iterator[int]], Setting]] = [
        ("read", read, given),
        ("decode", decode, given),
        ("resize", resize, given),
        ("collate", collate, given),
        *([("copy", copy, given)] if given.device != "cpu" else []),
        ("all", load, plain),
    ]
    counts = [given.threads]
    if given.augment:
        stages.append((f"all, {given.augment}", load, given))
    if sweep:
        counts = sorted({1, *(2**k for k in range(1, 10) if 2**k < cores()), cores(), 2 * cores()} - {given.threads})
        stages += [(f"all, {given.augment or 'plain'}, {n} threads", load, replace(given, threads=n)) for n in counts]
    measured = []
    reads = {"read in order, cold": read_in_order, "read, cold": read_ahead} if with_cold else {}
    for name, from_disk in reads.items():
        row = measure(name, partial(cold, given, from_disk), given.images, repeats, fresh=True)
        measured.append(row | {"cache": "cold"} | _facts(given))
    for name, stage, used in stages:
        row = measure(name, partial(stage, used), used.images, repeats)
        measured.append(row | {"cache": "warm"} | _facts(used))
    return measured


def _facts(given: Setting) -> dict[str, Any]:
    facts = {"batch_size": given.batch_size, "size": list(given.size), "threads": given.threads}
    facts |= {"shuffle": given.shuffle} if isinstance(given.shuffle, str) else {}
    return facts | {"augment": given.augment or "none", "device": given.device} | machine()


@contextmanager
def shards_or_drawn(path: Path | None, images: int = 320) -> Iterator[Path]:
    """Yield the given shards, or those of a synthetic set in a temporary folder."""
    if path is not None:
        yield path
        return
    from dataforge.formats.coco import read as read_coco
    from dataforge.images.synth import write
    from dataforge.ingest.run import ingest

    with TemporaryDirectory(prefix="dataforge-bench-") as folder:
        write(Path(folder) / "pictures", images=images, size=(480, 640))
        ingest(read_coco(Path(folder) / "pictures"), Path(folder) / "shards", source_name="coco")
        yield Path(folder) / "shards"
