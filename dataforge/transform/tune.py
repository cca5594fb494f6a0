"""Selection of a cache form that decodes a required number of images per second on this machine."""

from __future__ import annotations

import statistics
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dataforge.errors import ConfigError, counted
from dataforge.images.decode import decode
from dataforge.shards.reader import Shards
from dataforge.threads import ordered, workers
from dataforge.transform.bake import free_bytes
from dataforge.transform.form import Form

JPEG_SIDES = (640, 512, 448, 384, 320, 256)  # none smaller: detectors train at 300 to 640 pixels
RAW_SIDES = (*JPEG_SIDES, 192, 128)
IMAGES = 200
PASSES = 3

Read = Callable[[int], object]
Measure = Callable[[Read, int, int], float]  # read, images, threads -> images per second


@dataclass(frozen=True)
class Rate:
    """Measurement of one form. `form` None: the shards themselves.

    Attributes:
        rate: images decoded per second. bytes: size of all images on disk.
    """

    form: Form | None
    rate: float
    bytes: int

    def text(self) -> str:
        name = "the shards as they are" if self.form is None else self.form.text()
        return f"{name}: {self.rate:,.0f} img/s, {self.bytes / 1e6:,.1f} MB"


@dataclass(frozen=True)
class Choice:
    """The measurements in the order in which they were made, and the form that was chosen."""

    target: float
    threads: int
    images: int
    tried: tuple[Rate, ...]
    chosen: Rate

    @property
    def reached(self) -> bool:
        return self.chosen.rate >= self.target

    def text(self) -> str:
        """Return two lines: the form that was chosen, and the reason."""
        how = f"(decoding alone, {self.threads} threads, {counted(self.images, 'image')}, median of {PASSES} passes)"
        before = self.tried[:-1]
        if not self.reached:
            why = f"none of {len(self.tried)} forms reaches {self.target:,.0f} img/s; this is the fastest"
        elif before:
            why = f"reaches {self.target:,.0f} img/s; the one before it, {before[-1].text()}, does not"
        else:
            why = f"reaches {self.target:,.0f} img/s, and nothing larger was to be tried"
        return f"{self.chosen.text()} {how}\n{why}"

    def facts(self) -> dict[str, Any]:
        """Return the contents as one JSON object."""

        def row(one: Rate) -> dict[str, Any]:
            return {"form": one.form and asdict(one.form), "imgs_per_s": round(one.rate, 1), "bytes": one.bytes}

        summary = {"imgs_per_s": self.target, "reached": self.reached, "threads": self.threads, "images": self.images}
        return summary | {"chosen": row(self.chosen), "tried": [row(one) for one in self.tried]}


def seconds_rate(read: Read, images: int, threads: int) -> float:
    """Measure images per second of `read(i)` on some threads: a warm-up pass, then the median of several passes."""
    rates = []
    with workers(threads) as pool:
        for _ in range(1 + PASSES):
            started = time.perf_counter()
            list(pool.map(lambda part: [read(i) for i in range(part, images, threads)], range(threads)))
            rates.append(images / (time.perf_counter() - started))
    return statistics.median(rates[1:])


def tune(
    shards: Shards, target: float, form: Form, out: Path, *, threads: int, measure: Measure = seconds_rate
) -> Choice:
    """Try forms from the most detailed to the fastest, until one reaches the target.

    First the shards themselves (except for grey), then JPEG at full size and at decreasing sides, then raw pixels of
    decreasing squares; or, if the form has shapes, JPEG and raw pixels of these. The result is the largest side of the
    codec that needs the least disk space; if no form reaches the target, the fastest.

    Args:
        target: images to decode per second.
        form: grey, quality and fit for all forms; the shapes, if any.
        out: location of the future cache; raw forms that do not fit there are skipped.
        measure: `seconds_rate`, or a replacement for tests.

    Raises:
        ConfigError: the target is not positive, or there is no image. DataError: a record is damaged.
    """
    if not target > 0 or not len(shards):
        raise ConfigError(f"--target-imgs-per-s {target:g}, {len(shards)} images; expected more than 0 of both")
    index = np.unique(np.linspace(0, len(shards) - 1, IMAGES).astype(int))
    tried: list[Rate] = []
    for one in _forms(shards, form):
        read, size = _reader(shards, one, index, threads)
        if one is not None and one.raw and size > free_bytes(out):
            continue
        tried.append(Rate(one, measure(read, len(index), threads), size))
        if tried[-1].rate >= target:
            break
    if not tried:
        raise ConfigError(f"{out}: no form has room there")
    return Choice(target, threads, len(index), tuple(tried), max(tried, key=lambda one: one.rate))


def _forms(shards: Shards, form: Form) -> Iterator[Form | None]:
    table = shards.table
    if not form.gray and not form.shapes:
        yield None
    jpeg = replace(form, shapes=(), raw=False, side=None)
    short = float(np.median(np.minimum(table.height, table.width)))
    long = float(np.median(np.maximum(table.height, table.width)))
    if form.shapes:
        yield from (replace(jpeg, shapes=form.shapes, raw=raw) for raw in (False, True))
        return
    yield from [jpeg, *(replace(jpeg, side=side) for side in JPEG_SIDES if side < short)]
    for side in [side for side in RAW_SIDES if side <= long] or RAW_SIDES[-1:]:
        yield replace(jpeg, shapes=((side, side),), raw=True)


def _reader(shards: Shards, form: Form | None, index: NDArray[np.int64], threads: int) -> tuple[Read, int]:
    """Return a decoder of the i-th image of a sample stored in a form, and the bytes that all images would take."""
    table = shards.table
    if form is None:
        kept = [bytes(shards.blob(i)) for i in index.tolist()]
        turned = table.orientation[index].tolist()
        return lambda i: decode(kept[i], turned[i], depth=shards.depth), int(table.size.sum())
    sizes, matrix = form.place(table.height, table.width)

    def make(i: int) -> bytes:
        return bytes(form.encode(form.render(shards.pixels(i), (int(sizes[i, 0]), int(sizes[i, 1])), matrix[i])))

    blobs = list(ordered(make, index.tolist(), threads))
    if form.raw:
        shapes = [(int(h), int(w), form.channels) for h, w in sizes[index]]
        buffers = threading.local()  # a loader copies into existing memory: new memory would cost more than the copy

        def copy(i: int) -> NDArray[np.uint8]:
            if getattr(buffers, "shape", None) != shapes[i]:
                buffers.shape, buffers.out = shapes[i], np.empty(shapes[i], np.uint8)
            buffers.out[...] = np.frombuffer(blobs[i], np.uint8).reshape(shapes[i])
            return buffers.out  # type: ignore[no-any-return]

        return copy, int(sizes.prod(1).sum()) * form.channels
    mean = sum(map(len, blobs)) / len(blobs)
    return lambda i: decode(blobs[i]), int(mean * len(table))
