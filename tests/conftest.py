from __future__ import annotations

import signal
from pathlib import Path

import pytest

from tests import tiny

signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job ignores it, and what it starts does, too

SHARED = Path(__file__).resolve().parents[1] / "../shared"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real data sets that lie beside a checkout; they are not part of the project."""
    if not (SHARED / "data").is_dir():
        pytest.skip("../shared/data is absent")
    return (SHARED / "data").resolve()


@pytest.fixture(scope="session")
def tiny_shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny set as shards, splits "train" and "val"; read only."""
    return tiny.shards(tmp_path_factory.mktemp("tiny") / "shards")
