from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

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


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[Any]:
    """A Ray cluster of three nodes in this machine, one without CPUs; a test may remove another."""
    pytest.importorskip("ray")
    os.environ.setdefault("RAY_raylet_start_wait_time_s", "120")  # a loaded machine starts nodes slowly
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    for _ in range(2):
        cluster.add_node(num_cpus=1)
    yield cluster
    cluster.shutdown()
