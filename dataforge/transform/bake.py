"""Derived caches: the same records with pixels that are cheaper to decode, read through the same `Shards`.

A cache is a shard folder of its own. Sizes, boxes and areas in `Shards.table` refer to the stored pixels, so readers
need not know about caches. In addition it stores, for each record, the size of the **source** image and the matrix from
source to stored pixels, so that results can be mapped to the original:

    shards.codec       "keep" (source bytes), "jpeg" (encoded again) or "raw" (pixels)
    shards.channels    3, or 1 for pixels stored in grey (`pixels(i)` always gives three)
    shards.to_stored(index)    (n, 3, 3) float64, source pixels to stored pixels; identities if not a cache
    shards.source      the `Table` in source pixels: `height`, `width`, boxes and areas; `table` itself if not a cache
    shards.gather(index, out)    codec "raw" only: copy the stored pixels of records that all have one shape, unchanged,
                       into out (n, height, width, channels) uint8, C-contiguous. It may be called by several threads
                       for parts of one batch; the GIL is released while it copies.

"Source" is always the first original, also for a cache of a cache. A `Loader` plans and samples from `table`, and
returns `affine = matrix @ to_stored(index)`, which maps source pixels to batch pixels. A raw record needs no warp where
`matrix` is the identity: its stored shape, `table.height` x `table.width`, is the batch's.
"""

from __future__ import annotations

import json
import shutil
import tempfile
import zlib
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import cv2
import numpy as np
import simplejpeg
from numpy.typing import NDArray

from dataforge.augment.executors.cpu import warp
from dataforge.augment.move import move_boxes
from dataforge.augment.operations.geometry import FITS, fit_matrix
from dataforge.cloud.path import RemotePath, located
from dataforge.cloud.upload import staged
from dataforge.errors import ConfigError, ShardError
from dataforge.files import writing
from dataforge.images.header import ImageInfo
from dataforge.loading.buckets import Shape, bucket
from dataforge.record import Record, box_areas
from dataforge.shards.cache_origin import ORIGIN, Origin
from dataforge.shards.index import INDEX, REPORT
from dataforge.shards.reader import Shards
from dataforge.shards.table import Table, row
from dataforge.shards.writer import SHARD_BYTES, ShardWriter
from dataforge.sources.view import View
from dataforge.threads import opencv_threads, ordered

QUALITY = 92


