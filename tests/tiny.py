"""A tiny awkward set: never square, all sizes differ; grey, CMYK, EXIF-rotated, 16-bit, PNG, empty, 300 boxes."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import PIL.Image

from dataforge.images.header import probe
from dataforge.record import CROWD, DIFFICULT, TRUNCATED, Record
from dataforge.shards.stores.lmdb import LmdbStore
from dataforge.shards.writer import ShardWriter

CLASSES = ("cat", "dog", "traffic light")
CLASS_IDS = (3, 17, 90)  # sparse, as COCO's


def pixels(height: int, width: int, seed: int = 0) -> np.ndarray:
    """(height, width, 3) uint8: smooth colours, so that JPEG and interpolation change little."""
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    phase = np.random.default_rng(seed).uniform(0, 6, 3)
    waves = [np.sin(x / (17 + 5 * c) + phase[c]) + np.cos(y / (13 + 4 * c) + phase[c]) for c in range(3)]
    return np.stack([127 + 60 * wave for wave in waves], -1).clip(0, 255).astype(np.uint8)


def encode(array: np.ndarray, kind: str = "JPEG", *, mode: str | None = None, orientation: int = 1) -> bytes:
    """Encode pixels; `mode` converts first ("L", "CMYK"), `orientation` is written as EXIF."""
    image = PIL.Image.fromarray(array)
    if mode:
        image = image.convert(mode)
    options: dict[str, object] = {"quality": 95} if kind in ("JPEG", "WEBP") else {}
    if orientation != 1:
        exif = PIL.Image.Exif()
        exif[0x0112] = orientation
        options["exif"] = exif
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def boxes(n: int, height: int, width: int, seed: int = 0) -> np.ndarray:
    """(n, 4) float32 boxes inside height x width, at least 2 pixels a side."""
    rng = np.random.default_rng(seed)
    low = rng.uniform(0, 0.7, (n, 2)) * (width, height)
    size = rng.uniform(0.05, 0.3, (n, 2)) * (width, height)
    return np.concatenate([low, low + np.maximum(size, 2)], 1).clip(0, [width, height] * 2).astype(np.float32)


def images() -> dict[str, bytes]:
    """key -> encoded bytes."""
    deep = (pixels(46, 81, 7)[..., 0].astype(np.uint16) << 8) + 77
    return {
        "a.jpg": encode(pixels(48, 64, 0)),
        "sub dir/b.jpg": encode(pixels(90, 50, 1)),
        "grey.jpg": encode(pixels(40, 70, 2), mode="L"),
        "cmyk.jpg": encode(pixels(52, 66, 3), mode="CMYK"),
        "rotated.jpg": encode(pixels(44, 72, 4), orientation=6),
        "c.png": encode(pixels(61, 33, 5), "PNG"),
        "empty.jpg": encode(pixels(58, 47, 6)),
        "deep.png": encode(deep, "PNG"),
        "crowded.jpg": encode(pixels(120, 200, 8)),
        "d.webp": encode(pixels(39, 83, 9), "WEBP"),
    }


def records(split: str = "train") -> list[Record]:
    """One record an image; "empty.jpg" has no box, "crowded.jpg" 300, and every flag is used."""
    found = []
    for i, (key, data) in enumerate(images().items()):
        info = probe(data)
        n = {"empty.jpg": 0, "crowded.jpg": 300}.get(key, 2 + i)
        flags = np.array([0, CROWD, DIFFICULT, TRUNCATED] * (n // 4 + 1), np.uint8)[:n]
        found.append(
            Record(
                key=key,
                split=split,
                image=data,
                height=info.height,
                width=info.width,
                boxes=boxes(n, info.height, info.width, i),
                labels=(np.arange(n) % len(CLASSES)).astype(np.int32),
                flags=flags,
                id=1000 + i,
                origin="tiny",
            )
        )
    return found


def shards(out: Path, repeat: int = 1, splits: tuple[str, ...] = ("train", "val"), shard_bytes: int = 1 << 30) -> Path:
    """Write the set as shards, `repeat` times a split (keys get a prefix from the second time on)."""
    with ShardWriter(out, CLASSES, CLASS_IDS, shard_bytes=shard_bytes, source="tiny") as writer:
        for split in splits:
            for turn in range(repeat):
                for record in records(split):
                    assert isinstance(record.image, bytes)
                    if turn:
                        record = Record(
                            **{**vars(record), "key": f"{turn}/{record.key}", "id": turn * 10000 + record.id}
                        )
                    writer.add(record, record.image, probe(record.image))
        writer.publish()
    return out


def damage(shard: Path, number: int) -> None:
    """Cut one of a shard's images short."""
    blobs = [bytes(LmdbStore.open(shard)[i]) for i in range(len(LmdbStore.open(shard)))]
    (shard / "blobs.mdb").unlink()
    writer = LmdbStore.create(shard)
    for i, blob in enumerate(blobs):
        writer.append(blob[: len(blob) // 2] if i == number else blob)
    writer.close()
