"""What an exported model takes beside its checkpoint on a CPU, from decoded pictures to boxes in their pixels:

    python bench/export.py CKPT... --shards DIR --out DIR --results bench/results/DATE.jsonl

The two take turns; rows are medians, and the ratio is PyTorch's time to onnxruntime's.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from statistics import median

import numpy as np
import torch

from dataforge.bench.measure import record_rows
from dataforge.shards.reader import Shards
from trainers import export
from trainers.checkpoint import load_detector
from trainers.models.graph import Graph
from trainers.predict import detect
from trainers.results.exported import Exported, picture


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path, nargs="+")
    parser.add_argument("--shards", type=Path, required=True)
    parser.add_argument("--split", default="val")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--out", type=Path, required=True, help="folder for the models")
    parser.add_argument("--results", type=Path)
    options = parser.parse_args()
    shards = Shards(options.shards, options.split)
    first = picture(shards, 0)
    for file in options.checkpoint:
        detector, facts = load_detector(file)
        how = export.facts_of(detector, facts, None, "any")
        name, size = facts["detector"], tuple(facts["size"])
        target = options.out / f"{name}.onnx"
        began = time.process_time()
        export.save(Graph(detector, size, facts["fit"]), how, target, "onnx")
        label = f"{name} {size[0]}x{size[1]}"
        rows = [
            {"name": f"export, {label}", "value": round(time.process_time() - began, 1), "unit": "processor s"},
            {"name": f"model file, {label}", "value": round(target.stat().st_size / 2**20, 2), "unit": "MiB"},
        ]
        model = Exported(how, export.open_run(target, "onnx"))
        for count in (1, 8):
            pictures = [np.ascontiguousarray(np.roll(first, i, 1)) for i in range(count)]
            ways = {
                "PyTorch": lambda p=pictures, d=detector, s=size, f=facts["fit"]: detect(
                    d, p, s, f, torch.device("cpu"), export.CONF, export.IOU
                ),
                "onnxruntime": lambda p=pictures, m=model: m.detect(p, export.CONF, export.IOU),
            }
            seconds: dict[str, list[float]] = {way: [] for way in ways}
            for repeat in range(options.repeats + 1):
                for way, work in ways.items():
                    began = time.perf_counter()
                    work()
                    seconds[way] += [time.perf_counter() - began] if repeat else []
            middle = {way: median(values) for way, values in seconds.items()}
            for way in ways:
                rows.append(
                    {
                        "name": f"{way}, {label}, batch {count}",
                        "value": round(1000 * middle[way], 2),
                        "unit": "ms",
                        "low": round(1000 * min(seconds[way]), 2),
                        "high": round(1000 * max(seconds[way]), 2),
                        "ratio": round(middle["PyTorch"] / middle[way], 2),
                        "repeats": options.repeats,
                        "threads": torch.get_num_threads(),
                        "picture": list(first.shape[:2]),
                    }
                )
        for row in rows:
            print(row)
        record_rows(rows, options.results)


if __name__ == "__main__":
    main()
