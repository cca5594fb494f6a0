"""How long saving a checkpoint stops a training, and how long it takes to write.

    python bench/saving.py --results bench/results/DATE.jsonl

A plain-ViT detector with random weights takes one step, on the CPU, which makes the optimizer's state, and is saved
some times. "stop" is the time in which no step can be taken; "written" is when the file is complete; "at once" is both,
where the training itself writes, in turn with them. The first save, whose copy takes fresh memory, is told apart.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from statistics import median

import torch

from dataforge.bench.measure import record_rows
from dataforge.formats.coco import read
from dataforge.images import synth
from dataforge.ingest.run import ingest
from trainers.distributed import memory_kept
from trainers.training import engine
from trainers.vit import ViTConfig


def measure(folder: Path, backbone: str, saves: int) -> tuple[dict[str, list[float]], int]:
    """Return the seconds of each save by what took them, and the bytes of a checkpoint."""
    synth.write(folder / "pictures", images=8)
    ingest(read(folder / "pictures"), folder / "shards", source_name="coco")
    config = ViTConfig(shards=str(folder / "shards"), runs=str(folder / "runs"), backbone=backbone, train="all")
    config.size, config.batch_size, config.keep, config.val_split, config.amp = (64, 64), 2, 1, "", "none"
    config.pretrained, config.defaults = "", "none"
    seconds: dict[str, list[float]] = {"at once": [], "stop": [], "written": []}
    with ExitStack() as held:
        training = engine.start(config, "vit", None, 0, 1, torch.device("cpu"), held)
        held.enter_context(training.writer)
        engine.take_step(training, next(iter(training.loader)), 1e-5, None)
        for _ in range(saves + 1):
            training.progress.step += 2
            started = time.perf_counter()
            training._write(training.state_dict(), training.progress.step - 1, False)
            seconds["at once"].append(time.perf_counter() - started)
            started = time.perf_counter()
            training.save()
            seconds["stop"].append(time.perf_counter() - started)
            training.writer.wait()
            seconds["written"].append(time.perf_counter() - started)
        size = (training.folder / "weights/last.pt").stat().st_size
    return seconds, size


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, help="file that the rows are added to")
    parser.add_argument("--backbone", default="vit_base_patch16_clip_224")
    parser.add_argument("--saves", type=int, default=5)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, memory_kept():
        seconds, size = measure(Path(folder), given.backbone, given.saves)
    data = f"vit, {given.backbone}, checkpoint of {size / 1e6:.0f} MB"
    rows = [
        {"name": f"saving, {kind}", "value": round(median(rest), 3), "unit": "s", "first": round(first, 3)}
        | {"low": round(min(rest), 3), "high": round(max(rest), 3), "runs": len(rest), "data": data}
        for kind, (first, *rest) in seconds.items()
    ]
    for row in rows:
        print(f"{row['name']}: {row['value']} s ({row['low']} to {row['high']}; {row['first']} at first)")
    record_rows(rows, given.results)


if __name__ == "__main__":
    main()
