from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dataforge.errors import ConfigError
from dataforge.loading.buckets import auto_shapes, bucket, merge_small

SHAPES = [(64, 96), (80, 80), (96, 64)]


def waste(height: np.ndarray, width: np.ndarray, shapes: list[tuple[int, int]]) -> float:
    """The share of letterboxed pictures that is empty, on average, by laying every image in every shape."""
    filled = [np.minimum(h / height, w / width) ** 2 * height * width / (h * w) for h, w in shapes]
    return float(1 - np.max(filled, 0).mean())


def test_bucket_is_the_nearest_ratio():
    found = bucket(np.array([10, 10, 30, 10]), np.array([10, 30, 10, 14]), SHAPES)
    assert found.tolist() == [1, 0, 2, 0]


@settings(max_examples=60, deadline=None)
@given(
    sizes=st.lists(st.tuples(st.integers(20, 300), st.integers(20, 300)), min_size=1, max_size=12),
    count=st.integers(1, 3),
    area=st.sampled_from([64 * 96, 160 * 160, 192 * 224]),
)
def test_auto_shapes_are_the_best_there_are(sizes, count, area):
    height, width = np.array(sizes, np.int32).T
    found = auto_shapes(height, width, area, count)
    assert 1 <= len(found) <= count and all(h % 32 == w % 32 == 0 and h * w <= area for h, w in found)
    sides = [(area // w // 32 * 32, w) for w in range(32, area // 32 + 1, 32)]
    largest = max(h * w for h, w in sides)
    candidates = [(h, w) for h, w in sides if h * w >= 0.8 * largest]
    best = min(
        waste(height, width, list(chosen)) for k in range(1, count + 1) for chosen in combinations(candidates, k)
    )
    assert waste(height, width, found) <= best + 1e-3  # ratios are rounded
    if count > 1:
        assert waste(height, width, found) <= waste(height, width, auto_shapes(height, width, area, 1)) + 1e-3


def test_auto_shapes_need_images_and_room():
    with pytest.raises(ConfigError, match="0 images"):
        auto_shapes(np.zeros(0, np.int32), np.zeros(0, np.int32), 320 * 320)
    with pytest.raises(ConfigError, match="900 pixels"):
        auto_shapes(np.array([5]), np.array([5]), 900)


@settings(deadline=None)
@given(st.lists(st.integers(0, 2), min_size=1, max_size=40), st.integers(1, 20))
def test_small_buckets_move_to_their_neighbours(numbers, least):
    buckets = np.array(numbers)
    merge_small(buckets, SHAPES, [least] * 3)
    counts = np.bincount(buckets, minlength=3)
    assert counts.sum() == len(numbers)
    assert (counts[counts > 0] >= least).all() or (counts > 0).sum() == 1
