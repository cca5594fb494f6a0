from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dataforge.errors import ConfigError
from dataforge.sampler import bucket, plan

SHAPES = [(64, 96), (80, 80), (96, 64)]


def sizes(n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.integers(20, 300, n).astype(np.int32), rng.integers(20, 300, n).astype(np.int32)


@settings(max_examples=200, deadline=None)
@given(
    n=st.integers(1, 200),
    batch_size=st.integers(1, 17),
    world=st.integers(1, 4),
    shapes=st.sampled_from([SHAPES[:1], SHAPES[:2], SHAPES]),
    shuffle=st.booleans(),
    seed=st.integers(0, 5),
)
def test_every_record_once_and_ranks_in_step(n, batch_size, world, shapes, shuffle, seed):
    height, width = sizes(n, seed)
    if n < world:
        with pytest.raises(ConfigError, match="cannot be dealt"):
            plan(height, width, shapes, batch_size, world=world)
        return
    ranks = [
        plan(height, width, shapes, batch_size, seed=seed, epoch=3, rank=rank, world=world, shuffle=shuffle)
        for rank in range(world)
    ]
    assert len({len(steps) for steps in ranks}) == 1
    seen = np.concatenate([step.index for steps in ranks for step in steps])
    assert sorted(seen) == list(range(n))
    for steps in zip(*ranks, strict=True):
        assert len({step.shape for step in steps}) == 1
        assert all(1 <= len(step.index) <= max(batch_size, 2 if world > 1 else 1) for step in steps)


@given(world=st.sampled_from([2, 3]), seed=st.integers(0, 3), shapes=st.sampled_from([SHAPES[:1], SHAPES]))
def test_ranks_put_together_are_the_single_process(world, seed, shapes):
    height, width = sizes(61, seed)
    alone = plan(height, width, shapes, 6, seed=seed, epoch=1)
    ranks = [plan(height, width, shapes, 6 // world, seed=seed, epoch=1, rank=r, world=world) for r in range(world)]
    together = [np.concatenate([step.index for step in steps]) for steps in zip(*ranks, strict=True)]
    if len(shapes) == 1:
        assert np.concatenate(together).tolist() == np.concatenate([step.index for step in alone]).tolist()
    whole = [index.tolist() for index in together]
    other = [step for step in alone if step.index.tolist() not in whole]
    assert len(other) <= 2 * len(shapes)  # a bucket's last two, where one rank would have been left without an image
    assert len(alone) == len(together) >= 10


def test_order_depends_on_seed_and_epoch_alone():
    height, width = sizes(50, 0)

    def order(**how) -> list[int]:
        return np.concatenate([step.index for step in plan(height, width, SHAPES[:1], 8, **how)]).tolist()

    assert order(seed=1, epoch=2) == order(seed=1, epoch=2)
    assert len({tuple(order(seed=s, epoch=e)) for s in range(3) for e in range(3)}) == 9
    assert order(shuffle=False) == list(range(50))


def test_drop_last_leaves_only_full_steps():
    height, width = sizes(50, 0)
    steps = plan(height, width, SHAPES[:1], 8, drop_last=True)
    assert [len(step.index) for step in steps] == [8] * 6


def test_bucket_is_the_nearest_ratio():
    found = bucket(np.array([10, 10, 30, 10]), np.array([10, 30, 10, 14]), SHAPES)
    assert found.tolist() == [1, 0, 2, 0]


def test_scales_change_every_ten_steps_alike_on_all_ranks():
    height, width = sizes(400, 0)
    ranks = [plan(height, width, [(96, 128)], 4, rank=r, world=2, scales=(0.5, 1.0, 1.25, 2.0)) for r in range(2)]
    shapes = [step.shape for step in ranks[0]]
    assert shapes == [step.shape for step in ranks[1]]
    assert all(len(set(shapes[i : i + 10])) == 1 for i in range(0, 50, 10))
    assert len(set(shapes)) > 1
    assert all(side % 32 == 0 for shape in shapes for side in shape)
