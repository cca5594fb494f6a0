from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from dataforge.cloud import requests
from dataforge.ingest.run import ingest
from dataforge.record import Source
from tests import tiny
from tests.cloud.double import ENVIRONMENT, Double


@pytest.fixture(scope="session")
def server() -> Iterator[Double]:
    double = Double()
    yield double
    double.stop()


@pytest.fixture
def s3(server: Double, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Double]:
    """The double with a bucket, without faults; the environment that names it; and an empty cache."""
    for name, value in {**ENVIRONMENT, "AWS_ENDPOINT_URL": server.endpoint}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("DATAFORGE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(requests, "DEADLINE", timedelta(seconds=30))
    monkeypatch.setattr(requests, "STALLED", timedelta(seconds=3))
    monkeypatch.setattr(
        requests, "BACKOFF", {"init_backoff": timedelta(seconds=0.01), "max_backoff": timedelta(seconds=0.1)}
    )
    requests.bucket_of.cache_clear()
    yield server
    server.fault = None
    requests.bucket_of.cache_clear()


def put(out: str | Path, store_name: str = "lmdb", repeat: int = 1, shard_bytes: int = 30_000) -> str | Path:
    """Ingest the tiny set."""
    records = [record for split in ("train", "val") for record in tiny.records(split)]
    source = Source(tiny.CLASSES, iter(records), tiny.CLASS_IDS, {}, len(records))
    ingest(source, out, store_name=store_name, source_name="tiny", shard_bytes=shard_bytes, jobs=1)
    return out
