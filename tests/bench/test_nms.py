"""What NMS would add: the rows are of the checkpoint itself, and of the same with its duplicates removed."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from dataforge.loading.loader import Loader
from trainers import checkpoint
from trainers.models.detector import Detections, Detector
from trainers.results import metrics
from trainers.results.evaluation import run
from trainers.results.truth import truth_of_shards
from trainers.vit import ViT

FILE = Path(__file__).parents[2] / "bench/nms.py"


@pytest.fixture
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("bench_nms", FILE)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Twice(Detector):
    """Every box twice, a little moved, and once as another class."""

    def forward(self, images: torch.Tensor) -> Any:
        return images

    def decode(self, raw: Any, **_: Any) -> Detections:
        boxes = torch.tensor([[[0.0, 0, 20, 20], [1, 0, 21, 20], [0, 0, 20, 20], [40, 40, 60, 60]]])
        return Detections(boxes, torch.tensor([[0.9, 0.8, 0.7, 0.6]]), torch.tensor([[1, 1, 0, 1]]))


def test_it_removes_the_duplicates_of_a_class(script: ModuleType) -> None:
    kept = script.WithNMS(Twice(), 0.5, 2).decode(torch.zeros(1, 3, 64, 64))
    assert kept.labels.tolist() == [[1, 0, 1, -1]]
    torch.testing.assert_close(kept.scores, torch.tensor([[0.9, 0.7, 0.6, 0.0]]))


def test_rows(script: ModuleType, tiny_shards: Path, tmp_path: Path) -> None:
    loader = Loader(tiny_shards, split="val", batch_size=4, size=(64, 96), shuffle=False)
    config = {"classes": len(loader.shards.classes), "backbone": "test_vit", "width": 16, "depth": 0}
    torch.manual_seed(0)
    model = ViT(**config).eval()
    facts = {"classes": loader.shards.classes, "class_ids": [], "size": [64, 96], "fit": "letterbox"}
    checkpoint.save(tmp_path / "c.pt", {"detector": "vit", "config": config, "model": model.state_dict(), **facts})
    rows = list(script.rows(tmp_path / "c.pt", tiny_shards, "val", "tiny, itself"))
    assert [row["name"] for row in rows[::2]] == [
        f"vit on tiny, {how}" for how in ("as it is", *(f"NMS {threshold} added" for threshold in script.THRESHOLDS))
    ]
    numbers = metrics.coco(truth_of_shards(loader.shards), run(model, loader, "cpu"))
    assert [row["value"] for row in rows[:2]] == [round(numbers["AP50"], 4), round(numbers["AP"], 4)]