@dataclass(frozen=True)
class Form:
    """Storage format of a cache's pixels. Without `side` and `shapes`, images keep their size.

    Attributes:
        side: length of the shorter side in pixels; images whose shorter side is smaller keep their size.
        shapes: (height, width): each image is assigned to the one nearest in aspect ratio.
        fit: "letterbox" keeps the aspect ratio in a shape, "stretch" fills it.
        gray: one channel, BT.601 luma.
        raw: uncompressed pixels, which requires `shapes`; otherwise JPEG at `quality`, with 4:2:0 chroma subsampling.

    Raises:
        ConfigError: the values are incompatible.
    """

    side: int | None = None
    shapes: tuple[Shape, ...] = ()
    fit: str = "letterbox"
    gray: bool = False
    raw: bool = False
    quality: int = QUALITY

    def __post_init__(self) -> None:
        if self.side is not None and self.shapes:
            raise ConfigError("a side and shapes: --side, --size and --buckets exclude each other")
        if self.raw and not self.shapes:
            raise ConfigError("--raw needs --size or --buckets: raw pixels are stored as one array per shape")
        if min([1 if self.side is None else self.side, *(side for shape in self.shapes for side in shape)]) < 1:
            raise ConfigError(f"side {self.side}, shapes {list(self.shapes)}: expected sides of at least 1 pixel")
        if self.fit not in FITS:
            raise ConfigError(f"fit is {self.fit!r}; expected one of {', '.join(FITS)}")
        if not 1 <= self.quality <= 100:
            raise ConfigError(f"quality is {self.quality}; expected 1 to 100")

    @property
    def codec(self) -> str:
        return "raw" if self.raw else "jpeg"

    @property
    def channels(self) -> int:
        return 1 if self.gray else 3

    def text(self) -> str:
        """Return a short description."""
        if self.shapes:
            size = f"{', '.join(f'{h}x{w}' for h, w in self.shapes)} {self.fit}ed"
        else:
            size = "full size" if self.side is None else f"side {self.side}"
        return f"{self.codec}{' grey' if self.gray else ''}{'' if self.raw else f' q{self.quality}'}, {size}"

    def place(
        self, height: NDArray[np.int32], width: NDArray[np.int32]
    ) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Compute the stored size of images and the matrices to it.

        Args:
            height, width: (n,) pixels.

        Returns:
            (n, 2) stored height and width, and (n, 3, 3) matrices from source to stored pixels.
        """
        sizes = np.stack([height, width], 1).astype(np.int64)
        if self.shapes:
            sizes = np.array(self.shapes)[bucket(height, width, self.shapes)]
            matrix = np.zeros((len(sizes), 3, 3))
            for shape in self.shapes:
                rows = (sizes == shape).all(1)
                matrix[rows] = fit_matrix(height[rows], width[rows], shape, self.fit)
            return sizes, matrix
        if self.side is not None:
            scale = np.minimum(1, self.side / sizes.min(1))
            sizes = np.maximum(np.rint(sizes * scale[:, None]).astype(np.int64), 1)
        matrix = np.tile(np.eye(3), (len(sizes), 1, 1))
        matrix[:, 0, 0], matrix[:, 1, 1] = sizes[:, 1] / width, sizes[:, 0] / height
        return sizes, matrix

    def render(self, pixels: NDArray[np.uint8], size: Shape, matrix: NDArray[np.float64]) -> NDArray[np.uint8]:
        """Convert pixels (height, width, 3) to their stored form: (*size, channels).

        With `shapes`, it uses the loader's own warp, so that a batch of a raw cache equals that of its parent.
        """
        if self.gray:
            pixels = cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)  # type: ignore[assignment]
        if self.shapes:
            pixels = warp(pixels, matrix, size)
        elif pixels.shape[:2] != size:
            pixels = cv2.resize(pixels, size[::-1], interpolation=cv2.INTER_AREA)  # type: ignore[assignment]
        return np.ascontiguousarray(pixels).reshape(*size, self.channels)

    def encode(self, pixels: NDArray[np.uint8]) -> bytes | memoryview:
        """Encode stored pixels as a blob; raw pixels keep their shape."""
        if self.raw:
            return pixels.data
        colour, halved = ("GRAY", "Gray") if self.gray else ("RGB", "420")
        return simplejpeg.encode_jpeg(
            pixels, quality=self.quality, colorspace=colour, colorsubsampling=halved, fastdct=False
        )


def bake(
    shards: Shards,
    out: Path,
    form: Form,
    *,
    store_name: str = "lmdb",
    jobs: int = 1,
    progress: Callable[[int], None] | None = None,
) -> None:
    """Write a cache of the records in the view of shards. The bytes do not depend on the number of jobs.

    The cache is published only on success: an error or an interruption leaves no cache behind.

    Args:
        out: a folder that does not exist, is empty, or contains the files of an unfinished bake; or a URL like that.
        store_name: the store for JPEGs; raw pixels have their own store.
        jobs: number of threads that decode and encode.
        progress: called after each image with the number of images done.

    Raises:
        ConfigError: there is no image, or `out` is inside the shards. ShardError: `out` is not free, cannot be
            written, or has no room for raw pixels. DataError: a record is damaged.
    """
    table = shards.table
    if not len(table):
        raise ConfigError(f"{shards.path}: no images to bake")
    out = located(out)
    if shards.path.resolve() in (out.resolve(), *out.resolve().parents):
        raise ConfigError(f"{out}: is inside the shards; choose another --out")
    sizes, matrix = form.place(table.height, table.width)
    needed = int(sizes.prod(1).sum()) * form.channels
    if form.raw and needed > free_bytes(out):
        raise ShardError(
            f"{out}: the pixels need {needed / 1e9:.1f} GB, {free_bytes(out) / 1e9:.1f} GB are free; "
            "bake a smaller size or fewer images, or without --raw"
        )
    source = shards.source
    origin = Origin(source.height, source.width, matrix @ shards.to_stored(np.arange(len(table)))).encode()
    moved = _move(table, matrix, sizes)
    stored = [name for name in shards.splits if name not in shards.index["unions"]]
    split_of = np.concatenate([np.full(len(shards.splits[name]), n) for n, name in enumerate(stored)])

    def make(i: int) -> tuple[Record, bytes | memoryview, ImageInfo]:
        height, width = sizes[i].tolist()
        record = row(moved, i, stored[split_of[i]])
        blob = form.encode(form.render(shards.pixels(i), (height, width), matrix[i]))
        return record, blob, ImageInfo("", height, width, 1, "")

    most = 1 << 62 if form.raw else SHARD_BYTES  # so that all pixels of one shape in a split form one array
    with (
        staged(out, INDEX, REPORT) as (folder, send),
        opencv_threads(1),  # each of the jobs is a thread
        ShardWriter(
            folder,
            shards.classes,
            shards.class_ids,
            {name: parts for name, parts in shards.index["unions"].items() if set(parts) <= set(stored)},
            store_name="rows" if form.raw else store_name,
            shard_bytes=most,
            source=shards.index["source"],
            codec=form.codec,
            frequencies=shards.frequencies,
            baked={
                "parent": str(shards.path.resolve()),
                "fingerprint": shards.content,
                "view": _chosen(shards),
                "form": asdict(form),
                "channels": form.channels,
                "origin_crc": zlib.crc32(origin),
            },
            send=send,
        ) as writer,
    ):
        for done, made in enumerate(ordered(make, range(len(table)), jobs), 1):
            writer.add(*made)
            if progress:
                progress(done)
        with writing(out, ShardError):
            (folder / ORIGIN).write_bytes(origin)
            summary = {"out": str(out), "images": len(table), "boxes": len(table.boxes), "baked": form.text()}
            (folder / REPORT).write_text(json.dumps(summary, ensure_ascii=False) + "\n", "utf-8")
        writer.publish()


def _move(table: Table, matrix: NDArray[np.float64], sizes: NDArray[np.int64]) -> Table:
    """Return a table with all boxes and polygons mapped to images of `sizes` (N, 2), and areas scaled accordingly.

    No box is lost: a box that rounding to float32 leaves without an area gets the smallest possible one.
    """
    limit = sizes[:, ::-1].astype(np.float32)
    region = np.concatenate([np.zeros_like(limit), limit], 1)
    boxes, _ = move_boxes(table.boxes, table.image, matrix, (0, 0), 0.0, region=region)
    scale, shift = matrix[table.image][:, [0, 1], [0, 1]], matrix[table.image, :2, 2]
    flat = ~(boxes[:, 2:] > boxes[:, :2]).all(1)
    if flat.any():
        end = limit[table.image][flat]
        low = (table.boxes[flat, :2] * scale[flat] + shift[flat]).astype(np.float32)
        low = low.clip(0, np.nextafter(end, np.float32(0)))
        high = np.maximum(table.boxes[flat, 2:] * scale[flat] + shift[flat], np.nextafter(low, end)).astype(np.float32)
        boxes[flat] = np.concatenate([low, np.minimum(high, end)], 1)
    own = table.areas == box_areas(table.boxes)
    areas = np.where(own, box_areas(boxes), table.areas * scale.prod(1)).astype(np.float32)
    return table.change(lambda polygons: polygons.move(matrix[table.image]), boxes=boxes, areas=areas)


def _chosen(shards: Shards) -> str:
    """Describe what the view selects; "" for everything."""
    plain, view = View(), shards.view
    values = {field.name: getattr(view, field.name) for field in fields(View)}
    parts = [f"{name}={value}" for name, value in values.items() if value != getattr(plain, name)]
    return ", ".join([*([f"split={shards.split}"] if shards.split else []), *parts])


def free_bytes(out: Path) -> int:
    """Return the free bytes on the disk where a folder is, or will be; one at a URL is made in a temporary folder."""
    out = Path(tempfile.gettempdir()) if isinstance(out, RemotePath) else out
    existing = next(folder for folder in (out.resolve(), *out.resolve().parents) if folder.exists())
    return shutil.disk_usage(existing).free
