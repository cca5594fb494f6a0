"""An INT8 model beside its FP32 one: size, latency and average precision.

    python bench/int8.py FP32.onnx INT8.onnx --shards DIR --split val --data WORDS --results bench/results/DATE.jsonl

INT8.onnx was written by `trainers.export --int8`, FP32.onnx by the same command without that option. They take turns
on the same images, one at a time, preprocessing included, on one thread; "processor ms" is processor time, since other
work may run beside it. AP is that of the certificate, on the whole split.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

import onnxruntime

from dataforge.bench.measure import record_rows
from dataforge.shards.reader import Shards
from trainers.results.exported import Exported, load_onnx, picture, run_of

LOW_CONF, LOW_IOU = 0.001, 0.5  # as `trainers.evaluate`


def on_one_thread(path: Path) -> Exported:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return Exported(load_onnx(path, "cpu").facts, run_of(session))


def rows(given: argparse.Namespace) -> Iterator[dict[str, Any]]:
    paths = {"FP32": given.fp32, "INT8": given.int8}
    models = {name: on_one_thread(path) for name, path in paths.items()}
    shards = Shards(given.shards, given.split)
    pictures = [picture(shards, i) for i in range(min(given.images, len(shards)))]
    times: dict[tuple[str, str], list[float]] = {}
    for turn in range(given.rounds + 1):  # the first one is to warm up
        for pixels in pictures:
            for name, model in models.items():
                clock, cpu = time.perf_counter(), time.process_time()
                model.detect([pixels], LOW_CONF, LOW_IOU)
                if turn:
                    times.setdefault((name, "ms"), []).append((time.perf_counter() - clock) * 1e3)
                    times.setdefault((name, "processor ms"), []).append((time.process_time() - cpu) * 1e3)
    facts = models["INT8"].facts
    report = facts["certificate"]["int8"]
    how = {
        "data": given.data,
        "size": facts["size"],
        "split": given.split,
        "layers": report["layers"],
        "float_layers": len(report["float"]),
        "note": given.note,
    }
    for name, row in zip(models, report["table"], strict=True):
        title = f"{facts['detector']} as ONNX in {name}"
        yield {"name": f"{title}, AP", "value": round(row["map"], 4), "unit": "AP", **how}
        size = round(paths[name].stat().st_size / 2**20, 3)
        yield {"name": f"{title}, size", "value": size, "unit": "MiB", **how}
        for unit in ("ms", "processor ms"):
            value = round(median(times[name, unit]), 2)
            yield {"name": f"{title}, an image", "value": value, "unit": unit, "runs": len(times[name, unit]), **how}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("fp32", type=Path)
    parser.add_argument("int8", type=Path)
    parser.add_argument("--shards", type=Path, required=True)
    parser.add_argument("--split", default="val")
    parser.add_argument("--data", default="", help="what the shards are, for the rows")
    parser.add_argument("--note", default="", help="what ran beside it, for the rows")
    parser.add_argument("--images", type=int, default=20, help="images to time")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--results", type=Path, required=True, help="file that the rows are added to")
    given = parser.parse_args()
    record_rows(rows(given), given.results)


if __name__ == "__main__":
    main()
