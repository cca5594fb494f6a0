"""Two processes under torchrun do what one does."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from dataforge.loading.loader import Loader
from tests.trainers import distributed, runs
from trainers import checkpoint, registry
from trainers.config import Config, write_toml
from trainers.results.report import score
from trainers.training import engine, run

LAUNCH = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


def config(detector: str, shards: Path, folder: Path) -> Config:
    """20 images in steps of 6 and what is left: the two processes have unequal shares of the last ones."""
    given = {"batch_size": 6, "ema": 0.0, "lr": 1e-4, "threads": 1, "name": "run", "logger": "tensorboard"}
    return runs.config(detector, shards, folder, **given)


@pytest.fixture(scope="module")
def by_two(twenty: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of all detectors' runs by two processes."""
    folder = tmp_path_factory.mktemp("two")
    for detector in registry.DETECTORS:
        write_toml(config(detector, twenty, folder), folder / f"{detector}.toml")
    program = ["-m", "tests.trainers.distributed", str(folder), *registry.DETECTORS]
    done = subprocess.run([*LAUNCH, *program], timeout=550, env=ENVIRONMENT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("detector", list(registry.DETECTORS))
def test_two_processes_train_as_one(
    by_two: Path, twenty: Path, tmp_path: Path, detector: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    distributed.fix_norms(monkeypatch.setattr)
    alone = engine.train(config(detector, twenty, tmp_path), detector)
    ours, theirs = runs.steps(by_two / detector / "run"), runs.steps(alone)
    assert len(ours) == len(theirs) == 4
    for one, other in zip(ours, theirs, strict=True):
        assert {k: float(v) for k, v in one.items()} == pytest.approx({k: float(v) for k, v in other.items()}, rel=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("detector", list(registry.DETECTORS))
def test_two_processes_evaluate_as_one(by_two: Path, twenty: Path, detector: str) -> None:
    """The last evaluation of the run, which two processes did, and one of its weights alone."""
    folder = by_two / detector / "run"
    model, facts = checkpoint.load_detector(folder / "weights/last.pt")
    size = (facts["size"][0], facts["size"][1])
    numbers = score(model, Loader(twenty, "val", batch_size=6, size=size, fit=facts["fit"], shuffle=False))
    [row] = runs.rows(folder / run.RESULTS)
    assert float(row["mAP50"]) == pytest.approx(numbers["AP50"], abs=1e-6)
    assert float(row["mAP50-95"]) == pytest.approx(numbers["AP"], abs=1e-6)


@pytest.mark.slow
def test_two_processes_evaluate_from_the_command_line(finished: Path, twenty: Path) -> None:
    weights = [str(finished / "weights/last.pt"), "--shards", str(twenty), "--split", "val", "--json"]
    one, two = (
        subprocess.run(
            [*start, "-m", "trainers.evaluate", *weights], check=True, timeout=300, env=ENVIRONMENT, stdout=-1
        )
        for start in ([sys.executable], LAUNCH)
    )
    assert one.stdout == two.stdout and b"AP50" in one.stdout
