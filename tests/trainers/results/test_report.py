"""Looking at a detector changes nothing of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from dataforge.loading.loader import Loader
from trainers.results import evaluation, monitor
from trainers.results.report import score
from trainers.yolov2 import YOLOv2

LOOKS: dict[str, Callable[[YOLOv2, Loader, Path], object]] = {
    "score": lambda model, loader, folder: score(model, loader, folder),
    "score without pictures": lambda model, loader, folder: score(model, loader),
    "evaluation": lambda model, loader, folder: evaluation.run(model, loader, "cpu"),
    "pictures": lambda model, loader, folder: monitor.pictures(model, next(iter(loader)), loader.classes),
}


@pytest.mark.parametrize("look", LOOKS)
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("fails", [False, True])
def test_the_detector_stays_as_it_is(
    twenty: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, look: str, training: bool, fails: bool
) -> None:
    """Weights, batch norm's statistics and the mode, also where a step of it raises."""
    torch.manual_seed(0)
    model = YOLOv2(3, width=0.125).train(training)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    loader = Loader(twenty, "val", batch_size=4, size=(64, 96), shuffle=False)
    if fails:
        monkeypatch.setattr(model, "decode", None)
        with pytest.raises(TypeError):
            LOOKS[look](model, loader, tmp_path)
    else:
        LOOKS[look](model, loader, tmp_path)
    assert all(layer.training == training for layer in model.modules())
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name
