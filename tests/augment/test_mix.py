"""Pictures of several records: the boxes of each part lie on what is seen of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from bench.boxes import found, painted
from dataforge.augment.layout import lay_out
from dataforge.augment.operations.geometry import FITS
from dataforge.augment.operations.mix import MIXERS
from dataforge.augment.operations.registry import GEOMETRY, PHOTO
from dataforge.augment.recipes import RECIPES, recipe
from tests.augment.test_executors import Table, in_torch, on_cpu, picture

OUT = (96, 128)
N = 40


class Painted(Table):
    """Each record has one box."""

    def __init__(self) -> None:
        super().__init__(N)
        rng = np.random.default_rng(1)
        self.boxes = []
        for height, width in zip(self.height.tolist(), self.width.tolist(), strict=True):
            low = rng.integers(0, [width - 35, height - 35])
            self.boxes.append(np.array([[*low, *(low + rng.integers(20, 35, 2))]], np.float32))

    def only(self, record: int) -> Callable[[int], np.ndarray]:
        """Pictures that are black but for the box of one record."""
        return lambda r: painted(int(self.height[r]), int(self.width[r]), self.boxes[r][0] * (r == record))


def always(name: str, **values: Any) -> dict[str, Any]:
    return {"op": name, "p": 1.0, **values}


DARK = {"op": "fill", "red": 0, "green": 0, "blue": 0}
CASES = [
    [always("mosaic")],
    [always("mosaic", side=3)],
    [always("mosaic"), always("flip"), always("rotate", degrees=20), always("scale")],
    [always("cutmix")],
    [always("copy_paste")],
    [always("mosaic"), always("cutmix"), always("copy_paste")],
]


@pytest.mark.parametrize("fit", FITS)
@pytest.mark.parametrize("steps", CASES, ids=lambda steps: "+".join(s["op"] for s in steps))
def test_boxes_lie_on_what_is_seen_of_their_records(steps: list[Any], fit: str) -> None:
    table = Painted()
    layout = lay_out(recipe([*steps, DARK]), np.arange(N), table, OUT, fit=fit, seed=2, min_visible=0.0)
    covered = any(step["op"] in ("cutmix", "copy_paste") for step in steps)
    checked = same = 0
    for i in range(N):
        mine = slice(layout.first[i], layout.first[i + 1])  # every part has one box
        records = layout.parts.record[mine]
        for box, label, record in zip(layout.boxes[mine], layout.labels[mine], records, strict=True):
            if label < 0 or (records == record).sum() > 1 or (box[2:] - box[:2]).min() < 5:
                continue
            truth = found((picture(layout, i, table.only(record), OUT) * 255).astype(np.uint8))
            assert truth is not None or covered
            if truth is None:
                continue
            assert (truth[:2] >= box[:2] - 1.01).all() and (truth[2:] <= box[2:] + 1.01).all()
            checked += 1
            same += bool(np.abs(truth - box).max() < 1.01)
    assert checked > 30
    assert same == checked or (covered and same > 0.7 * checked)  # a corner may be covered, which is not cut off


@pytest.mark.parametrize("name", sorted(MIXERS))
def test_regions_and_shares(name: str) -> None:
    layout = lay_out(recipe([always(name)]), np.arange(N), Painted(), OUT, seed=5)
    parts, first = layout.parts, layout.first
    assert (np.diff(parts.owner) >= 0).all() and (parts.record[first[:-1]] == np.arange(N)).all()
    assert (parts.region >= 0).all() and (parts.region <= [128, 96, 128, 96]).all()
    area = (parts.region[:, 2:] - parts.region[:, :2]).prod(1)
    if name == "mosaic":
        assert (np.diff(first) == 4).all()
        np.testing.assert_array_equal(np.add.reduceat(area, first[:-1]), 96 * 128)  # no gap, no overlap
        own = parts.region[first[:-1], :2]
        assert len({tuple(np.minimum(corner, 1)) for corner in own}) == 4  # the own record may be any tile
    elif name == "cutmix":
        assert (np.diff(first) == 2).all()
        share = area[1::2] / (96 * 128)
        assert share.min() > 0.08 and share.max() < 0.52
    elif name == "copy_paste":
        assert (np.diff(first) == 4).all() and (parts.weight == 1).all()
    else:
        assert (parts.weight[1::2] >= 0.3).all() and (parts.weight[1::2] <= 0.5).all()
    assert len(np.unique(parts.record)) == N  # partners come from all of the split
    assert (layout.boxes >= 0).all() and (layout.boxes <= [128, 96, 128, 96]).all()
    assert layout.offsets[-1] == len(layout.boxes) == len(layout.labels) == len(layout.flags)


@st.composite
def _recipes(draw: st.DrawFn) -> list[dict[str, Any]]:
    """One to three operations, the first of which may combine records, in any order and at any probability."""
    names = draw(st.lists(st.sampled_from(sorted([*GEOMETRY, *PHOTO, *MIXERS])), min_size=1, max_size=3, unique=True))
    names += draw(st.sampled_from([[], *([name] for name in MIXERS if name not in names)]))
    return [{"op": name, "p": draw(st.sampled_from([0.5, 1.0]))} for name in names]


@settings(max_examples=60, deadline=None)
@given(_recipes(), st.integers(0, 5))
@example([{"op": "mosaic", "p": 0.5}, {"op": "mixup", "p": 1.0}], 0)
@example([dict(step) for step in RECIPES["strong"]], 0)
def test_a_picture_does_not_depend_on_its_batch(steps: list[dict[str, Any]], epoch: int) -> None:
    steps, table, shape = recipe(steps), Table(), (48, 64)
    whole = lay_out(steps, np.arange(12), table, shape, seed=1, epoch=epoch)
    for rows in (np.array([7]), np.array([10, 4])):
        part = lay_out(steps, rows, table, shape, seed=1, epoch=epoch)
        for i, row in enumerate(rows):
            own, same = slice(*part.first[i : i + 2]), slice(*whole.first[row : row + 2])
            for field in ("record", "region", "weight", "place"):
                np.testing.assert_array_equal(getattr(part.parts, field)[own], getattr(whole.parts, field)[same])
            np.testing.assert_array_equal(part.parameters.matrix[own], whole.parameters.matrix[same])
            own, same = slice(*part.offsets[i : i + 2]), slice(*whole.offsets[row : row + 2])
            for field in ("boxes", "labels", "flags"):
                np.testing.assert_array_equal(getattr(part, field)[own], getattr(whole, field)[same])
            np.testing.assert_array_equal(
                picture(part, i, table.pixels, shape), picture(whole, int(row), table.pixels, shape)
            )
    rows = np.array([10, 4])
    error = np.abs(in_torch(part, table, shape) - in_torch(whole, table, shape)[rows])
    # the padding of the sources depends on the batch, and with it the rounding of where they are sampled
    assert np.quantile(error, 0.99) < 0.02, error.max()


def test_until_ends_it_and_p_says_how_often() -> None:
    table = Painted()

    def parts(epoch: int, **values: Any) -> int:
        return len(lay_out([always("mosaic", **values)], np.arange(N), table, OUT, epoch=epoch).parts.owner)

    assert parts(4, until=5) == 4 * N and parts(5, until=5) == N and parts(99) == 4 * N
    assert N < parts(0, p=0.5) < 4 * N


def test_a_covered_box_is_dropped_and_one_with_a_covered_side_is_cut() -> None:
    from dataforge.augment.layout import _uncover
    from dataforge.augment.operations.mix import single

    parts = single(np.array([0]), OUT)
    parts.add(np.array([0]), np.array([1]), OUT, region=np.array([[40, 0, 80, 96]]))
    parts.sort()
    boxes = np.array([[45, 10, 70, 30], [20, 10, 60, 30], [0, 0, 128, 50], [50, 5, 60, 9]], np.float32)
    moved, keep = _uncover(boxes, np.ones(4, bool), np.array([0, 0, 0, 1]), parts, np.array([0, 2]), 0.25)
    assert keep.tolist() == [False, True, True, True]
    assert moved[1].tolist() == [20, 10, 40, 30]  # its right half is covered
    assert moved[2].tolist() == [0, 0, 128, 50]  # a hole in its middle
    assert moved[3].tolist() == boxes[3].tolist()  # of the part on top


def test_no_boxes_at_all() -> None:
    table = Painted()
    table.boxes = [np.zeros((0, 4), np.float32)] * N
    for name in RECIPES:
        layout = lay_out(recipe(name), np.arange(8), table, OUT)
        assert layout.boxes.shape == (0, 4) and layout.offsets.tolist() == [0] * 9
        assert on_cpu(layout, table, OUT).shape == (8, *OUT, 3)
    for name in MIXERS:
        layout = lay_out([always(name)], np.arange(8), table, OUT)
        assert on_cpu(layout, table, OUT).shape == (8, *OUT, 3)
        assert layout.offsets.tolist() == [0] * 9
