from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dataforge.errors import ConfigError
from dataforge.loading.repeats import repeat_factors
from dataforge.loading.sampler import Epoch, box_places, plan
from dataforge.loading.shuffle import Windows

SHAPES = [(64, 96), (80, 80), (96, 64)]


def sizes(n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.integers(20, 300, n).astype(np.int32), rng.integers(20, 300, n).astype(np.int32)


def joined(ranks: list[Epoch]) -> list[tuple[tuple[int, int], list[int]]]:
    """Each step of all ranks put together: shape, samples."""
    assert len({len(steps) for steps in ranks}) == 1
    assert all(len({step.shape for step in steps}) == 1 for steps in zip(*ranks, strict=True))
    return [(steps[0].shape, np.concatenate([s.sample for s in steps]).tolist()) for steps in zip(*ranks, strict=True)]


@settings(max_examples=300, deadline=None)
@given(
    n=st.integers(1, 200),
    whole=st.integers(1, 60),
    world=st.integers(1, 4),
    shapes=st.sampled_from([SHAPES[:1], SHAPES[:2], SHAPES]),
    shuffle=st.booleans() | st.integers(0, 99),
    box_window=st.integers(1, 4),
    seed=st.integers(0, 5),
)
def test_every_record_once_and_ranks_in_step(n, whole, world, shapes, shuffle, box_window, seed):
    height, width = sizes(n, seed)
    if not isinstance(shuffle, bool):
        shuffle = f"window:{whole * len(shapes) + shuffle}"
    how = {"seed": seed, "epoch": 3, "world": world, "shuffle": shuffle, "box_window": box_window, "boxes": height % 40}
    if min(n, whole) < world:
        with pytest.raises(ConfigError, match="cannot be dealt"):
            plan(height, width, shapes, whole, **how)
        return
    ranks = [plan(height, width, shapes, whole, rank=rank, **how) for rank in range(world)]
    assert sorted(sample for _, part in joined(ranks) for sample in part) == list(range(n))
    first = seed * len(ranks[0]) // 5
    rest = [step.sample.tolist() for steps in ranks[0].dealt(first) for step in steps]
    assert rest == [step.sample.tolist() for step in ranks[0]][first:]
    for step in (step for steps in ranks for step in steps):
        assert 1 <= len(step.index) <= max(-(-whole // world), 2 if world > 1 else 1)
        assert step.index.tolist() == step.sample.tolist()


@settings(max_examples=300, deadline=None)
@given(
    n=st.integers(3, 150),
    whole=st.integers(6, 20),
    shapes=st.sampled_from([SHAPES[:1], SHAPES[:2], SHAPES]),
    drop_last=st.booleans(),
    box_window=st.integers(1, 4),
    repeated=st.booleans(),
    window=st.none() | st.integers(0, 40),
    seed=st.integers(0, 5),
)
def test_ranks_put_together_are_the_single_process(n, whole, shapes, drop_last, box_window, repeated, window, seed):
    height, width = sizes(n, seed)
    repeats = (height % 5 / 2 + 0.5) if repeated else None
    how = {"seed": seed, "drop_last": drop_last, "box_window": box_window, "boxes": height % 40, "repeats": repeats}
    how |= {"epoch": 1, "shuffle": True if window is None else f"window:{whole * len(shapes) + window}"}
    if drop_last and (n if repeats is None else round(repeats.sum())) < whole:
        for world in (1, 2, 3):
            with pytest.raises(ConfigError, match="drop_last leaves no step"):
                plan(height, width, shapes, whole, world=world, **how)
        return
    runs = [joined([plan(height, width, shapes, whole, rank=r, world=w, **how) for r in range(w)]) for w in (1, 2, 3)]
    assert runs[0] == runs[1] == runs[2]
    if drop_last:
        assert runs[0] and all(len(part) == whole for _, part in runs[0])


def test_drop_last_leaves_out_no_bucket_in_every_epoch():
    """Records of a bucket that cannot fill a step go to the next bucket, else no epoch would have them."""
    height, width = np.full(20, 64, np.int32), np.array([96] * 15 + [64] * 5, np.int32)
    epochs = [plan(height, width, [(64, 96), (64, 64)], 8, epoch=epoch, drop_last=True) for epoch in range(30)]
    assert {len(step.index) for steps in epochs for step in steps} == {8}
    assert set(np.concatenate([step.index for steps in epochs for step in steps]).tolist()) == set(range(20))


@pytest.mark.parametrize("repeats", [None, np.zeros(0)])
def test_a_split_without_records_is_refused(repeats):
    none = np.zeros(0, np.int32)
    with pytest.raises(ConfigError, match="0 records cannot be dealt to 1 rank"):
        plan(none, none, SHAPES, 4, repeats=repeats)


@settings(max_examples=200, deadline=None)
@given(n=st.integers(1, 120), window=st.integers(2, 5), world=st.integers(1, 2), seed=st.integers(0, 9))
def test_a_box_window_never_adds_padding(n, window, world, seed):
    height, width = sizes(n + 2, seed)
    boxes = np.random.default_rng(seed).geometric(0.07, n + 2)

    def places(box_window: int) -> int:
        found = joined(
            [
                plan(
                    height, width, SHAPES, 3 * world, seed=seed, rank=r, world=world, boxes=boxes, box_window=box_window
                )
                for r in range(world)
            ]
        )
        return sum(len(part) * int(box_places(boxes[part]).max()) for _, part in found)

    assert places(window) <= places(1)


def test_a_box_window_saves_padding_where_counts_differ():
    height, width = sizes(4000, 0)
    boxes = np.random.default_rng(0).geometric(0.1, 4000)
    steps = [plan(height, width, SHAPES[:1], 16, boxes=boxes, box_window=window) for window in (1, 8)]
    plain, windowed = (sum(len(s.index) * int(box_places(boxes[s.index]).max()) for s in some) for some in steps)
    assert windowed < 0.75 * plain
    assert sorted(len(step.index) for step in steps[0]) == sorted(len(step.index) for step in steps[1])


def test_order_depends_on_seed_and_epoch_alone():
    height, width = sizes(50, 0)

    def order(**how) -> list[int]:
        return np.concatenate([step.index for step in plan(height, width, SHAPES[:1], 8, **how)]).tolist()

    assert order(seed=1, epoch=2) == order(seed=1, epoch=2)
    assert len({tuple(order(seed=s, epoch=e)) for s in range(3) for e in range(3)}) == 9
    assert order(shuffle=False) == list(range(50))


@pytest.mark.parametrize("n", range(48, 56))
@pytest.mark.parametrize("world", [1, 2])
def test_drop_last_leaves_only_full_steps_and_as_many_as_there_are(n, world):
    steps = plan(*sizes(n, 0), SHAPES[:1], 8, world=world, drop_last=True)
    assert [len(step.index) for step in steps] == [8 // world] * (n // 8)


def test_a_bucket_may_have_its_own_batch_size():
    height, width = sizes(300, 0)
    steps = plan(height, width, SHAPES, [4, 6, 8], drop_last=True)
    assert {(step.shape, len(step.index)) for step in steps} == {(SHAPES[0], 4), (SHAPES[1], 6), (SHAPES[2], 8)}


@settings(max_examples=100, deadline=None)
@given(st.lists(st.floats(0, 4, allow_subnormal=False), min_size=1, max_size=60), st.integers(0, 3))
def test_repeats_are_rounded_up_or_down_and_always_sum_to_the_same(repeats, seed):
    wanted = np.array(repeats)
    total = round(float(wanted.sum()))
    if total == 0:
        return
    exact = wanted * total / wanted.sum()
    height, width = sizes(len(wanted), 0)
    for epoch in range(3):
        steps = plan(height, width, SHAPES, 4, repeats=wanted, seed=seed, epoch=epoch)
        index, sample = (np.concatenate([getattr(step, name) for step in steps]) for name in ("index", "sample"))
        assert len(set(sample.tolist())) == len(sample) == total
        assert (sample % len(wanted) == index).all()
        copies = np.bincount(index, minlength=len(wanted))
        assert (copies >= np.floor(exact - 1e-6)).all() and (copies <= np.ceil(exact + 1e-6)).all()
        assert (copies[wanted == 0] == 0).all()


def test_repeats_are_met_on_average():
    height, width = sizes(40, 0)
    wanted = np.linspace(0.1, 2.5, 40)
    steps = [step for epoch in range(300) for step in plan(height, width, SHAPES[:1], 8, repeats=wanted, epoch=epoch)]
    mean = np.bincount(np.concatenate([step.index for step in steps]), minlength=40) / 300
    assert np.abs(mean - wanted).max() < 0.15


def test_repeat_factors_are_those_of_lvis():
    # class 0 in 4 of 4 records, class 1 in 1 of 4; record 3 holds a class twice, which counts once
    labels, image = np.array([0, 0, 0, 1, 0, 0]), np.array([0, 1, 2, 2, 3, 3])
    found = repeat_factors(labels.astype(np.int32), image, 4, threshold=1.0)
    np.testing.assert_allclose(found, [1, 1, 2, 1])
    assert repeat_factors(labels.astype(np.int32), image, 4, threshold=0.2).tolist() == [1, 1, 1, 1]
    assert repeat_factors(np.zeros(0, np.int32), np.zeros(0, np.int64), 3).tolist() == [1, 1, 1]
    assert repeat_factors(np.array([2], np.int32), np.array([1]), 3, 1.0).tolist() == [1, 3**0.5, 1]


def test_scales_change_every_ten_steps_alike_on_all_ranks():
    height, width = sizes(400, 0)
    ranks = [plan(height, width, [(96, 128)], 8, rank=r, world=2, scales=(0.5, 1.0, 1.25, 2.0)) for r in range(2)]
    shapes = [step.shape for step in ranks[0]]
    assert shapes == [step.shape for step in ranks[1]]
    assert all(len(set(shapes[i : i + 10])) == 1 for i in range(0, 50, 10))
    assert len(set(shapes)) > 1
    assert all(side % 32 == 0 for shape in shapes for side in shape)


def test_places_are_powers_of_two_from_eight_on():
    assert box_places(np.array([0, 1, 8, 9, 16, 17, 300, 512, 513])).tolist() == [8, 8, 8, 16, 16, 32, 512, 512, 1024]


@settings(max_examples=50, deadline=None)
@given(n=st.integers(1, 4000), size=st.integers(1, 1000), seed=st.integers(0, 5))
def test_windows_hold_every_number_once_in_blocks_of_successive_ones(n, size, seed):
    windows = Windows(n, size, seed, epoch=1)
    parts = [windows.samples(window) for window in range(len(windows))]
    assert sorted(np.concatenate(parts).tolist()) == list(range(n))
    assert all(size <= len(part) < 2 * size for part in parts) or len(parts) == 1
    breaks = sum(int(((np.diff(part) != 1) & (np.diff(part) != 1 - n)).sum()) for part in parts)
    assert breaks <= n // max(1, size // 64) + 1


def test_a_window_mixes_records_from_everywhere_and_others_in_each_epoch():
    n, size, batch = 50_000, 4096, 16
    none = np.zeros(n, np.int32)

    def steps(epoch: int, rank: int = 0, world: int = 1) -> np.ndarray:
        how = {"shuffle": f"window:{size}", "epoch": epoch, "rank": rank, "world": world}
        return np.stack([step.index for step in plan(none, none, SHAPES[:1], batch, **how)])

    order, other = steps(0), steps(1)
    apart = np.abs(order[:, :, None] - order[:, None])[:, ~np.eye(batch, dtype=bool)]
    assert (apart < 64).mean() < 63 / size, "fewer neighbours than in windows of which each step is drawn at random"
    assert apart.mean() == pytest.approx(n / 3, rel=0.02)
    window = [set((part[: size // batch].ravel() // 64).tolist()) for part in (order, other)]
    assert len(window[0] & window[1]) < 0.3 * len(window[0])
    for rank in range(4):  # a fourth of the 64 blocks, which shifted lie in two of these each
        blocks = np.unique(steps(0, rank, 4)[: size // batch] // 64)
        assert len(blocks) <= 2 * (64 // 4 + 1)


@pytest.mark.parametrize(
    "shuffle", ["window", "window:", "window:0", "window:-4", "window:1e3", "windows:9", "Full", "", 1, None]
)
def test_a_shuffle_of_another_name_is_refused(shuffle):
    with pytest.raises(ConfigError, match=f"shuffle is {shuffle!r}; expected full, or window:N such as window:16384"):
        plan(*sizes(9, 0), SHAPES, 2, shuffle=shuffle)


def test_a_window_of_less_than_a_step_is_refused():
    with pytest.raises(ConfigError, match="shuffle is 'window:23'; expected at least a full step of each shape, 24 im"):
        plan(*sizes(99, 0), SHAPES, 8, shuffle="window:23")
