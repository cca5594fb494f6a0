from __future__ import annotations

import itertools
from pathlib import Path

import pytest
import torch

from dataforge.shards.reader import Shards
from tests.trainers import runs
from trainers import registry
from trainers.config import Config
from trainers.training import optim


def test_the_learning_rate_warms_up_and_drops() -> None:
    config = Config(lr=1.0, warmup_steps=10, milestones=[2, 3], epochs=4)
    rates = [optim.learning_rate(config, step, step / 20) for step in range(80)]
    assert rates[:10] == pytest.approx([(i + 1) / 10 for i in range(10)])
    assert rates[39:41] == pytest.approx([1.0, 0.1]) and rates[60] == pytest.approx(0.01)
    config = Config(lr=1.0, warmup_steps=0, schedule="cosine", epochs=4)
    cosine = [optim.learning_rate(config, step, step / 20) for step in range(80)]
    assert cosine[0] == 1.0 and cosine[40] == pytest.approx(0.505)
    assert all(a >= b for a, b in itertools.pairwise(cosine))


def test_the_average_follows_the_weights() -> None:
    model, average = torch.nn.Linear(2, 2), torch.nn.Linear(2, 2)
    for step in range(5000):
        optim.update_average(average, model, 0.99, step)
    assert torch.allclose(model.weight, average.weight, atol=1e-4)


@pytest.mark.parametrize("detector", list(registry.DETECTORS))
def test_every_weight_learns_at_its_rate(detector: str, tiny_shards: Path) -> None:
    config = runs.config(detector, tiny_shards, Path(), bias_lr=2.0, layer_decay=0.5, weight_decay=0.1)
    kind = registry.detector_class(detector)
    model = kind(**kind.configure(config, Shards(tiny_shards)))
    optimizer = optim.make_optimizer(config, model)
    optim.set_rate(optimizer, 0.3)
    rate = {weight: group["lr"] / 0.3 for group in optimizer.param_groups for weight in group["params"]}
    decay = {weight: group["weight_decay"] for group in optimizer.param_groups for weight in group["params"]}
    learning = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
    assert set(rate) == set(learning.values())
    assert all(decay[weight] == (0.1 if weight.ndim > 1 else 0.0) for weight in learning.values())
    kinds = (torch.nn.BatchNorm2d, torch.nn.GroupNorm, torch.nn.LayerNorm)
    norms = {weight for layer in model.modules() if isinstance(layer, kinds) for weight in layer.parameters()}
    for name, weight in learning.items():
        if not name.startswith("backbone."):
            doubled = name.endswith("bias") and weight not in norms
            assert rate[weight] == pytest.approx(2.0 if doubled else 1.0), name
    units = model.backbone.units()  # type: ignore[union-attr, operator]
    for left, unit in enumerate(reversed(units), 1):
        for weight in unit.parameters():
            if weight in rate and weight.ndim > 1:
                assert rate[weight] == pytest.approx(0.5**left)
    assert min(rate.values()) < 0.5 ** (len(units) - 2), "the first units too"


def test_ssds_biases_learn_twice_as_fast() -> None:
    assert registry.config_class("ssd")().bias_lr == 2.0 and registry.config_class("yolov2")().bias_lr == 1.0
