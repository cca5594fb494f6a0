"""What do kornia's augmentations cost as operations of a recipe?

    python bench/kornia_cost.py [--pictures 8] [--results FILE]

The processor time of one thread for each of them on 320 x 320 pictures, from uint8 to uint8, and of importing kornia
once torch is imported. A row holds the median and the range over the pictures.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from pathlib import Path

import kornia
import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from dataforge.augment.executors.kornia import picture
from dataforge.augment.operations.kornia import names
from dataforge.augment.parameters import parameters
from dataforge.augment.recipes import recipe
from dataforge.bench.measure import record_rows

SIDE = 320
WORK = {"RandomMotionBlur": {"kernel_size": 5}, "RandomGaussianBlur": {"kernel_size": 5}}  # else kornia's defaults
COLOURS = {"brightness": 0.3, "contrast": 0.3, "saturation": 0.3, "hue": 0.1}
WORK |= {"ColorJiggle": COLOURS, "ColorJitter": COLOURS}
IMPORT = "import time, torch; t = time.process_time(); import kornia.augmentation; print(time.process_time() - t)"


def milliseconds(name: str, pictures: int) -> list[float]:
    """What each of so many pictures takes."""
    steps = recipe([{"op": f"kornia.{name}", "p": 1.0, **WORK.get(name, {})}])
    sizes = np.full((2, pictures + 1), SIDE)
    drawn = parameters(steps, np.arange(pictures + 1), *sizes, (SIDE, SIDE)).kornia
    canvas = np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 3), np.uint8)
    times = []
    for i in range(pictures + 1):
        start = time.thread_time()
        picture(canvas, drawn, i).round().astype(np.uint8)
        times.append(1000 * (time.thread_time() - start))
    return times[1:]  # the first warms up


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--pictures", type=int, default=8)
    parser.add_argument("--results", type=Path, help="a file of rows to add to")
    given = parser.parse_args()
    torch.set_num_threads(1)
    imports = [float(subprocess.check_output([sys.executable, "-c", IMPORT])) for _ in range(3)]
    found = {"kornia: import after torch": ("processor s", imports)}
    for name in names():
        found[f"kornia.{name}"] = ("processor ms a picture", milliseconds(name, given.pictures))
    rows = []
    for name, (unit, times) in found.items():
        middle, low, high = statistics.median(times), min(times), max(times)
        row = {"name": name, "value": round(middle, 2), "unit": unit, "low": round(low, 2), "high": round(high, 2)}
        rows.append(row | {"runs": len(times), "kornia": kornia.__version__})
        print(f"{name:40} {middle:7.2f} {unit} ({low:.2f}..{high:.2f})")
    record_rows(rows, given.results)


if __name__ == "__main__":
    main()
