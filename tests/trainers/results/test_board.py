from __future__ import annotations

import importlib.util
import sys
from contextlib import closing
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from dataforge.errors import ConfigError
from trainers.config import Config
from trainers.results.board import open_board

PIXELS = np.zeros((8, 12, 3), np.uint8)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """What stand-ins for W&B and MLflow are asked for; both refuse what the real ones refuse."""
    seen: list[tuple[Any, ...]] = []

    def log_metric(key: str, value: float, step: int) -> None:
        assert not set(key) - set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-. :/")
        seen.append((key, value, step))

    class RefusedError(Exception):
        pass

    def init(**values: Any) -> SimpleNamespace:
        if values["name"] == "stranger":
            raise RefusedError("No API key configured.\nLog in.")
        seen.append(("init", values["project"], values["id"]))
        return SimpleNamespace(
            id=values["id"] or "abc",
            log=lambda row, step: seen.extend((key, value, step) for key, value in row.items()),
            finish=lambda: seen.append(("finish",)),
        )

    def start_run(run_id: str | None, run_name: str) -> SimpleNamespace:
        if run_name == "stranger":
            raise RefusedError("No API key configured.\nLog in.")
        seen.append(("init", run_name, run_id))
        return SimpleNamespace(info=SimpleNamespace(run_id="abc"))

    parts: dict[str, dict[str, Any]] = {
        "wandb": {"init": init, "Image": lambda pixels: pixels.shape, "Error": RefusedError},
        "mlflow": {
            "MlflowException": RefusedError,
            "set_experiment": lambda name: None,
            "start_run": start_run,
            "log_params": lambda values: seen.append(("params", values["lr"])),
            "log_metric": log_metric,
            "log_image": lambda pixels, file: seen.append((file, pixels.shape)),
            "end_run": lambda: seen.append(("finish",)),
        },
    }
    for name, members in parts.items():
        module = ModuleType(name)
        module.__spec__ = ModuleSpec(name, None)
        vars(module).update(members)
        monkeypatch.setitem(sys.modules, name, module)
    return seen


@pytest.mark.parametrize("logger", ["wandb", "mlflow"])
def test_other_loggers(calls: list[tuple[Any, ...]], tmp_path: Path, logger: str) -> None:
    config = Config(shards="x", logger=logger, name="exp")
    config.check()
    for _ in range(2):
        board = open_board(config, "ssd", tmp_path, 0)
        board.add_scalar("epoch/data-wait %", 0.5, 3)
        board.add_image("found", PIXELS, 3)
        board.close()
    inits = [call for call in calls if call[0] == "init"]
    assert [call[2] for call in inits] == [None, "abc"], "the second time it goes on with the same run"
    assert {"wandb": ("epoch/data-wait %", 0.5, 3), "mlflow": ("epoch/data-wait percent", 0.5, 3)}[logger] in calls
    assert {"wandb": ("found", (8, 12, 3), 3), "mlflow": ("found/0000003.png", (8, 12, 3))}[logger] in calls
    assert calls.count(("finish",)) == 2


@pytest.mark.parametrize("logger", ["wandb", "mlflow"])
def test_a_logger_that_refuses(calls: list[tuple[Any, ...]], tmp_path: Path, logger: str) -> None:
    with pytest.raises(ConfigError, match=rf"^logger is '{logger}', which says: No API key configured\.$"):
        open_board(Config(shards="x", logger=logger, name="stranger"), "ssd", tmp_path, 0)
    assert not list(tmp_path.iterdir())


def test_tensorboard(tmp_path: Path) -> None:
    board = open_board(Config(shards="x"), "ssd", tmp_path, 0)
    board.add_scalar("train/loss", 0.25, 7)
    board.add_image("found", PIXELS, 7)
    board.close()
    found = EventAccumulator(str(tmp_path)).Reload()
    [event] = found.Scalars("train/loss")
    assert (event.step, event.value) == (7, 0.25)
    assert (found.Images("found")[0].height, found.Images("found")[0].width) == (8, 12)


@pytest.mark.skipif(sys.platform == "win32", reason="has no limit of the size of files")
def test_a_full_disk(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    import resource

    board = open_board(Config(shards="x"), "ssd", tmp_path, 0)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (400, limits[1]))
    try:
        with pytest.raises(ConfigError, match=r"events\S+: cannot be written: File too large"), closing(board):
            for step in range(20):
                board.add_scalar("train/loss", 0.25, step)
                board.add_image("found", PIXELS, step)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert "Traceback" not in capfd.readouterr().err
    assert EventAccumulator(str(tmp_path)).Reload().Scalars("train/loss")[0].value == 0.25


def test_entries_after_the_step_of_a_resumed_run_are_dropped(tmp_path: Path) -> None:
    for begun, value in ((0, 1.0), (2, 2.0)):
        board = open_board(Config(shards="x"), "ssd", tmp_path, begun)
        for step in range(begun + 1, 4):
            board.add_scalar("train/loss", value, step)
        board.close()
    assert [event.value for event in EventAccumulator(str(tmp_path)).Reload().Scalars("train/loss")] == [1.0, 1.0, 2.0]


def test_a_logger_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="logger is 'paper'; expected one of tensorboard, wandb, mlflow"):
        Config(shards="x", logger="paper").check()
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="logger is 'mlflow', which is not installed; pip install mlflow"):
        Config(shards="x", logger="mlflow").check()
