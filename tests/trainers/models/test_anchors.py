from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dataforge import Shards
from dataforge.errors import ConfigError
from dataforge.record import CROWD
from tests import tiny
from trainers.models.anchors import VOC, from_shards, kmeans, mean_iou, parse

side = st.integers(1, 2000).map(lambda hundredth: hundredth / 100)
sizes = st.lists(st.tuples(side, side), min_size=1, max_size=40).map(np.array)


def test_clear_clusters_are_found() -> None:
    middles = np.array([[0.5, 1.0], [3.0, 2.0], [9.0, 11.0]])
    rng = np.random.default_rng(0)
    drawn = (middles[:, None] * rng.uniform(0.95, 1.05, (3, 200, 2))).reshape(-1, 2)
    for seed in range(10):
        np.testing.assert_allclose(kmeans(drawn, 3, seed), middles, rtol=0.02)


@settings(deadline=None)
@given(sizes, st.integers(1, 9), st.integers(0, 5))
def test_anchors_are_in_range_sorted_and_repeatable(drawn: np.ndarray, k: int, seed: int) -> None:
    found = kmeans(drawn, k, seed)
    assert found.shape == (k, 2)
    assert (np.diff(found.prod(1)) >= 0).all()
    assert (found >= drawn.min(0) - 1e-9).all() and (found <= drawn.max(0) + 1e-9).all()
    np.testing.assert_array_equal(kmeans(drawn[::-1], k, seed), found)


def test_fewer_distinct_sizes_than_anchors() -> None:
    found = kmeans(np.array([[1.0, 2.0]] * 50 + [[3.0, 1.0]]), 5)
    assert found.shape == (5, 2)
    assert {tuple(anchor) for anchor in found} == {(1.0, 2.0), (3.0, 1.0)}


def test_more_anchors_fit_better_than_fixed_ones() -> None:
    drawn = np.exp(np.random.default_rng(3).normal(0.5, 0.8, (500, 2)))
    scores = [mean_iou(drawn, kmeans(drawn, k)) for k in (1, 3, 5, 9)]
    assert scores == sorted(scores)
    assert scores[2] > mean_iou(drawn, np.array(VOC))


def test_nothing_to_cluster() -> None:
    with pytest.raises(ConfigError, match="0 boxes"):
        kmeans(np.zeros((0, 2)), 5)
    with pytest.raises(ConfigError, match="0 anchors"):
        kmeans(np.ones((3, 2)), 0)


@pytest.mark.parametrize("fit", ["letterbox", "stretch"])
def test_from_shards_takes_sizes_as_the_network_sees_them(tiny_shards: Path, fit: str) -> None:
    expected = []
    for record in tiny.records("val"):
        x, y = 128 / record.width, 96 / record.height
        if fit == "letterbox":
            x = y = min(x, y)
        for box, flags in zip(record.boxes, record.flags, strict=True):
            if not flags & CROWD:
                expected.append(((box[2] - box[0]) * x / 32, (box[3] - box[1]) * y / 32))
    found, mean = from_shards(Shards(tiny_shards, "val"), (96, 128), fit, 4, seed=1)
    np.testing.assert_allclose(found, kmeans(np.array(expected), 4, seed=1), rtol=0.02, atol=1e-3)
    assert mean == pytest.approx(mean_iou(np.array(expected, np.float64), np.array(found)), rel=1e-4)
    assert 0.4 < mean < 1


def test_from_shards_needs_boxes(tmp_path: Path) -> None:
    from dataforge.images.header import probe
    from dataforge.shards.writer import ShardWriter

    with ShardWriter(tmp_path / "shards", ["a"]) as writer:
        (empty,) = [record for record in tiny.records() if record.key == "empty.jpg"]
        assert isinstance(empty.image, bytes)
        writer.add(empty, empty.image, probe(empty.image))
        writer.publish()
    with pytest.raises(ConfigError, match="holds no box"):
        from_shards(Shards(tmp_path / "shards"), (64, 64))


def test_parse() -> None:
    assert parse("voc") == VOC
    assert parse("1,2, 3.5,4") == [(1, 2), (3.5, 4)]
    for wrong in ("", "1,2,3", "a,b", "1,-2", "nan,1", "0,1", "1;2"):
        with pytest.raises(ConfigError, match="anchors"):
            parse(wrong)
