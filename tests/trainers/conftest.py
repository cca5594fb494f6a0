from __future__ import annotations

from pathlib import Path

import pytest

from tests import tiny
from tests.trainers import runs
from trainers.training import engine


@pytest.fixture(scope="session")
def twenty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shards of 20 awkward images a split."""
    return tiny.shards(tmp_path_factory.mktemp("twenty") / "shards", repeat=2)


@pytest.fixture(scope="session")
def finished(twenty: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a whole run."""
    return engine.train(runs.small(twenty, tmp_path_factory.mktemp("runs"), name="whole", save_steps=2), "yolov2")
