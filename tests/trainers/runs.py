"""Small trainings, for tests of the engine and its parts."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

from trainers import registry
from trainers.config import Config
from trainers.training import run
from trainers.yolov2 import YOLOv2Config

SMALL: dict[str, dict[str, Any]] = {
    "yolov2": {"size": [64, 64], "width": 0.125, "num_anchors": 2, "multiscale": []},
    "ssd": {"size": [260, 288], "backbone": "test_efficientnet", "priors": "auto", "top_down": 8},
    "dense": {"size": [64, 128], "width": 8},
    "faster_rcnn": {"size": [64, 96], "backbone": "test_resnet", "neck": "c4", "regions": 32},
    "vit": {  # drop-path draws from each process's own state, so that two could not do what one does
        "size": [64, 96],
        "backbone": "test_vit",
        "width": 16,
        "depth": 1,
        "train": "all",
        "pretrained": "",
        "drop_path": 0.0,
    },
}


def config(detector: str, shards: Path, runs: Path, **values: Any) -> Config:
    """The smallest network of each kind."""
    common = {"shards": str(shards), "runs": str(runs), "epochs": 1, "batch_size": 4, "threads": 2, "warmup_steps": 3}
    return registry.config_class(detector)(**{**common, **SMALL[detector], **values})


def small(shards: Path, runs: Path, **values: Any) -> YOLOv2Config:
    """A YOLOv2 of two sizes, for two epochs of 5 steps."""
    found = config("yolov2", shards, runs, **{"multiscale": [1.0, 1.5], "epochs": 2, **values})
    assert isinstance(found, YOLOv2Config)
    return found


def steps(folder: Path) -> list[dict[str, str]]:
    """The rows of a run's steps."""
    return rows(folder / run.STEPS)


def rows(file: Path) -> list[dict[str, str]]:
    with open(file, newline="") as stream:
        return list(csv.DictReader(stream))
