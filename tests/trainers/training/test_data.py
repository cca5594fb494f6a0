from __future__ import annotations

import os
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from dataforge.errors import ConfigError, DataError
from dataforge.loading.loader import Loader
from dataforge.shards.reader import Shards
from tests import tiny
from tests.trainers import runs
from trainers import registry
from trainers.training import data

CPU = torch.device("cpu")


def loaders(detector: str, shards: Path, **values: Any) -> tuple[Loader, Loader | None]:
    config = runs.config(detector, shards, Path("runs"), **values)
    config.check()
    return data.make_loaders(config, registry.detector_class(detector), 0, 1, CPU)


def test_a_size_stays_what_it_is(tiny_shards: Path) -> None:
    """SSD's 300 is no multiple of 32."""
    loader, val = loaders("ssd", tiny_shards, size=[300, 300])
    assert val and {tuple(batch.images.shape[2:]) for each in (loader, val) for batch in each} == {(300, 300)}


def test_multiscale_draws_sizes(tiny_shards: Path) -> None:
    loader, val = loaders("yolov2", tiny_shards, size=[64, 96], multiscale=[0.7, 1.4], batch_size=1)
    seen = set()
    for epoch in range(12):
        loader.set_epoch(epoch)
        seen |= {step.shape for step in loader.steps()}
    assert len(seen) > 1 and all(side % 32 == 0 for shape in seen for side in shape)
    assert val and {step.shape for step in val.steps()} == {(64, 96)}


def test_buckets_are_for_training(tiny_shards: Path) -> None:
    loader, val = loaders("yolov2", tiny_shards, buckets="96,64,64,96", batch_size=2)
    assert {step.shape for step in loader.steps()} == {(96, 64), (64, 96)}
    assert val and {step.shape for step in val.steps()} == {(64, 64)}
    auto, _ = loaders("dense", tiny_shards, size=[96, 128], buckets="auto", batch_size=2)
    assert len(auto.shapes) > 1 and all(h * w <= 96 * 128 for h, w in auto.shapes)


def test_a_budget_counts_pixels_instead_of_images(tiny_shards: Path) -> None:
    loader, val = loaders("yolov2", tiny_shards, buckets="96,64,64,64", budget=12400, batch_size=1, accumulate=2)
    largest = {shape: 12400 // (shape[0] * shape[1]) for shape in ((96, 64), (64, 64))}
    assert {step.shape: len(step.index) for step in loader.steps()}.keys() == largest.keys()
    assert all(len(step.index) <= largest[step.shape] for step in loader.steps())
    assert val and max(len(step.index) for step in val.steps()) == largest[64, 64] == 3


def test_rare_classes_come_more_often_in_training_alone(tiny_shards: Path) -> None:
    loader, val = loaders("yolov2", tiny_shards, sampling="repeat-factor", repeat_threshold=4.0)
    seen = sorted(i for step in loader.steps() for i in step.index.tolist())
    assert set(seen) == set(range(10)) and len(seen) > 10, "with a threshold above 1 all classes are rare"
    assert val and sorted(i for step in val.steps() for i in step.index.tolist()) == list(range(10))


@pytest.mark.parametrize(
    ("detector", "values", "words"),
    [
        ("yolov2", {"size": [100, 64]}, "size is 100,64; expected multiples of 32"),
        ("yolov2", {"buckets": "96,64,64,100"}, "buckets is 96,64,64,100; expected multiples of 32"),
        ("yolov2", {"buckets": "96,64,64"}, "buckets is '96,64,64'; expected auto, or heights and widths"),
        ("yolov2", {"buckets": "wide"}, "buckets is 'wide'; expected auto"),
        ("ssd", {"size": [256, 300]}, "^size 256,300: gives a side of 256; expected at least 257$"),
        ("ssd", {"size": [300, 300], "multiscale": [0.5, 1.0]}, "expected at least 257"),
        (
            "ssd",
            {"size": [300, 300], "buckets": "300,300,200,400"},
            "buckets .*200,400: gives a side of 200; expected at least 257",
        ),
    ],
)
def test_sizes_that_cannot_be(detector: str, values: dict[str, Any], words: str, tiny_shards: Path) -> None:
    with pytest.raises(ConfigError, match=words):
        loaders(detector, tiny_shards, **values)


def test_other_ranks_wait_for_the_cache_without_a_collective(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However long the first rank bakes: a collective gives up after ten minutes."""

    def collective(*_: object) -> None:
        raise AssertionError("a collective")

    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "barrier", collective)
    given = runs.config("yolov2", tiny.shards(tmp_path / "shards"), tmp_path, cache=True)
    paths: list[Path] = []
    other = threading.Thread(target=lambda: paths.append(data._cache(given, 1)), daemon=True)
    other.start()
    time.sleep(0.3)
    assert other.is_alive() and not list(tmp_path.glob("*.cache-*")), "rank 1 bakes nothing, and waits"
    path = data._cache(given, 0)
    other.join(60)
    assert paths == [path] and (path / "index.json").exists()
    monkeypatch.setattr(data, "CACHE_WAIT", 0.1)
    (path / "index.json").unlink()
    with pytest.raises(DataError, match="was not baked within"):
        data._cache(given, 1)


def test_a_cache_is_baked_once_for_what_the_shards_hold(tmp_path: Path) -> None:
    shards = tiny.shards(tmp_path / "shards")
    loader, val = loaders("yolov2", shards, cache=True)
    plain, plain_val = loaders("yolov2", shards)
    assert loader.shards.path.parent == shards.parent and loader.shards.path.name.startswith("shards.cache-64-")
    assert list(loader.shards.table.key) == list(plain.shards.table.key)
    assert (loader.shards.source.height == plain.shards.source.height).all()
    assert max(min(h, w) for h, w in zip(loader.shards.table.height, loader.shards.table.width, strict=True)) == 64
    for batch, same in zip(val or (), plain_val or (), strict=True):
        there = same.labels >= 0
        torch.testing.assert_close(batch.boxes[there], same.boxes[there], atol=1.0, rtol=0)
        assert (batch.images.float() - same.images.float()).abs().mean() < 8

    before = {file: os.stat(file).st_mtime_ns for file in loader.shards.path.rglob("*") if file.is_file()}
    again, _ = loaders("yolov2", shards, cache=True)
    assert again.shards.path == loader.shards.path
    assert {file: os.stat(file).st_mtime_ns for file in before} == before
    larger, _ = loaders("yolov2", shards, cache=True, multiscale=[1.0, 1.5])
    assert "cache-96-" in larger.shards.path.name


def test_a_view_chooses_in_source_pixels_also_from_a_cache(tmp_path: Path) -> None:
    shards = tiny.shards(tmp_path / "shards")
    chosen = {"area": [200.0, 900.0], "empty": "drop"}
    loader, _ = loaders("yolov2", shards, cache=True, size=[32, 32], **chosen)
    plain, _ = loaders("yolov2", shards, size=[32, 32], **chosen)
    assert list(loader.shards.table.key) == list(plain.shards.table.key)
    assert len(loader.shards.table.boxes) == len(plain.shards.table.boxes) > 0


def test_shards_stay_as_they_are(tiny_shards: Path) -> None:
    """No cache unless it is asked for."""
    loaders("yolov2", tiny_shards)
    assert not list(tiny_shards.parent.glob("*.cache-*"))
    assert Shards(tiny_shards).index.get("baked") is None
