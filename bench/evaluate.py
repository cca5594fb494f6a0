"""COCO's metrics of detections of the size of val2017, against pycocotools on the same arrays; rounds are interleaved.

python bench/evaluate.py --results bench/results/DATE.jsonl
"""

from __future__ import annotations

import argparse
import contextlib
import io
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from dataforge.bench.measure import record_rows
from trainers.results.metrics import COCO_KEYS, coco
from trainers.results.truth import Predictions, Truth, coco_rows, xywh

CLASSES = 80


def random_set(images: int, boxes: int, detections: int, seed: int = 0) -> tuple[Truth, Predictions]:
    """Boxes of all sizes, and detections near them: some of another class, some of nothing."""
    rng = np.random.default_rng(seed)
    corner, side = rng.uniform(0, 400, (boxes, 2)), np.exp(rng.uniform(np.log(8), np.log(240), (boxes, 2)))
    corners = np.concatenate([corner, corner + side], 1)
    image, labels = np.sort(rng.integers(0, images, boxes)), rng.integers(0, CLASSES, boxes)
    truth = Truth(
        np.arange(1, images + 1),
        image,
        corners,
        labels,
        (rng.random(boxes) < 0.01).astype(np.uint8),
        side.prod(1),
        tuple(f"class {c}" for c in range(CLASSES)),
        tuple(range(1, CLASSES + 1)),
    )
    source = rng.integers(0, boxes, detections)
    near = corners[source] + rng.normal(0, 0.15, (detections, 4)) * np.tile(side, 2)[source]
    near[:, 2:] = np.maximum(near[:, 2:], near[:, :2] + 1)
    own = np.where(rng.random(detections) < 0.8, labels[source], rng.integers(0, CLASSES, detections))
    elsewhere = np.where(rng.random(detections) < 0.7, image[source], rng.integers(0, images, detections))
    return truth, Predictions(elsewhere, near, rng.random(detections), own)


def reference(truth: Truth, predictions: Predictions) -> dict[str, float]:
    """The 12 metrics of pycocotools, from the same arrays."""
    annotations = [
        {
            "id": i + 1,
            "image_id": int(image) + 1,
            "category_id": int(label) + 1,
            "bbox": box,
            "area": area,
            "iscrowd": crowd,
        }
        for i, (image, label, box, area, crowd) in enumerate(
            zip(
                truth.image,
                truth.labels,
                xywh(truth.boxes).tolist(),
                truth.areas.tolist(),
                truth.flags.tolist(),
                strict=True,
            )
        )
    ]
    known = COCO()
    known.dataset = {
        "info": {},
        "images": [{"id": i} for i in truth.image_ids.tolist()],
        "annotations": annotations,
        "categories": [{"id": i, "name": name} for i, name in zip(truth.class_ids, truth.classes, strict=True)],
    }
    with contextlib.redirect_stdout(io.StringIO()):
        known.createIndex()
        evaluation = COCOeval(known, known.loadRes(coco_rows(predictions, truth.image_ids, truth.class_ids)), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return dict(zip(COCO_KEYS, evaluation.stats.tolist(), strict=True))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--boxes", type=int, default=36_000)
    parser.add_argument("--detections", type=int, default=200_000)
    parser.add_argument("--results", type=Path, help="append rows to this file")
    options = parser.parse_args()
    data = random_set(options.images, options.boxes, options.detections)
    tools: dict[str, Callable[[Truth, Predictions], dict[str, float]]] = {"dataforge": coco, "pycocotools": reference}
    seconds: dict[str, list[float]] = {name: [] for name in tools}
    numbers = {}
    for _ in range(options.rounds):
        for name, tool in tools.items():
            start = time.process_time()
            numbers[name] = tool(*data)
            seconds[name].append(time.process_time() - start)
    largest = max(abs(numbers["dataforge"][key] - numbers["pycocotools"][key]) for key in COCO_KEYS)
    if largest > 1e-9:
        raise SystemExit(f"the metrics differ by up to {largest}")
    words = f"{options.images} images, {options.boxes} boxes, {options.detections} detections, drawn"
    rows = [
        {"name": f"COCO's metrics, {name}", "value": round(median(times), 3), "unit": "processor s", "runs": len(times)}
        for name, times in seconds.items()
    ]
    ratio = median(a / b for a, b in zip(seconds["dataforge"], seconds["pycocotools"], strict=True))
    rows.append(
        {"name": "COCO's metrics, of pycocotools' time", "value": round(ratio, 4), "unit": "x", "runs": len(seconds)}
    )
    for row in rows:
        print(row["name"], row["value"], row["unit"])
    record_rows([row | {"data": words} for row in rows], options.results)


if __name__ == "__main__":
    main()
