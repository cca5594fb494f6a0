"""The readers: each makes a small sound input in a folder, and returns a function that mutates it, reads it and puts it
back.

A mutated table gets its right checksum in the index, as a stranger would write it, in half of the inputs.
"""

from __future__ import annotations

import random
import shutil
import zlib
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np

from dataforge.images.header import probe
from dataforge.shards.index import PIXELS, read_index, write_index
from dataforge.shards.reader import Shards
from dataforge.shards.verify import verify
from dataforge.shards.writer import ShardWriter
from tests import tiny
from tests.fuzz.files import FILES, Reader, any_file
from tests.fuzz.mutate import mutate


def shards(folder: Path, store: str) -> Path:
    """A set of few images, with small and large blobs. Zarr reads each within milliseconds, and gets fewer."""
    times = 1 if store == "zarr" else 12
    with ShardWriter(folder / "set", tiny.CLASSES, tiny.CLASS_IDS, store_name=store, source="tiny") as writer:
        for record in [record for record in tiny.records() if record.key in ("a.jpg", "empty.jpg", "c.png")] * times:
            assert isinstance(record.image, bytes)
            writer.add(record, record.image, probe(record.image))
        writer.publish()
    return folder / "set"


def raw_cache(folder: Path, yuv420: bool = False) -> Path:
    from dataforge.transform.bake import Form, bake

    bake(Shards(shards(folder, "lmdb")), folder / "raw", Form(shapes=((32, 48), (48, 32)), raw=True, yuv420=yuv420))
    return folder / "raw"


def use(root: Path) -> None:
    """Read all that readers of shards do, mapped and not."""
    for trust in (True, False):
        opened = Shards(root, trust=trust)
        opened.info()
        for i in range(len(opened)):
            opened.place(i)
            opened.blob(i)
        if opened.codec in PIXELS:
            table = opened.source
            shape = int(opened.table.height[0]), int(opened.table.width[0]), opened.channels
            same = np.flatnonzero((opened.table.height == shape[0]) & (opened.table.width == shape[1]))
            if np.prod(shape) < 1 << 20:
                opened.gather(same, np.empty((len(same), *shape), np.uint8))
            assert np.isfinite(table.boxes).all() and np.isfinite(table.areas).all()


def reader_of_shards(root: Path, pattern: str) -> Reader:
    files = sorted(file for file in root.glob(pattern) if file.is_file())
    sound = {file: file.read_bytes() for file in files}
    index = read_index(root)
    text = (root / "index.json").read_bytes()

    def read(rng: random.Random) -> None:
        file = rng.choice(files)
        file.write_bytes(changed := mutate(sound[file], rng))
        if file.suffix == ".arrow" and rng.random() < 0.5:
            crc = zlib.crc32(changed)
            right = {**index, "splits": {name: [{**row} for row in rows] for name, rows in index["splits"].items()}}
            if file.name == "origin.arrow":
                right["baked"] = {**index["baked"], "origin_crc": crc}
            else:
                right["splits"][file.parents[1].name][0]["table_crc"] = crc
            write_index(root, right)
        try:
            use(root)
            if rng.random() < 0.1:
                list(verify(Shards(root)))
        finally:
            file.write_bytes(sound[file])
            (root / "index.json").write_bytes(text)

    return read


def checkpoint(folder: Path) -> Reader:
    import torch

    from trainers.checkpoint import load, save

    file = folder / "a.pt"
    weights = {f"layer{n}.weight": torch.randn(8, 3, 3) for n in range(4)}
    save(file, {"detector": "yolov2", "config": {}, "classes": ["a", "b"], "class_ids": [1, 2], "model": weights})
    sound, right = file.read_bytes(), load(file)

    def read(rng: random.Random) -> None:
        file.write_bytes(mutate(sound, rng))
        found = load(file)
        same = all(torch.equal(found["model"][name], tensor) for name, tensor in right["model"].items())
        if not same or found["classes"] != right["classes"]:
            raise AssertionError("other weights or classes were loaded without an error")

    return read


def journal(folder: Path) -> Reader:
    """An unfinished ingest, which goes on and must give the same files, or refuse to."""
    from dataforge.formats.coco import read as read_coco
    from dataforge.images import synth
    from dataforge.ingest.run import ingest

    synth.write(folder / "pictures", images=8)
    options = {"store_name": "memmap", "shard_bytes": 1, "source_name": "coco", "jobs": 1}
    whole = folder / "whole"
    ingest(read_coco(folder / "pictures"), whole, **options)
    right = {file.relative_to(whole): file.read_bytes() for file in sorted(whole.rglob("*")) if file.is_file()}

    def stop(done: int) -> None:
        if done == 5:
            raise KeyboardInterrupt

    begun, again = folder / "begun", folder / "again"
    with suppress(KeyboardInterrupt):
        ingest(read_coco(folder / "pictures"), begun, progress=stop, **options)
    files = [file.relative_to(begun) for file in sorted(begun.rglob("*")) if file.is_file() and file.stem != "ingest"]

    def read(rng: random.Random) -> None:
        shutil.rmtree(again, ignore_errors=True)
        shutil.copytree(begun, again)
        file = again / rng.choice(files)
        file.write_bytes(mutate(file.read_bytes(), rng))
        ingest(read_coco(folder / "pictures"), again, resume=True, **options)
        for name, data in right.items():
            if name.name != "ingest.jsonl" and (again / name).read_bytes() != data:
                raise AssertionError(f"{name} differs")

    return read


READERS: dict[str, Callable[[Path], Reader]] = {
    "table.arrow": lambda folder: reader_of_shards(shards(folder, "memmap"), "*/*/table.arrow"),
    "index": lambda folder: reader_of_shards(shards(folder, "memmap"), "index.json"),
    "lmdb": lambda folder: reader_of_shards(shards(folder, "lmdb"), "*/*/blobs.mdb"),
    "memmap": lambda folder: reader_of_shards(shards(folder, "memmap"), "*/*/blobs.bin"),
    "zarr": lambda folder: reader_of_shards(shards(folder, "zarr"), "*/*/blobs.zarr/**/*"),
    "rows": lambda folder: reader_of_shards(raw_cache(folder), "*/*/**/*"),
    "planes": lambda folder: reader_of_shards(raw_cache(folder, yuv420=True), "*/*/**/*"),
    "origin": lambda folder: reader_of_shards(raw_cache(folder), "origin.arrow"),
    "journal": journal,
    "checkpoint": checkpoint,
    "files": any_file,
    **FILES,
}
