"""What a training step of the plain-ViT detector costs: the pyramid and heads alone, LoRA adapters too, everything.

    python bench/lora.py --results bench/results/DATE.jsonl

Each of `--train neck`, `lora` and `all` runs in a process of its own, one after another in turns, on random images and
boxes and random weights. "memory" is the most that the process held beyond what it held once the network was built, so
it is activations, gradients and the optimizer's state; "step" is processor time, since other work may run beside it.
"""

from __future__ import annotations

import argparse
import itertools
import json
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

import torch

from dataforge.bench.measure import record_rows
from dataforge.loading.batch import Batch
from trainers.distributed import resident
from trainers.training.learner import Learner
from trainers.vit import TRAIN, ViT, ViTConfig

MIB = 2**20


def measure(train: str, backbone: str, side: int, count: int, steps: int) -> dict[str, float]:
    """Memory in MiB, processor seconds a step, and the weights that learn in millions, of one of `TRAIN`."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    model = ViT(80, backbone=backbone, train=train, lora="r=8,alpha=16" if train == "lora" else "")
    learner = Learner(ViTConfig(train=train, ema=0.0), model, torch.device("cpu"))
    boxes = torch.rand(count, 8, 4).mul(side / 2) + torch.tensor([0.0, 0, side / 2, side / 2])
    labels = torch.randint(0, 80, (count, 8))
    flags, affine = torch.zeros(count, 8, dtype=torch.uint8), torch.eye(3).repeat(count, 1, 1)
    images = torch.randint(0, 256, (count, 3, side, side), dtype=torch.uint8)
    batch = Batch(images=images, boxes=boxes, labels=labels, flags=flags, affine=affine, index=torch.arange(count))
    Path("/proc/self/clear_refs").write_text("5")  # forgets the most that it held so far; Linux alone has it
    before, seconds = resident(), []
    for step in range(steps + 1):  # the first one makes the optimizer's state
        started = time.process_time()
        learner.gradients(batch)
        learner.update(1e-4, step)
        seconds.append(time.process_time() - started)
    [peak] = re.findall(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    learning = sum(weight.numel() for weight in model.parameters() if weight.requires_grad)
    return {
        "memory": (int(peak) * 1024 - before) / MIB,
        "step": median(seconds[1:]),
        "weights that learn": learning / 1e6,
    }


def rows(given: argparse.Namespace) -> Iterator[dict[str, Any]]:
    found: dict[str, list[dict[str, float]]] = {train: [] for train in TRAIN}
    for _ in range(given.runs):
        for train in TRAIN:
            command = [sys.executable, __file__, "--one", train, "--backbone", given.backbone]
            command += ["--side", str(given.side), "--count", str(given.count), "--steps", str(given.steps)]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            found[train].append(json.loads(done.stdout))
    data = f"{given.backbone}, {given.count} random images of {given.side}x{given.side}, one thread, float32"
    units = {"memory": "MiB", "step": "processor s", "weights that learn": "M"}
    for train, (name, unit) in itertools.product(TRAIN, units.items()):
        value = round(median(run[name] for run in found[train]), 2)
        yield {"name": f"vit --train {train}, {name}", "value": value, "unit": unit, "data": data, "runs": given.runs}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, help="file that the rows are added to")
    parser.add_argument("--backbone", default="vit_base_patch16_clip_224")
    parser.add_argument("--side", type=int, default=224)
    parser.add_argument("--count", type=int, default=2, help="images a step")
    parser.add_argument("--steps", type=int, default=3, help="measured steps of a run")
    parser.add_argument("--runs", type=int, default=1, help="of each")
    parser.add_argument("--one", choices=TRAIN, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        print(json.dumps(measure(given.one, given.backbone, given.side, given.count, given.steps)))
    elif given.results:
        record_rows(rows(given), given.results)
    else:
        parser.error("--results is missing")


if __name__ == "__main__":
    main()
