"""What NMS would add to a detector that has none: evaluate a checkpoint as it is and with NMS after it, and add rows.

python bench/nms.py CKPT --shards shards --split test --data "bccd, trainval to test" --results bench/results/DATE.jsonl
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from torch import Tensor

from dataforge.bench.measure import record_rows
from dataforge.loading.loader import Loader
from trainers.checkpoint import load_detector
from trainers.models.boxes import nms
from trainers.models.detector import Detections, Detector
from trainers.results import metrics
from trainers.results.evaluation import run
from trainers.results.truth import truth_of_shards

THRESHOLDS = (0.5, 0.6, 0.7, 0.8)


class WithNMS(Detector):
    """Remove what overlaps a better detection of its class by more than a threshold."""

    def __init__(self, detector: Detector, threshold: float, classes: int) -> None:
        super().__init__()
        self.detector, self.threshold, self.classes = detector, threshold, classes

    def forward(self, images: Tensor) -> Any:
        return self.detector(images)

    def decode(self, raw: Any, *, top: int = 300, **options: Any) -> Detections:
        given = self.detector.decode(raw, top=top, **options)
        kept = nms(given.boxes, given.scores, given.labels, threshold=self.threshold, top=top, classes=self.classes)
        return Detections(*kept)


def rows(checkpoint: Path, shards: Path, split: str, data: str) -> Iterator[dict[str, Any]]:
    """Yield two rows for the checkpoint itself, and two for each threshold."""
    detector, facts = load_detector(checkpoint)
    loader = Loader(shards, split=split, batch_size=8, size=tuple(facts["size"]), fit=facts["fit"], shuffle=False)
    truth = truth_of_shards(loader.shards)
    detectors: dict[str, Detector] = {"as it is": detector}
    for threshold in THRESHOLDS:
        detectors[f"NMS {threshold} added"] = WithNMS(detector, threshold, len(facts["classes"]))
    for how, each in detectors.items():
        numbers = metrics.coco(truth, run(each, loader, "cpu"))
        for unit, key in (("mAP50", "AP50"), ("mAP50-95", "AP")):
            name = f"{facts['detector']} on {data.partition(',')[0]}, {how}"
            yield {"name": name, "value": round(numbers[key], 4), "unit": unit, "runs": 1, "data": data}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--shards", type=Path, required=True)
    parser.add_argument("--split", default="val")
    parser.add_argument("--data", required=True, help="what it was trained and is tested on, in words")
    parser.add_argument("--results", type=Path, help="file that the rows are added to")
    given = parser.parse_args()
    found = list(rows(given.checkpoint, given.shards, given.split, given.data))
    for row in found:
        print(f"{row['name']:<50} {row['unit']:<9} {row['value']:.4f}")
    record_rows(found, given.results)


if __name__ == "__main__":
    main()
