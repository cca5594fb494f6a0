"""Train by a recipe and add rows of the mAP after the last epoch and of the time that it took.

    python bench/trained.py dense --data "bccd, trainval to test" --results bench/results/DATE.jsonl -- \\
        --config configs/dense_bccd.toml --shards shards --pretrained efficientnet-lite0-57934424.pth

What stands behind `--` is for the trainer. Shards and weights are left out of the rows' "recipe".
"""

from __future__ import annotations

import argparse
import csv
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from dataforge.bench.measure import record_rows
from trainers.training.run import RESULTS

PATHS = {"--shards", "--pretrained"}  # of this machine


def rows(
    run: Path, data: str, flags: Sequence[str], minutes: float, processor_minutes: float
) -> Iterator[dict[str, Any]]:
    """The rows of a finished run.

    Args:
        run: its folder; flags: what the trainer was given.
    """
    before = ["", *flags]
    recipe = " ".join(word for word, last in zip(flags, before, strict=False) if not {word, last} & PATHS)
    same = {"runs": 1, "recipe": f"trainers.{run.parent.name} {recipe}", "data": data}
    with open(run / RESULTS, encoding="utf-8", newline="") as file:
        last = list(csv.DictReader(file))[-1]
    name = f"{run.parent.name} on {data.partition(',')[0]}"
    for unit in ("mAP50", "mAP50-95"):
        yield {"name": f"{name}, epoch {last['epoch']}", "value": round(float(last[unit]), 4), "unit": unit, **same}
    yield {"name": f"{name}, whole run", "value": round(processor_minutes, 1), "unit": "processor min", **same,
           "minutes": round(minutes, 1)}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("detector")
    parser.add_argument("--data", required=True, help="what it is trained and tested on, in words")
    parser.add_argument("--results", type=Path, required=True)
    parser.add_argument("flags", nargs="+", help="those of the trainer, behind --")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        output = ["--runs", folder, "--name", "run"]
        start, before = time.monotonic(), os.times()
        subprocess.run([sys.executable, "-m", f"trainers.{given.detector}", *given.flags, *output], check=True)
        after = os.times()
        spent = after.children_user - before.children_user + after.children_system - before.children_system
        run = Path(folder, given.detector, "run")
        record_rows(rows(run, given.data, given.flags, (time.monotonic() - start) / 60, spent / 60), given.results)


if __name__ == "__main__":
    main()
