"""The time left that a training prints."""

from __future__ import annotations

import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from trainers.training import log as log_module
from trainers.training.log import Log


def made(epochs: int, eval_every: int = 1, done: int = 0) -> Log:
    """A log of a training with 100 steps per epoch."""
    config = SimpleNamespace(epochs=epochs, eval_every=eval_every)
    training: Any = SimpleNamespace(
        config=config, progress=SimpleNamespace(epoch=done), loader=range(100), val_loader=range(1)
    )
    return Log(training)


@pytest.mark.parametrize(
    ("before", "seconds", "epochs", "step", "words"),
    [
        (0, [5, 1, 1, 9, 9], 3, 3, "about 5 min left"),  # the first step does not count
        (0, [12, 1, 1], 3, 2, "about 5 min left"),  # however long it takes
        (0, [60, 60, 1], 3, 2, "about 4 h 58 min left"),
        (0, [5, 6, 1], 3, 2, "about 30 min left"),
        (50, [7, 1], 2, 2, "about 2 min left"),  # resumed within an epoch: the first step of this process
        (1, [7, 1], 2, 2, "about 3 min left"),
        (0, [0.01] * 3, 3, 3, "less than a minute left"),
    ],
)
def test_it_is_printed_once_after_few_steps(
    before: int, seconds: list[float], epochs: int, step: int, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    log = made(epochs)
    log.start_epoch(100, before)
    sums = {"seconds": float(before), "steps": float(before)}
    for count, spent in enumerate(seconds, 1):
        sums = {"seconds": sums["seconds"] + spent, "steps": sums["steps"] + 1}
        log._estimate(sums)
        printed = capsys.readouterr().out
        assert printed.startswith(words) if count == step else not printed


def test_an_epoch_of_one_step_has_no_estimate_before_its_end(capsys: pytest.CaptureFixture[str]) -> None:
    log = made(3)
    log.start_epoch(1, 0)
    log._estimate({"seconds": 60.0, "steps": 1.0})
    assert not capsys.readouterr().out


@pytest.mark.parametrize(
    ("done", "evaluation", "words"),
    [
        (1, 0.0, "; about 7 min left, without evaluations"),
        (2, 60.0, "; about 7 min left"),  # 300 steps, evaluations after epochs 4 and 5
        (4, 60.0, "; about 3 min left"),
        (5, 60.0, ""),
    ],
)
def test_later_it_is_the_last_epochs_steps_and_evaluation(done: int, evaluation: float, words: str) -> None:
    log = made(epochs=5, eval_every=2, done=done)
    log.evaluation = evaluation
    assert log._left({"seconds": 100.0, "steps": 100.0}) == words


def test_a_run_resumed_at_the_end_of_an_epoch_has_an_evaluation_before_any_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = time.perf_counter()
    monkeypatch.setattr(time, "perf_counter", lambda: now + 1e6)  # since the machine was started
    log = made(epochs=3, done=1)
    monkeypatch.setattr(time, "perf_counter", lambda: now + 1e6 + 60)
    monkeypatch.setattr(log_module.plots, "results", lambda table, path: None)
    monkeypatch.setattr(log_module.monitor, "due", lambda epoch, epochs: False)
    board: Any = SimpleNamespace(add_scalar=lambda name, value, step: None)
    training: Any = log.training
    log.board, training.folder, training.progress.step = board, tmp_path, 100
    training.learner = SimpleNamespace(device=torch.device("cpu"))
    sums = {"seconds": 100.0, "steps": 100.0, "images": 100.0, "waited": 0.0, "loss": 1.0}
    log.end_epoch(sums, 0.1, {"AP50": 0.5, "AP": 0.3}, [])
    assert "; about 5 min left" in capsys.readouterr().out, "200 steps and two evaluations of a minute"
