"""What a program pays before its first batch, and what a batch costs beside its pixels.

    python bench/startup.py SHARDS RAW [--before DIR BEFORE_RAW] [--only PART] [--results FILE]

SHARDS is any shard folder; RAW a cache of it, by `dataforge bake SHARDS --raw --size 320 320`. DIR is another checkout,
and BEFORE_RAW a cache that it baked: both are measured in turn, and rows are added for each.

* "import dataforge", "dataforge --help", a trainer's help and wrong option, "first batch": processes of their own, wall
  and CPU time (user and system).
* "import X after Y": CPU time in a process of its own.
* "raw cache": img/s (wall and CPU) of shuffled epochs in batches of 32 at 320x320; the two checkouts take turns, in
  processes that stay, so that both meet the same load of the machine. "gather" is the bare limit: two threads copy the
  same rows, each to one buffer.
* "batch": CPU microseconds to make a `Batch`, its TensorDict, and a TensorClass of the same fields, and to join two.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(HERE))

REPEATS, TURNS = 5, 21
TRAINER = "import runpy, sys\n"
START = "try: runpy.run_module('trainers.yolov2', {}, '__main__')\nexcept SystemExit: pass"
STARTS = {
    "import dataforge": "import dataforge",
    "dataforge --help": "import sys; sys.argv[1:] = ['--help']; import dataforge.__main__",
    "trainers.yolov2 --help": f"{TRAINER}sys.argv[1:] = ['--help']\n{START}",
    "trainers.yolov2 --lr nan": f"{TRAINER}sys.argv[1:] = ['--lr', 'nan']\n{START}",
    "first batch": "import sys; from dataforge import Loader; next(iter(Loader(sys.argv[1], batch_size=4)))",
}
IMPORTS = (
    ("tensordict", "torch"),
    ("torchvision.ops", "torch"),
    ("tensordict", "torch, torchvision.ops"),
    ("dataforge.loading.loader", "torch"),
)
EPOCHS = """
import sys, time
from dataforge import Loader
loader = Loader(sys.argv[1], "train", 32, (320, 320))
for number, line in enumerate(sys.stdin):
    loader.set_epoch(number)
    images, wall, cpu = 0, time.perf_counter(), time.process_time()
    for _ in range(int(line)):
        images += sum(len(batch) for batch in loader)
    print(images / (time.perf_counter() - wall), images / (time.process_time() - cpu), flush=True)
"""

GATHER = """
import sys, time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
import numpy as np
import torch
(file,) = Path(sys.argv[1]).glob("train/00000/*/pixels.memmap")
rows = np.memmap(file, np.uint8, "r").reshape(-1, 320 * 320 * 3)
buffers = torch.zeros((2, 32, rows.shape[1]), dtype=torch.uint8).numpy()
pool, rng = ThreadPoolExecutor(2), np.random.default_rng(0)
def part(buffer, batches):
    for index in batches:
        np.take(rows, index, 0, out=buffer[: len(index)], mode="clip")
for line in sys.stdin:
    images, wall, cpu = 0, time.perf_counter(), time.process_time()
    for _ in range(int(line)):
        batches = np.array_split(rng.permutation(len(rows)), range(32, len(rows), 32))
        list(pool.map(part, buffers, (batches[::2], batches[1::2])))
        images += len(rows)
    print(images / (time.perf_counter() - wall), images / (time.process_time() - cpu), flush=True)
