"""Boxes that are moved, clipped and dropped."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from dataforge.augment.move import corners_of, hull, move_boxes, project
from dataforge.augment.operations.geometry import fit_matrix, scaled

OUT = (96, 128)


def test_a_box_that_is_mostly_outside_is_dropped_and_one_at_the_edge_is_clipped() -> None:
    matrix = fit_matrix(96, 128, OUT)[None].copy()
    matrix[0, 0, 2] = -50.0
    boxes = np.array([[0, 10, 60, 20], [45, 10, 65, 20], [0, 0, 10, 10]], np.float32)
    moved, keep = move_boxes(boxes, np.zeros(3, int), matrix, OUT, 0.25)
    assert keep.tolist() == [False, True, False]
    assert moved[1].tolist() == [0, 10, 15, 20]
    assert moved[2].tolist() == [0, 0, 0, 0]


def test_the_centre_rule_and_the_smallest_size() -> None:
    matrix = scaled(1, 1, -50)[None]
    boxes = np.array([[0, 10, 98, 20], [0, 10, 102, 20], [60, 0, 61, 50]], np.float32)
    image = np.zeros(3, int)
    assert move_boxes(boxes, image, matrix, OUT, 0.0, centre=True)[1].tolist() == [False, True, True]
    assert move_boxes(boxes, image, matrix, OUT, 0.0, min_size=2.0)[1].tolist() == [True, True, False]
    assert move_boxes(boxes, image, matrix, OUT, 0.5)[1].tolist() == [False, True, True]


def test_a_turned_box_is_clipped_as_what_is_seen_of_it() -> None:
    """A square on its corner, cut through its middle: what is left is as high as the square, not as its hull."""
    c = np.sqrt(0.5)
    matrix = np.array([[[c, -c, 0.0], [c, c, 20.0], [0, 0, 1]]])
    box = np.array([[0, 0, 40, 40]], np.float32)
    moved, keep = move_boxes(box, np.zeros(1, int), matrix, OUT, 0.25)
    np.testing.assert_allclose(moved[0], [0, 20, 40 * c, 20 + 80 * c], atol=1e-4)
    assert keep[0]
    matrix[0, 0, 2] = -20 * c  # only the right quarter is left, and it is lower
    moved, keep = move_boxes(box, np.zeros(1, int), matrix, OUT, 0.3)
    np.testing.assert_allclose(moved[0], [0, 20 + 20 * c, 20 * c, 20 + 60 * c], atol=1e-4)
    assert not keep[0]


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**9))
def test_clipping_against_sampled_points(seed: int) -> None:
    """The hull of a dense grid of the box's points that land in the region is what `move_boxes` gives."""
    rng = np.random.default_rng(seed)
    matrix = np.eye(3) + rng.uniform(-1, 1, (3, 3)) * [[0.6, 0.6, 60], [0.6, 0.6, 60], [0.004, 0.004, 0]]
    low = rng.uniform(0, 80, 2)
    box = np.array([[*low, *(low + rng.uniform(1, 80, 2))]], np.float32)
    region = np.array([[10, 20, 100, 80]])
    moved, _ = move_boxes(box, np.zeros(1, int), matrix[None], OUT, 0.0, region=region)
    t = np.linspace(0, 1, 200)
    grid = np.stack(np.meshgrid(*(box[0, [k]] + t * (box[0, k + 2] - box[0, k]) for k in (0, 1))), -1)
    landed = project(grid.reshape(1, -1, 2).astype(float), matrix[None])[0]
    inside = landed[((landed >= region[0, :2]) & (landed <= region[0, 2:])).all(1)]
    if not len(inside):
        assert (moved[0, 2:] - moved[0, :2]).min() < 4
        return
    sampled = np.concatenate([inside.min(0), inside.max(0)])
    assert (moved[0, :2] <= sampled[:2] + 1e-3).all() and (moved[0, 2:] >= sampled[2:] - 1e-3).all()
    step = (
        np.abs(np.diff(landed.reshape(200, 200, 2), axis=0)).max()
        + np.abs(np.diff(landed.reshape(200, 200, 2), axis=1)).max()
    )
    if step < 1:
        np.testing.assert_allclose(moved[0], sampled, atol=3.0)


def test_behind_the_horizon_nothing_is_seen() -> None:
    matrix = np.array([[[1.0, 0, 0], [0, 1.0, 0], [-0.01, 0, 1]]])  # the horizon is at x = 100
    boxes = np.array([[120, 10, 150, 40], [20, 10, 30, 20], [20, 10, 150, 20]], np.float32)
    moved, keep = move_boxes(boxes, np.zeros(3, int), matrix, OUT, 0.25)
    assert np.isfinite(moved).all()
    assert keep.tolist() == [False, True, False]
    assert moved[0].tolist() == [0, 0, 0, 0]
    assert np.isinf(hull(project(corners_of(boxes), matrix.repeat(3, 0)))[0]).any()


def test_regions_are_each_image_s_own() -> None:
    box = np.tile(np.array([10, 10, 50, 50], np.float32), (2, 1))
    region = np.array([[0, 0, 30, 96], [40, 0, 128, 96]])
    moved, _ = move_boxes(box, np.arange(2), np.tile(np.eye(3), (2, 1, 1)), OUT, 0.0, region=region)
    assert moved.tolist() == [[10, 10, 30, 50], [40, 10, 50, 50]]
