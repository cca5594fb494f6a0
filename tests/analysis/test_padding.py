from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dataforge.analysis.padding import padding_waste
from dataforge.augment.operations.geometry import FILL, fit_matrix
from dataforge.loading.batch import pad
from dataforge.loading.loader import Loader
from dataforge.loading.sampler import plan
from dataforge.shards.reader import Shards
from dataforge.shards.table import Table
from tests import tiny


def table(height: np.ndarray, width: np.ndarray, counts: np.ndarray) -> Table:
    """A table of so many boxes an image, all of the whole image."""
    n, offsets = len(height), np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    sides = np.stack([height * 0, width * 0, width, height], 1).astype(np.float32)
    boxes = np.repeat(sides, counts, axis=0)
    zeros = np.zeros(len(boxes), np.int32)
    return Table(
        id=np.full(n, -1),
        height=height.astype(np.int32),
        width=width.astype(np.int32),
        orientation=np.ones(n, np.uint8),
        size=np.ones(n, np.int64),
        crc=np.zeros(n, np.uint32),
        offsets=offsets,
        boxes=boxes,
        labels=zeros,
        flags=zeros.astype(np.uint8),
        areas=np.prod(boxes[:, 2:], axis=1),
        _key=pa.chunked_array([[f"{i}.jpg" for i in range(n)]], pa.string()),
    )


sizes = st.lists(st.tuples(st.integers(1, 900), st.integers(1, 900), st.integers(0, 70)), min_size=1, max_size=40)


@given(sizes, st.integers(1, 7), st.lists(st.tuples(st.integers(1, 20), st.integers(1, 20)), min_size=1, max_size=4))
@settings(max_examples=80, deadline=None)
def test_it_is_what_the_matrices_and_the_batch_leave_empty(
    rows: list[tuple[int, int, int]], batch_size: int, shapes: list[tuple[int, int]]
) -> None:
    height, width, counts = np.array(rows).T
    facts = table(height, width, counts)
    steps = plan(facts.height, facts.width, [(32 * h, 32 * w) for h, w in shapes], batch_size)
    pixels = filled = places = 0.0
    for step in steps:
        matrix = fit_matrix(facts.height[step.index], facts.width[step.index], step.shape)
        filled += float((facts.height[step.index] * facts.width[step.index] * matrix[:, 0, 0] * matrix[:, 1, 1]).sum())
        pixels += len(step.index) * step.shape[0] * step.shape[1]
        objects = facts.take(step.index)
        places += pad(objects.offsets, objects.boxes, objects.labels.astype(np.int64), objects.flags)[1].numel()
    waste = padding_waste(facts, steps)
    assert (waste.steps, waste.images, waste.places) == (len(steps), len(rows), places)
    assert waste.pixels == pixels and waste.padded_pixels == pytest.approx(1 - filled / pixels, abs=1e-9)
    assert waste.padded_places == pytest.approx(1 - counts.sum() / places)


def test_it_is_what_a_loaders_batches_show(tiny_shards: object) -> None:
    shards = Shards(str(tiny_shards), "train")
    loader = Loader(shards, "train", 4, size=None, buckets=[(96, 160), (160, 96)], shuffle=False)
    waste = padding_waste(loader.shards.table, loader.steps())
    batches = list(loader)
    padded = sum(int((batch.labels < 0).sum()) for batch in batches) / sum(batch.labels.numel() for batch in batches)
    assert waste.padded_places == pytest.approx(padded)
    fill = [(batch.images == FILL).all(1) for batch in batches]
    share = sum(int(part.sum()) for part in fill) / sum(part.numel() for part in fill)
    assert waste.padded_pixels == pytest.approx(share, abs=0.03)  # edges lie between pixels, and some pixels are grey
    assert all(torch.is_tensor(part) for part in fill) and waste.pixels == sum(part.numel() for part in fill)


def test_no_steps_no_boxes_and_a_perfect_fit() -> None:
    square = table(np.full(10, 300), np.full(10, 300), np.zeros(10, int))
    assert padding_waste(square, []).images == 0
    waste = padding_waste(square, plan(square.height, square.width, [(320, 320)], 4))
    assert waste.padded_pixels == pytest.approx(0, abs=1e-12) and waste.padded_places == 1
    eight = table(np.array([30]), np.array([60]), np.array([8]))
    waste = padding_waste(eight, plan(eight.height, eight.width, [(320, 320)], 4))
    assert waste.padded_pixels == pytest.approx(0.5) and waste.padded_places == 0


def test_tiny_has_both_ends() -> None:
    counts = [len(record.boxes) for record in tiny.records()]
    assert min(counts) == 0 and max(counts) == 300
