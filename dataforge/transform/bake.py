"""Derived caches: the same records with pixels that are cheaper to decode, read through the same `Shards`.

A cache is a shard folder of its own. Sizes, boxes and areas in `Shards.table` refer to the stored pixels, so readers
need not know about caches. In addition it stores, for each record, the size of the **source** image and the matrix from
source to stored pixels, so that results can be mapped to the original:

    shards.codec       "keep" (source bytes), "jpeg" (encoded again), "raw" (pixels) or "yuv420" (pixels as planes)
    shards.channels    3, or 1 for pixels stored in grey (`pixels(i)` always gives three)
    shards.to_stored(index)    (n, 3, 3) float64, source pixels to stored pixels; identities if not a cache
    shards.source      the `Table` in source pixels: `height`, `width`, boxes and areas; `table` itself if not a cache
    shards.gather(index, out)    codec "raw" or "yuv420": copy the stored pixels of records that all have one shape into
                       out (n, height, width, channels) uint8, C-contiguous, planes converted to RGB. It may be called
                       by several threads for parts of one batch; the GIL is released while it copies.

"Source" is always the first original, also for a cache of a cache. A `Loader` plans and samples from `table`, and
returns `affine = matrix @ to_stored(index)`, which maps source pixels to batch pixels. A raw record needs no warp where
`matrix` is the identity: its stored shape, `table.height` x `table.width`, is the batch's.
"""

from __future__ import annotations

import json
import shlex
import shutil
import tempfile
import zlib
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dataforge.augment.move import move_boxes
from dataforge.cloud.path import RemotePath, located
from dataforge.cloud.upload import staged
from dataforge.errors import ConfigError, DataError, ImageError, ShardError
from dataforge.files import writing
from dataforge.images.header import ImageInfo
from dataforge.record import box_areas
from dataforge.shards.cache_origin import ORIGIN, Origin
from dataforge.shards.index import INDEX, PIXELS, REPORT
from dataforge.shards.out_folder import check_outside
from dataforge.shards.reader import Shards
from dataforge.shards.table import Table, row
from dataforge.shards.writer import SHARD_BYTES, ShardWriter
from dataforge.threads import Spread, opencv_threads, ordered
from dataforge.transform import lossless
from dataforge.transform.form import Form


def bake(
    shards: Shards,
    out: Path,
    form: Form,
    *,
    store_name: str = "lmdb",
    jobs: int = 1,
    progress: Callable[[int], None] | None = None,
    spread: Spread = ordered,
) -> None:
    """Write a cache of the records in the view of shards. The bytes depend neither on `jobs` nor on `spread`.

    The cache is published only on success: an error or an interruption leaves no cache behind.

    Args:
        out: a folder that does not exist, is empty, or contains the files of an unfinished bake; or a URL like that.
        store_name: the store for JPEGs; raw pixels have their own store.
        jobs: number of threads that decode and encode.
        progress: called after each image with the number of images done.
        spread: runs the jobs.

    Raises:
        ConfigError: there is no image, `out` is inside the shards, or the form cannot be made of them. ShardError:
            `out` is not free, cannot be written, or has no room for raw pixels. DataError: a record is damaged.
    """
    table = shards.table
    if not len(table):
        raise ConfigError(f"{shards.path}: no images to bake")
    out = located(out)
    check_outside(out, shards.path)
    if form.lossless:
        lossless.check()
        if shards.codec in PIXELS:
            raise ConfigError(f"{shards.path}: holds raw pixels, no JPEGs; omit --lossless")
    sizes, matrix = form.place(table.height, table.width)
    needed = int(sizes.prod(1).sum() * form.bytes_per_pixel)
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

    turned = table.orientation if form.lossless else np.ones_like(table.orientation)

    def make(i: int) -> bytes | NDArray[np.uint8]:
        if form.lossless:
            blob = _rewritten(shards, i)
        else:
            height, width = sizes[i].tolist()
            blob = form.encode(form.render(shards.pixels(i), (height, width), matrix[i]))
        return blob if isinstance(blob, bytes) else np.asarray(blob)  # a memoryview cannot be sent to another process

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
            depth=shards.depth if form.lossless else "scale",
            frequencies=shards.frequencies,
            ancestors=shards.ancestors,
            baked={
                "parent": str(shards.path.resolve()),
                "fingerprint": shards.content,
                "view": shlex.join([*(["--split", shards.split] if shards.split else []), *shards.view.options()]),
                "form": asdict(form),
                "channels": form.channels,
                "origin_crc": zlib.crc32(origin),
            },
            send=send,
        ) as writer,
    ):
        for i, blob in enumerate(spread(make, range(len(table)), jobs)):
            height, width = sizes[i].tolist()
            info = ImageInfo("", height, width, int(turned[i]), "")
            writer.add(row(moved, i, stored[split_of[i]]), blob if isinstance(blob, bytes) else blob.data, info)
            if progress:
                progress(i + 1)
        with writing(out, ShardError):
            (folder / ORIGIN).write_bytes(origin)
            summary = {"out": str(out), "images": len(table), "boxes": len(table.boxes), "baked": form.text()}
            (folder / REPORT).write_text(json.dumps(summary, ensure_ascii=False) + "\n", "utf-8")
        writer.publish()


def _rewritten(shards: Shards, i: int) -> bytes | memoryview:
    try:
        return lossless.rewrite(shards.blob(i), int(shards.table.orientation[i]))
    except ImageError as error:
        raise DataError(f"{shards.place(i)}: {error}") from None


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


def free_bytes(out: Path) -> int:
    """Return the free bytes on the disk where a folder is, or will be; one at a URL is made in a temporary folder."""
    out = Path(tempfile.gettempdir()) if isinstance(out, RemotePath) else out
    existing = next(folder for folder in (out.resolve(), *out.resolve().parents) if folder.exists())
    return shutil.disk_usage(existing).free
