from __future__ import annotations

import math
import os
import signal
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests import tiny

if TYPE_CHECKING:
    from tests.cloud.double import Double

signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job ignores it, and what it starts does, too

SHARED = Path(__file__).resolve().parents[1] / "../shared"


@pytest.fixture(autouse=True)
def no_lines_of_progress(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the lines of progress, which a slow machine prints for a few images, out of what tests compare."""
    monkeypatch.setattr("dataforge.cli.options.INTERVAL", math.inf)


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


@pytest.fixture(scope="session")
def server() -> Iterator[Double]:
    from tests.cloud.double import Double

    double = Double()
    yield double
    double.stop()


@pytest.fixture
def s3(server: Double, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Double]:
    """The double with a bucket, without faults; the environment that names it; and an empty cache."""
    from dataforge.cloud import chunks, requests
    from dataforge.shards import ahead
    from tests.cloud.double import ENVIRONMENT

    for name, value in {**ENVIRONMENT, "AWS_ENDPOINT_URL": server.endpoint}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("DATAFORGE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(requests, "DEADLINE", timedelta(seconds=30))
    monkeypatch.setattr(requests, "STALLED", timedelta(seconds=3))
    monkeypatch.setattr(
        requests, "BACKOFF", {"init_backoff": timedelta(seconds=0.01), "max_backoff": timedelta(seconds=0.1), "base": 4}
    )
    requests.bucket_of.cache_clear()
    yield server
    server.fault = None
    for pools in (
        ahead._pool,
        chunks._pool,
    ):  # what is still fetched ahead would make a client without this environment
        pools(os.getpid()).shutdown(cancel_futures=True)
        pools.cache_clear()
    requests.bucket_of.cache_clear()
