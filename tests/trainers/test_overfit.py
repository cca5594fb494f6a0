"""Each detector learns 16 real pictures by heart: what it is taught, what it says and what is measured fit together."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
import torch

from dataforge.formats import reader
from dataforge.ingest.run import ingest
from dataforge.loading.loader import Loader
from trainers import registry
from trainers.results import metrics
from trainers.results.evaluation import run
from trainers.results.truth import truth_of_shards
from trainers.training.learner import Learner
from trainers.training.optim import learning_rate

SMALL: dict[str, dict[str, Any]] = {
    "yolov2": {"size": [192, 256], "width": 0.25, "lr": 2e-3},
    "ssd": {"size": [264, 352], "backbone": "resnet10t", "style": "torchvision", "lr": 1e-3},
    "dense": {"size": [192, 256], "channels": 3, "levels": 3, "lr": 3e-3},
    "faster_rcnn": {"size": [192, 256], "backbone": "resnet10t", "regions": 64, "lr": 1e-3},
    "vit": {
        "size": [192, 256],
        "backbone": "resnet10t",
        "train": "all",
        "strides": [8, 16, 32],
        "width": 64,
        "depth": 2,
        "lr": 2e-3,
        "clip": 10.0,
        "layer_decay": 1.0,
    },
}
NARROW = {"faster_rcnn": {"width": 64, "sizes": [[16], [32], [64], [128], [256]]}}
STEPS = {"yolov2": 120, "ssd": 120, "dense": 600, "faster_rcnn": 180, "vit": 140}
BATCH = {"yolov2": 8, "ssd": 4, "dense": 8, "faster_rcnn": 4, "vit": 8}


@pytest.fixture(scope="module")
def shards(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """16 of the blood cells' pictures: 3 classes, 219 boxes, some a tenth as wide as the others; they touch."""
    root = tmp_path_factory.mktemp("overfit")
    for folder, suffix in (("Annotations", ".xml"), ("JPEGImages", ".jpg")):
        (root / "voc" / folder).mkdir(parents=True)
        for file in sorted((shared_data / "bccd" / folder).glob(f"*{suffix}"))[::20][:16]:
            (root / "voc" / folder / file.name).symlink_to(file)
    ingest(reader("voc")(root / "voc"), root / "shards")
    return root / "shards"


@pytest.mark.slow
@pytest.mark.timeout(1500)  # 400 steps of dense took 523 s of one core and gave 0.936
@pytest.mark.parametrize("detector", list(registry.DETECTORS))
def test_it_learns_16_real_pictures(detector: str, shards: Path) -> None:
    torch.manual_seed(0)
    kind, steps = registry.detector_class(detector), STEPS[detector]
    given = {"epochs": 1, "optimizer": "adamw", "weight_decay": 0.0, "schedule": "cosine", "warmup_steps": 20}
    config = registry.config_class(detector)(**{"ema": 0.0, **given, **SMALL[detector]})
    loader = Loader(shards, "", BATCH[detector], (config.size[0], config.size[1]), fit=config.fit, shuffle=False)
    model = kind(**kind.configure(config, loader.shards) | NARROW.get(detector, {}))
    learner = Learner(config, model, torch.device("cpu"))
    truth, ap50 = truth_of_shards(loader.shards), 0.0
    for step, batch in zip(range(steps), itertools.cycle([*loader]), strict=False):
        learner.gradients(batch)
        learner.update(learning_rate(config, step, step / steps), step)
        if step + 1 == steps or step % 40 == 39:  # how soon depends on how the CPU rounds
            ap50 = metrics.coco(truth, run(learner.model, loader, "cpu"))["AP50"]
            if ap50 >= 0.95:
                break
    assert ap50 >= 0.95