"""


def environment(checkout: Path) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(checkout), "OMP_NUM_THREADS": "1"}


def timed(checkout: Path, code: str, *arguments: str) -> tuple[float, float]:
    """(wall, CPU) seconds of a process."""
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    command = [sys.executable, "-c", code, *arguments]
    subprocess.run(command, env=environment(checkout), cwd=checkout, stdout=subprocess.DEVNULL, check=True)
    after, wall = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter() - started
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def row(name: str, values: list[float], unit: str, **more: Any) -> dict[str, Any]:
    digits = 1 if unit.startswith("img") else 3
    low, middle, high = (round(value, digits) for value in (min(values), statistics.median(values), max(values)))
    return {"name": name, "value": middle, "unit": unit, "low": low, "high": high, "repeats": len(values), **more}


def starts(checkouts: dict[str, Path], shards: str) -> Iterator[dict[str, Any]]:
    for name, code in STARTS.items():
        found: dict[str, list[tuple[float, float]]] = {which: [] for which in checkouts}
        for turn in range(REPEATS + 1):
            for which, checkout in checkouts.items():
                seconds = timed(checkout, code, shards)
                if turn:  # the first reads the files
                    found[which].append(seconds)
        for which, pairs in found.items():
            yield row(f"{name}, {which}", [cpu for _, cpu in pairs], "CPU s", wall=round(min(w for w, _ in pairs), 3))


def imports() -> Iterator[dict[str, Any]]:
    for wanted, first in IMPORTS:
        code = f"import time, {first}; a = time.process_time(); import {wanted}; print(time.process_time() - a)"
        command = [sys.executable, "-c", code]
        values = [float(subprocess.check_output(command, env=environment(HERE), cwd=HERE)) for _ in range(REPEATS)]
        yield row(f"import {wanted} after {first}", values, "CPU s")


def epochs(checkouts: dict[str, Path], caches: dict[str, str], count: int) -> Iterator[dict[str, Any]]:
    loops = {
        name: subprocess.Popen(
            [sys.executable, "-c", code, caches[which]],
            env=environment(checkout),
            cwd=checkout,
            text=True,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        for name, which, checkout, code in [
            *((which, which, checkout, EPOCHS) for which, checkout in checkouts.items()),
            ("gather", "after", HERE, GATHER),
        ]
    }
    speeds: dict[str, list[list[float]]] = {which: [] for which in loops}
    for turn in range(TURNS + 2):
        for which, loop in loops.items():
            assert loop.stdin is not None and loop.stdout is not None
            loop.stdin.write(f"{count}\n")
            loop.stdin.flush()
            speed = [float(word) for word in loop.stdout.readline().split()]
            if turn > 1:
                speeds[which].append(speed)
    for loop in loops.values():
        loop.communicate()
    for n, unit in enumerate(("img/s", "img/CPU s")):
        for which, values in speeds.items():
            yield row(f"raw cache, {which}", [speed[n] for speed in values], unit)
        for other in ("before", "gather"):
            ratios = [a[n] / b[n] for a, b in zip(speeds["after"], speeds.get(other, ()), strict=False)]
            if ratios:
                yield row(f"raw cache, after / {other}, each pair of turns, {unit}", ratios, "x")


def batches() -> Iterator[dict[str, Any]]:
    import torch
    from tensordict import TensorClass
    from torch import Tensor

    from dataforge import Batch

    class Fields(TensorClass):
        images: Tensor
        boxes: Tensor
        labels: Tensor
        flags: Tensor
        affine: Tensor
        index: Tensor

    tensors = {
        "images": torch.zeros((32, 3, 8, 8)),
        "boxes": torch.zeros((32, 16, 4)),
        "labels": torch.zeros((32, 16), dtype=torch.int64),
        "flags": torch.zeros((32, 16), dtype=torch.uint8),
        "affine": torch.zeros((32, 3, 3)),
        "index": torch.arange(32),
    }
    batch = Batch(**tensors)
    calls = {
        "make": lambda: Batch(**tensors),
        "to_tensordict": batch.to_tensordict,
        "make a TensorClass": lambda: Fields(**tensors, batch_size=[32]),
        "torch.cat of two": lambda: torch.cat([batch, batch]),
    }
    for name, call in calls.items():
        values = []
        for _ in range(REPEATS + 1):
            started = time.process_time()
            for _ in range(1000):
                call()
            values.append((time.process_time() - started) * 1e3)
        yield row(f"batch: {name}", values[1:], "CPU microseconds")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shards")
    parser.add_argument("raw")
    parser.add_argument("--before", nargs=2, metavar=("DIR", "BEFORE_RAW"))
    parser.add_argument("--only", choices=("epochs", "starts", "imports", "batches"), help="measure this alone")
    parser.add_argument("--epochs", type=int, default=10, help="in a turn")
    parser.add_argument("--note", help="what else a reader of the rows has to know")
    parser.add_argument("--results", type=Path)
    chosen = parser.parse_args()
    from dataforge.bench.measure import record_rows

    checkouts, caches = {"after": HERE}, {"after": str(Path(chosen.raw).resolve())}
    if chosen.before:
        checkouts = {"before": Path(chosen.before[0]).resolve(), **checkouts}
        caches["before"] = str(Path(chosen.before[1]).resolve())
    shards = str(Path(chosen.shards).resolve())
    parts = {
        "epochs": epochs(checkouts, caches, chosen.epochs),
        "starts": starts(checkouts, shards),
        "imports": imports(),
        "batches": batches(),
    }
    for measured in chain.from_iterable([parts[chosen.only]] if chosen.only else parts.values()):
        print(json.dumps(measured), flush=True)
        record_rows([measured | ({"note": chosen.note} if chosen.note else {})], chosen.results)


if __name__ == "__main__":
    main()
