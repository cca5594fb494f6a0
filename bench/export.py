"""What an exported model costs: the time to write it, its size, and its latency against PyTorch eager.

    python bench/export.py --results bench/results/DATE.jsonl --detectors dense ssd --note "..."

A small detector of random weights is written as ONNX, and as OpenVINO's IR where that is installed. The process then
keeps to one core and detects on images of 480x640 from decoded pixels to boxes, preprocessing included, by
`trainers.results.detection.detect` (the path of `trainers.predict`) and by each runtime, one after another in turns, at
each batch size. Times are of the processor, since other work may run beside it; the first turn does not count.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch

from dataforge.bench.measure import record_rows
from trainers.exporting import onnx_file, openvino_file
from trainers.exporting.graph import Graph
from trainers.models.detector import Detector
from trainers.registry import detector_class
from trainers.results.detection import detect
from trainers.results.exported import Exported

CLASSES, CONF, IOU = 3, 0.25, 0.45
SIZE = (320, 320)
MODELS: dict[str, dict[str, Any]] = {
    "dense": {"backbone": "plain", "channels": 3, "sizes": [[16, 24], [32, 48], [64, 96]]},
    "faster_rcnn": {"backbone": "resnet10t", "width": 64},
    "ssd": {"backbone": "tf_efficientnet_lite0"},
    "vit": {"backbone": "vit_tiny_patch16_224", "width": 64, "depth": 2},
    "yolov2": {"width": 0.5},
}
FORMS = {"onnxruntime": onnx_file, "OpenVINO": openvino_file}


def exported(detector: Detector, form: Any, folder: Path) -> tuple[Exported, float, int]:
    """Write a model; return it, the processor seconds that took, and its bytes."""
    facts = {
        "classes": ["a"] * CLASSES,
        "class_ids": list(range(CLASSES)),
        "size": SIZE,
        "fit": "letterbox",
        "input": "any",
        "batch": "any",
        "conf": CONF,
        "iou": IOU,
        "top": 300,
    }
    file, started = folder / f"model{form.SUFFIX}", time.process_time()
    form.save(Graph(detector, SIZE, "letterbox"), facts, file)
    seconds = time.process_time() - started
    return Exported(facts, form.running(file)), seconds, sum(part.stat().st_size for part in folder.iterdir())


def latency(runs: dict[str, Callable[[], Any]], repeats: int) -> dict[str, float]:
    """Processor seconds of each, the median of all turns but the first."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(repeats + 1):
        for name, run in runs.items():
            started = time.process_time()
            run()
            seconds[name].append(time.process_time() - started)
    return {name: median(times[1:]) for name, times in seconds.items()}


def rows(name: str, repeats: int, note: str) -> Iterator[dict[str, Any]]:
    torch.manual_seed(0)
    torch.set_num_threads(1)
    detector = detector_class(name)(classes=CLASSES, **MODELS[name]).to(memory_format=torch.channels_last).eval()
    facts = {"data": f"{name}, {MODELS[name]}, {SIZE[0]}x{SIZE[1]}, random weights", "note": note}
    models = {}
    with tempfile.TemporaryDirectory() as folder:
        for runtime, form in FORMS.items():
            if all(importlib.util.find_spec(package) for package in form.NEEDS):
                part = Path(folder) / runtime
                part.mkdir()
                models[runtime], seconds, size = exported(detector, form, part)
                yield {"name": f"export {name}, {runtime}", "value": round(seconds, 1), "unit": "processor s", **facts}
                yield {"name": f"export {name}, {runtime}", "value": round(size / 2**20, 2), "unit": "MiB", **facts}
        for count in (1, 8):
            pictures = list(np.random.default_rng(0).integers(0, 256, (count, 480, 640, 3), np.uint8))
            device = torch.device("cpu")
            runs: dict[str, Callable[[], Any]] = {
                "PyTorch": lambda: detect(detector, pictures, SIZE, "letterbox", device, CONF, IOU, 300)  # noqa: B023
            }
            runs |= {key: lambda model=model: model.detect(pictures, CONF, IOU) for key, model in models.items()}  # type: ignore[misc]  # noqa: B023
            times = latency(runs, repeats)
            for runtime in models:
                yield {
                    "name": f"{name} by {runtime} / PyTorch eager, batch {count}",
                    "value": round(times["PyTorch"] / times[runtime], 3),
                    "unit": "times as fast, processor s",
                    "pytorch_ms": round(times["PyTorch"] * 1e3, 1),
                    "exported_ms": round(times[runtime] * 1e3, 1),
                    "repeats": repeats,
                    **facts,
                }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, required=True, help="file that the rows are added to")
    parser.add_argument("--detectors", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--repeats", type=int, default=5, help="measured turns")
    parser.add_argument("--note", default="", help="of what else ran, in each row")
    given = parser.parse_args()
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})  # every runtime then has one thread
    for name in given.detectors:
        record_rows(rows(name, given.repeats, given.note), given.results)


if __name__ == "__main__":
    main()
