"""Cost of the checks of shards, against the state before them: opening a table, reading blobs, an epoch of a loader.

    python bench/checks.py BEFORE [--rounds 5]

BEFORE is a folder with the package as it was (`git archive 05fe90f dataforge | tar -x -C BEFORE`). Each measurement is
a process of its own, interleaved, and counts processor seconds, since other programs may load the machine. Prints rows.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

MAKE = """
import sys
import numpy as np
from pathlib import Path
from dataforge.images import synth
from dataforge.formats.coco import read
from dataforge.ingest.run import ingest
from dataforge.shards.table import Jagged, write_table
root, n = Path(sys.argv[1]), 118_287
synth.write(root / "pictures", images=400, size=(480, 640))
for store in ("lmdb", "memmap"):
    ingest(read(root / "pictures"), root / store, store_name=store)
counts = np.arange(n) % 15
rng, boxes = np.random.default_rng(0), int(counts.sum())
columns = {name: rng.integers(1, 640, n) for name in ("height", "width", "size", "crc", "id")}
columns |= {"key": [f"train2017/{i:012d}.jpg" for i in range(n)], "orientation": np.ones(n, np.uint8)}
labels, flags = rng.integers(0, 80, boxes), np.zeros(boxes)
parts = rng.uniform(0, 99, (boxes, 4)).astype("f4"), labels, flags, rng.uniform(0, 9, boxes)
write_table(root / "table.arrow", columns, Jagged(*parts, np.cumsum([0, *counts])))
"""
TABLE = """
import sys, time, zlib
import dataforge.shards.table as table
from pathlib import Path
path = Path(sys.argv[1], "table.arrow")
new = hasattr(table, "check_values")
crc = zlib.crc32(path.read_bytes())
table.read_tables([path])
start = time.process_time()
for _ in range(10):
    made = table.read_tables([path], [crc]) if new else table.read_tables([path])
    new and table.check_values(made, 80, path)
print((time.process_time() - start) / 10)
"""
BLOBS = """
import sys, time
from dataforge.shards.reader import Shards
trust = {} if sys.argv[2] == "" else {"trust": sys.argv[2] == "True"}
shards = Shards(sys.argv[1], "train", verify=False, **trust)
order = list(range(len(shards))) * 20
for turn in range(2):
    start = time.process_time()
    total = sum(shards.blob(i)[0] for i in order)
print((time.process_time() - start) / len(order))
"""
EPOCH = """
import sys, time
from dataforge import Loader
from dataforge.shards.reader import Shards
trust = {} if sys.argv[2] == "" else {"trust": sys.argv[2] == "True"}
loader = Loader(Shards(sys.argv[1], "train", **trust), batch_size=32, size=(320, 320), threads=1)
for turn in range(2):
    loader.set_epoch(turn)
    start = time.process_time()
    images = sum(len(batch) for batch in loader)
print((time.process_time() - start) / images)
"""


def measure(code: str, path: Path, *arguments: str) -> float:
    environment = os.environ | {"PYTHONPATH": str(path), "OMP_NUM_THREADS": "1", "PYTHONSAFEPATH": "1"}
    done = subprocess.run([sys.executable, "-c", code, *arguments], env=environment, capture_output=True, check=True)
    return float(done.stdout.split()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(prog="bench/checks.py")
    parser.add_argument("before", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    now = Path(__file__).resolve().parents[1]
    with tempfile.TemporaryDirectory() as root:
        subprocess.run([sys.executable, "-c", MAKE, root], env=os.environ | {"PYTHONPATH": str(now)}, check=True)
        cases = {
            "open a table of 118,287 records with checks": (TABLE, root, ("True",)),
            "read a blob, lmdb": (BLOBS, f"{root}/lmdb", ("True", "False")),
            "read a blob, memmap": (BLOBS, f"{root}/memmap", ("True", "False")),
            "epoch of JPEGs, lmdb": (EPOCH, f"{root}/lmdb", ("True", "False")),
        }
        for name, (code, where, trusts) in cases.items():
            times: dict[str, list[float]] = {"": [], **{trust: [] for trust in trusts}}
            for _ in range(given.rounds):
                for trust, taken in times.items():
                    taken.append(measure(code, given.before if trust == "" else now, where, trust))
            before = statistics.median(times[""])
            for trust in trusts:
                after = statistics.median(times[trust])
                row = {
                    "name": f"{name}, trust={trust} / before the checks (05fe90f)",
                    "value": round(after / before, 3),
                }
                row |= {"unit": "ratio of processor s", "before": before, "after": after, "rounds": given.rounds}
                print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
