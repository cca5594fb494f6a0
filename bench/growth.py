"""What a set costs before its first batch, and whether it stays fast as it grows.

    python bench/growth.py [--records 10000,118287,1000000] [--work DIR] [--results FILE]

The sets are written once, with COCO's number of boxes an image. Their pictures are 200 small JPEGs (about 2 kB) again
and again, so that what a record costs beside its pixels shows; each record has bytes of its own in the store.

* "start": in a process of its own, from the import of dataforge (torch is there) to the first batch; and its memory.
* "plan": time and peak memory of planning one epoch, a record.
* "batches": img/s, CPU time and page faults over the same number of batches of shuffled epochs, the sizes in turn in
  one process, each turn another epoch; its first batch is not counted. Page cache warm. "gather" does what no loader
  could do without: it copies as many blocks of the same length from random places of the same file, mapped plainly.
"""

from __future__ import annotations

import argparse
import json
import mmap
import resource
import statistics
import subprocess
import sys
import tempfile
import time
import tracemalloc
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from itertools import islice
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

PICTURES, BOXES, BATCH = 200, 7, 32
REPEATS, TURNS, BATCHES = 5, 11, 100  # many short turns: a machine's mood changes within seconds
PLANNED = (1_000, 10_000, 100_000, 1_000_000)
SETTINGS: dict[str, dict[str, Any]] = {
    "96x96, uint8": {"size": (96, 96)},
    "320x320, yolo recipe": {"size": (320, 320), "augment": "yolo"},
}
START = """
import json, sys, time
sys.path.insert(0, sys.argv[2])
import torch
def memory():
    with open("/proc/self/status") as lines:
        return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmRSS"))
before, started = memory(), time.perf_counter()
from dataforge import Loader
loader = Loader(sys.argv[1], "train", 32, (320, 320), "yolo", threads=2)
batches = iter(loader)
batch = next(batches)
print(json.dumps({"s": time.perf_counter() - started, "MiB": memory() - before}))
"""


def make(out: Path, records: int) -> None:
    """Write a set, its pictures about 72 x 96."""
    from dataforge.images.header import probe
    from dataforge.record import Record
    from dataforge.shards.writer import ShardWriter

    rng = np.random.default_rng(0)
    pictures = []
    for kind in range(PICTURES):
        pixels = cv2.resize(rng.integers(0, 256, (9, 12, 3), np.uint8), (96 + kind % 16, 72 + kind % 16))
        pictures.append(cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, 75])[1].tobytes())
    infos = [probe(picture) for picture in pictures]
    corners = rng.uniform(0, 40, (PICTURES, 2 * BOXES, 2)).astype(np.float32)
    labels = rng.integers(0, 80, (PICTURES, 2 * BOXES)).astype(np.int32)
    with ShardWriter(out, [f"class {c}" for c in range(80)]) as writer:
        for i in range(records):
            kind, count = i % PICTURES, i % (2 * BOXES)
            low, info = corners[kind, :count], infos[kind]
            boxes = np.concatenate([low, low + 15], 1)
            flags = np.zeros(count, np.uint8)
            name = f"{i:08d}.jpg"
            record = Record(name, "train", b"", info.height, info.width, boxes, labels[kind, :count], flags, id=i)
            writer.add(record, pictures[kind], info)
        writer.publish()


def row_of(name: str, values: list[float], unit: str, **facts: Any) -> dict[str, Any]:
    middle, low, high = (float(f"{value:.4g}") for value in (statistics.median(values), min(values), max(values)))
    return {"name": name, "value": middle, "unit": unit, "low": low, "high": high, "repeats": len(values), **facts}


def start(sets: dict[int, Path]) -> list[dict[str, Any]]:
    """Time and memory up to the first batch, a process each."""
    passed: dict[int, list[dict[str, float]]] = {records: [] for records in sets}
    for _ in range(REPEATS + 1):
        for records, path in sets.items():
            warm(path)
            words = [sys.executable, "-c", START, str(path), sys.path[0]]
            passed[records].append(json.loads(subprocess.run(words, check=True, capture_output=True).stdout))
    titles = {"s": "start to first batch", "MiB": "memory at the first batch"}
    return [
        row_of(
            f"{records} records: {what}, above importing torch", [turn[unit] for turn in turns[1:]], unit, cache="warm"
        )
        for records, turns in passed.items()
        for unit, what in titles.items()
    ]


def plans() -> list[dict[str, Any]]:
    """Time and memory of planning an epoch."""
    from dataforge.loading.sampler import plan

    rows = []
    for records in PLANNED:
        height, width = np.full(records, 72, np.int32), np.full(records, 96, np.int32)
        seconds, held = [], []
        for epoch in range(REPEATS + 1):
            started = time.perf_counter()
            steps = list(plan(height, width, [(320, 320)], BATCH, epoch=epoch))
            seconds.append(time.perf_counter() - started)
            del steps
            tracemalloc.start()
            steps = list(plan(height, width, [(320, 320)], BATCH, epoch=epoch))
            held.append(float(tracemalloc.get_traced_memory()[1]))
            tracemalloc.stop()
            del steps
        took = [1e6 * value / records for value in seconds[1:]]
        rows.append(
            row_of(f"{records} records: plan, time", took, "us/record", s=round(statistics.median(seconds[1:]), 5))
        )
        rows.append(row_of(f"{records} records: plan, peak memory", [b / records for b in held[1:]], "B/record"))
    return rows


