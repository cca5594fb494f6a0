"""A window of steps is laid out as its steps one by one, to the last bit."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import is_dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dataforge.augment.recipes import RECIPES
from dataforge.loading import window
from dataforge.loading.loader import Loader
from dataforge.shards.reader import Shards
from dataforge.transform.bake import Form, bake
from tests import tiny

REPEAT = 12
OPERATIONS = ["rotate90", "crop", "iou_crop", "aspect_limit", "copy_paste", "cutmix", "mosaic", "equalise", "erase"]
STEPS = st.lists(st.builds(lambda op, p: {"op": op, "p": p}, st.sampled_from(OPERATIONS), st.sampled_from([0.5, 1.0])))


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("window")
    source = tiny.shards(folder / "source", repeat=REPEAT, splits=("train",), shard_bytes=60_000)
    bake(Shards(source), folder / "raw", Form(raw=True, shapes=[(64, 96)]))
    return {"source": source, "raw": folder / "raw"}


def arrays(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the arrays in a value, with their types, by name."""
    if is_dataclass(value) or isinstance(value, dict):
        for key, part in (value if isinstance(value, dict) else vars(value)).items():
            yield from arrays(part, f"{name}.{key}")
    elif isinstance(value, tuple) and value and is_dataclass(value[0]):
        yield from chain.from_iterable(arrays(part, name) for part in value)
    elif hasattr(value, "shape"):
        array = np.asarray(value)
        yield name, (array.dtype, array.shape, array.tobytes())
    else:
        yield name, value


@settings(max_examples=15, deadline=None)
@given(
    st.sampled_from(["source", "raw"]),
    st.sampled_from([*RECIPES.values()]) | STEPS,
    st.sampled_from([{"size": (64, 96)}, {"size": None, "buckets": [(64, 96), (96, 64)]}, {"scales": (1.0, 0.5, 2.0)}]),
    st.fixed_dictionaries({"batch_size": st.integers(1, 9), "seed": st.integers(0, 9), "drop_last": st.booleans()}),
    st.sampled_from([(0, 1), (0, 2), (2, 3)]),
    st.sampled_from(["none", np.linspace(0, 2, 10 * REPEAT)]),
    st.integers(0, 20),
)
def test_a_window_is_its_steps(sets, name, recipe, shape, how, share, sampling, first):
    rank, world = share
    loader = Loader(
        sets[name], augment=recipe, rank=rank, world=world, sampling=sampling, **{"size": (64, 96)} | shape | how
    )
    steps, lay_out = list(loader.steps())[first:], loader.collate.lay_out
    groups = list(window.windows(steps, loader.shards.table))
    assert list(chain(*groups)) == steps
    for group in groups:
        for step, plan in zip(group, lay_out(group, 3), strict=True):
            assert plan.step is step and list(plan.index) == step.index.tolist()
            assert dict(arrays(plan)) == dict(arrays(lay_out([step], 3)[0]))


def test_windows_grow_and_are_bounded(sets):
    loader = Loader(sets["source"], batch_size=1, size=(64, 96), sampling=np.full(10 * REPEAT, 3.0))
    table = loader.shards.table
    sizes = [len(group) for group in window.windows(loader.steps(), table)]
    assert sizes[:2] == [4, 8] and sum(sizes) == 360 and 32 < max(sizes) <= window.MOST
    dense = Loader(sets["source"], batch_size=40, size=(64, 96), sampling=np.full(10 * REPEAT, 9.0))
    for group in window.windows(dense.steps(), table):
        images = np.concatenate([step.index for step in group])
        assert len(group) == 1 or len(images) + len(table.take(images).labels) <= window.ROWS
