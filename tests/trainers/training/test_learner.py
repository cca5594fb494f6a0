from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from dataforge.loading.loader import Loader
from dataforge.shards.reader import Shards
from tests.trainers import runs
from trainers import registry
from trainers.training.learner import Learner

CPU = torch.device("cpu")


def learner(detector: str, shards: Path, **values: Any) -> Learner:
    config = runs.config(detector, shards, Path(), **values)
    torch.manual_seed(0)
    kind = registry.detector_class(detector)
    return Learner(config, kind(**kind.configure(config, Shards(shards, "train"))), CPU)


@pytest.mark.parametrize("count", [2, 3, 7])
def test_parts_of_a_step_add_up_to_it(tiny_shards: Path, count: int) -> None:
    """With norms that see one image at a time. Seven parts of seven images, and parts of unequal sizes."""
    batch = next(iter(Loader(tiny_shards, "train", batch_size=7, size=(64, 96))))
    values = {"backbone": "test_convnext", "channels": 3, "batch_size": 7, "size": [64, 96]}
    whole, parts = learner("dense", tiny_shards, **values), learner("dense", tiny_shards, accumulate=count, **values)
    assert parts.gradients(batch) == pytest.approx(whole.gradients(batch), rel=1e-4)
    for (name, ours), theirs in zip(parts.model.named_parameters(), whole.model.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-3, atol=1e-5, msg=name)


@pytest.mark.parametrize("detector", list(registry.DETECTORS))
def test_every_detector_learns_in_parts(tiny_shards: Path, detector: str) -> None:
    """A last step may hold fewer images than there are to be parts."""
    made = learner(detector, tiny_shards, accumulate=3, batch_size=4)
    size = (made.config.size[0], made.config.size[1])
    batch = next(iter(Loader(tiny_shards, "train", batch_size=2, size=size)))
    before = [weight.detach().clone() for weight in made.model.parameters()]
    row = made.gradients(batch)
    made.update(0.01, 0)
    assert row["loss"] == pytest.approx(sum(value for name, value in row.items() if name != "loss"))
    assert any((old != new).any() for old, new in zip(before, made.model.parameters(), strict=True))


def test_a_size_that_came_before_is_not_compiled_anew(tiny_shards: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """More sizes than torch would compile by itself: buckets, and full and last steps."""
    compiled, counted = nn.Module.compile, torch._dynamo.utils.counters
    # what is compiled anew, and when, is decided before a backend comes in; the real one takes a minute
    monkeypatch.setattr(nn.Module, "compile", lambda self, **how: compiled(self, backend="eager", **how))
    torch._dynamo.reset()
    made = learner("dense", tiny_shards, compile=True)
    shapes = [(h, w, n) for h, w in ((64, 64), (64, 96), (96, 64), (128, 64), (96, 96)) for n in (1, 3)]
    limit, graphs = torch._dynamo.config.recompile_limit, []
    for number, (h, w, n) in enumerate([*shapes, *shapes[::-1]]):
        counted.clear()
        made.gradients(next(iter(Loader(tiny_shards, "train", batch_size=n, size=(h, w)))))
        made.update(0.001, number)
        graphs.append(counted["stats"]["unique_graphs"])
    assert graphs == [1] * len(shapes) + [0] * len(shapes)
    assert torch._dynamo.config.recompile_limit == limit < len(shapes), "torch's own limit is as it was"
    torch._dynamo.reset()


def test_compiled_it_computes_the_same(tiny_shards: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compiled = nn.Module.compile
    monkeypatch.setattr(nn.Module, "compile", lambda self, **how: compiled(self, backend="aot_eager", **how))
    torch._dynamo.reset()
    batch = next(iter(Loader(tiny_shards, "train", batch_size=4, size=(64, 128))))
    plain, made = (learner("dense", tiny_shards, compile=how) for how in (False, True))
    assert made.gradients(batch) == pytest.approx(plain.gradients(batch), rel=1e-4)
    assert made.state_dict()["model"].keys() == plain.state_dict()["model"].keys()
    torch._dynamo.reset()
