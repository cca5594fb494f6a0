"""Each detector learns with default flags, from random and from pretrained weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import nn

from dataforge.loading.loader import Loader
from tests.trainers import fake
from tests.trainers.suite import make_batch
from trainers import registry
from trainers.results import metrics
from trainers.results.evaluation import run
from trainers.results.truth import truth_of_shards
from trainers.training.learner import Learner

BACKBONE = "resnet10t"  # residual blocks, whose last norms timm initialises with weights of 0
SMALL: dict[str, dict[str, Any]] = {  # what makes a step short; all other flags have their defaults
    "yolov2": {"size": [64, 96], "width": 0.125},
    "ssd": {"size": [264, 288], "style": "torchvision"},
    "dense": {"size": [64, 96], "channels": 3, "levels": 3, "width": 32, "depth": 1},
    "faster_rcnn": {"size": [64, 96], "width": 32, "regions": 64},
    "vit": {"size": [64, 96], "width": 32, "depth": 1},
}
STEPS = {"yolov2": 60, "ssd": 60, "dense": 80, "faster_rcnn": 60, "vit": 80}


@pytest.fixture(scope="module")
def loader_of(tmp_path_factory: pytest.TempPathFactory) -> Any:
    shards = fake.shards(tmp_path_factory.mktemp("learns") / "shards")
    return lambda size, fit: Loader(shards, "val", 5, size, fit=fit, shuffle=False)


@pytest.fixture(scope="module")
def weights(loader_of: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights as pretraining leaves them: no norm has weight 0, and the statistics are those of pictures."""
    torch.manual_seed(1)
    net = timm.create_model(BACKBONE, features_only=True)
    for norm in net.modules():
        if isinstance(norm, nn.BatchNorm2d):
            nn.init.ones_(norm.weight)
            norm.momentum = None
    with torch.no_grad():
        net(next(iter(loader_of((64, 96), "letterbox"))).images / 255)
    file = tmp_path_factory.mktemp("weights") / "backbone.pth"
    torch.save(net.state_dict(), file)
    return file


@pytest.fixture(params=[False, True], ids=["random", "pretrained"])
def learner(request: pytest.FixtureRequest, detector: str, weights: Path, loader_of: Any) -> Learner:
    torch.manual_seed(0)
    pretrained = str(weights) if request.param else ""
    own = {"train": "all"} if detector == "vit" and not pretrained else {}  # its default keeps the backbone as it is
    given = {"optimizer": "adamw", "lr": 2e-3, "ema": 0.0, **SMALL[detector], **own}
    config = registry.config_class(detector)(backbone=BACKBONE, pretrained=pretrained, **given)
    kind = registry.detector_class(detector)
    model = kind(**kind.configure(config, loader_of((64, 96), config.fit).shards))
    model.pretrain(config)
    return Learner(config, model, torch.device("cpu"))


@pytest.mark.parametrize("detector", list(registry.DETECTORS))
def test_gradients_reach_every_weight_that_learns(learner: Learner) -> None:
    """With boxes of all sizes, within three steps."""
    height, width = learner.config.size
    images = torch.randint(0, 256, (2, 3, height, width), dtype=torch.uint8)
    boxes = [(2, 2, 2 + side, 2 + side, k % 3) for k, side in enumerate((12, 24, 40, 60, 150, 240)) if side < height]
    batch, reached = make_batch(images, [boxes, []]), set()
    for step in range(3):
        learner.gradients(batch)
        reached |= {name for name, x in learner.model.named_parameters() if x.grad is not None and x.grad.any()}
        learner.update(learner.config.lr, step)
    assert reached == {name for name, weight in learner.model.named_parameters() if weight.requires_grad}


@pytest.mark.slow
@pytest.mark.parametrize("detector", list(registry.DETECTORS))
def test_it_learns(learner: Learner, detector: str, loader_of: Any) -> None:
    height, width = learner.config.size
    loader = loader_of((height, width), learner.config.fit)
    [batch] = loader
    losses = []
    for step in range(STEPS[detector]):
        losses.append(learner.gradients(batch)["loss"])
        learner.update(learner.config.lr, step)
    assert losses[-1] < losses[0] / 4
    assert metrics.coco(truth_of_shards(loader.shards), run(learner.model, loader, "cpu"))["AP50"] >= 0.8
