"""What a set costs before its first batch, and whether it stays fast as it grows: `python bench/peers/startup.py`.

The sets have COCO's number of boxes an image and the same few small JPEGs again and again; each is measured in
processes of its own, which import torch before anything is counted.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import cv2
import numpy as np

BATCHES, REPEATS, BOXES = 150, 5, 7
MEASURE = """
import json, sys, time
from itertools import islice
import torch
def memory():
    with open("/proc/self/status") as lines:
        return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmRSS"))
before, started = memory(), time.perf_counter()
from dataforge import Loader
loader = Loader(sys.argv[1], "train", 32, (320, 320), "yolo", threads=2)
batches = iter(loader)
next(batches)
first, held = time.perf_counter() - started, memory() - before
planned = time.perf_counter()
loader.set_epoch(1)
loader.steps()
planned = time.perf_counter() - planned
images, started = 0, time.perf_counter()
for batch in islice(batches, int(sys.argv[2])):
    images += len(batch.index)
print(json.dumps({"s": first, "MiB": held, "plan": planned, "img/s": images / (time.perf_counter() - started)}))
"""


def make(out: Path, records: int) -> None:
    """Write a set of small pictures of 16 kinds, 48 x 64 or about that."""
    from dataforge.image import probe
    from dataforge.record import Record
    from dataforge.shards.writer import ShardWriter

    rng = np.random.default_rng(0)
    pictures = []
    for kind in range(16):
        pixels = cv2.resize(rng.integers(0, 256, (6, 8, 3), np.uint8), (64 + kind, 48 + kind))
        pictures.append(cv2.imencode(".jpg", pixels)[1].tobytes())
    infos = [probe(picture) for picture in pictures]
    with ShardWriter(out, [f"class {c}" for c in range(80)]) as writer:
        for i in range(records):
            info = infos[i % 16]
            low = rng.uniform(0, 30, (i % (2 * BOXES), 2))
            boxes = np.concatenate([low, low + 15], 1).astype(np.float32)
            labels, flags = rng.integers(0, 80, len(boxes)).astype(np.int32), np.zeros(len(boxes), np.uint8)
            record = Record(f"{i:08d}.jpg", "train", b"", info.height, info.width, boxes, labels, flags, id=i)
            writer.add(record, pictures[i % 16], info)
        writer.publish()


def main() -> None:
    from dataforge.bench.measure import machine

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()) / "dataforge-startup")
    parser.add_argument("--records", default="10000,118287,1000000", help="sizes; 118287 is COCO's train2017")
    parser.add_argument("--out", type=Path, default=Path(__file__).parents[1] / "results", help="folder of the rows")
    given = parser.parse_args()
    rows = []
    sizes = [int(size) for size in given.records.split(",")]
    for records in sizes:
        if not (given.work / str(records) / "index.json").exists():
            make(given.work / str(records), records)
    passed: dict[int, list[dict[str, float]]] = {records: [] for records in sizes}
    for _ in range(REPEATS + 1):  # the first one warms the page cache
        for records in sizes:
            words = [sys.executable, "-c", MEASURE, str(given.work / str(records)), str(BATCHES)]
            passed[records].append(json.loads(subprocess.run(words, check=True, capture_output=True).stdout))
    for records in sizes:
        for unit, what in (
            ("s", "start to first batch, above importing torch"),
            ("MiB", "memory at the first batch, above importing torch"),
            ("plan", "planning an epoch"),
            ("img/s", "batches after the first, yolo recipe"),
        ):
            values = [row[unit] for row in passed[records][1:]]
            row = {"name": f"{records} records: {what}", "value": round(statistics.median(values), 4)}
            row |= {
                "unit": "s" if unit == "plan" else unit,
                "low": round(min(values), 4),
                "high": round(max(values), 4),
            }
            rows.append(row | {"repeats": REPEATS, "cache": "warm", "images": records} | machine())
            print(f"{row['name']:<64} {row['value']:>10.3f} {row['unit']}", flush=True)
    given.out.mkdir(parents=True, exist_ok=True)
    with open(given.out / f"{machine()['date']}.jsonl", "a", encoding="utf-8") as lines:
        lines.writelines(json.dumps(row) + "\n" for row in rows)


if __name__ == "__main__":
    main()