def apart(part: Callable[..., Any], *given: Any) -> Any:
    """Run a part in a process of its own, in which no file is mapped yet."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(part, *given).result()


def warm(path: Path) -> None:
    """Read a set's files, so that they are in the page cache, whatever the system has let go of meanwhile."""
    buffer = bytearray(1 << 24)
    for file in path.rglob("*"):
        if file.is_file():
            with open(file, "rb", buffering=0) as data:
                while data.readinto(buffer):
                    pass


def spent(work: Callable[[], int]) -> dict[str, float]:
    """Images a second, and what one costs: CPU time of all threads, page faults, and those that waited for the disk."""
    before, cpu, wall = resource.getrusage(resource.RUSAGE_SELF), time.process_time(), time.perf_counter()
    images = work()
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    after = resource.getrusage(resource.RUSAGE_SELF)
    faults, waits = after.ru_minflt - before.ru_minflt, after.ru_majflt - before.ru_majflt
    return {"img/s": images / wall, "us": 1e6 * cpu / images, "faults": faults / images, "disk": waits / images}


def batches(sets: dict[int, Path], setting: dict[str, Any]) -> dict[int, list[dict[str, float]]]:
    """`spent` of each size, turn by turn."""
    from dataforge import Loader

    loaders = {records: Loader(path, "train", BATCH, threads=2, **setting) for records, path in sets.items()}
    measured: dict[int, list[dict[str, float]]] = {records: [] for records in sets}
    for turn in range(TURNS + 1):
        for records, loader in loaders.items():
            warm(sets[records])
            loader.set_epoch(turn)
            made = iter(loader)
            next(made)
            measured[records].append(spent(lambda: sum(len(batch.index) for batch in islice(made, BATCHES))))  # noqa: B023
            made.close()
    return {records: turns[1:] for records, turns in measured.items()}


def gather(sets: dict[int, Path]) -> dict[int, list[dict[str, float]]]:
    """The same of copies of random blocks, as long as a picture, from the mapped files."""
    from dataforge.shards.reader import Shards

    rng = np.random.default_rng(0)
    blocks: dict[int, list[NDArray[np.uint8]]] = {}
    for records, path in sets.items():
        length = int(Shards(path).table.size.mean())
        blocks[records] = []
        for shard in path.glob("train/*/blobs.mdb"):
            with open(shard, "rb") as file:
                mapped = np.frombuffer(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ), np.uint8)
            blocks[records].append(mapped[: len(mapped) // length * length].reshape(-1, length))

    def copy(parts: list[NDArray[np.uint8]]) -> int:
        out = np.empty((BATCH, parts[0].shape[1]), np.uint8)
        for n in range(BATCHES):
            part = parts[n % len(parts)]
            np.take(part, rng.integers(0, len(part), BATCH), axis=0, out=out, mode="clip")
        return BATCHES * BATCH

    measured: dict[int, list[dict[str, float]]] = {records: [] for records in sets}
    for _ in range(TURNS + 1):
        for records, parts in blocks.items():
            warm(sets[records])
            measured[records].append(spent(lambda: copy(parts)))  # noqa: B023
    return {records: turns[1:] for records, turns in measured.items()}


def growth(sets: dict[int, Path]) -> list[dict[str, Any]]:
    """Rows of `batches`, and the largest set's in terms of the smallest's."""
    rows = []
    bare = apart(gather, sets)
    first, last = min(sets), max(sets)
    for name, setting in SETTINGS.items():
        measured = apart(batches, sets, setting)
        for records, turns in measured.items():
            cost = {
                f"{key}_per_image": statistics.median(turn[key] for turn in turns) for key in ("us", "faults", "disk")
            }
            cost["gather_us_per_image"] = statistics.median(turn["us"] for turn in bare[records])
            cost = {key: round(value, 2) for key, value in cost.items()}
            rates = [turn["img/s"] for turn in turns]
            rows.append(row_of(f"{records} records: batches, {name}", rates, "img/s", cache="warm", threads=2, **cost))
        for unit, what in (("img/s", "img/s"), ("us", "CPU time an image")):
            ratios = [b[unit] / a[unit] for a, b in zip(measured[first], measured[last], strict=True)]
            rows.append(row_of(f"{last} / {first} records: {what}, {name}", ratios, "x"))
    return rows


def main() -> None:
    from dataforge.bench.measure import record_rows

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()) / "dataforge-growth")
    parser.add_argument("--records", default="10000,118287,1000000", help="sizes; 118287 is COCO's train2017")
    parser.add_argument("--results", type=Path, help="a file of rows to add to")
    given = parser.parse_args()
    sets = {int(size): given.work / size for size in given.records.split(",")}
    for records, path in sets.items():
        if not (path / "index.json").exists():
            make(path, records)
    for part in (plans, partial(start, sets), partial(growth, sets)):
        rows = part()
        for row in rows:
            more = " ".join(f"{key} {row[key]}" for key in row if key.endswith("_per_image"))
            print(f"{row['name']:<64} {row['value']:>8} {row['unit']} ({row['low']} to {row['high']}) {more}")
        record_rows(rows, given.results)


if __name__ == "__main__":
    main()
