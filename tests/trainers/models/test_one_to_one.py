"""One location for each box: against a reference that looks at every pair."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.ops import generalized_box_iou, sigmoid_focal_loss

from trainers.models import assign, one_to_one
from trainers.models.boxes import giou


def draw_boxes(count: int, places: int, draw: torch.Generator) -> torch.Tensor:
    corner, size = torch.rand(count, places, 2, generator=draw) * 60, torch.rand(count, places, 2, generator=draw) * 30
    return torch.cat([corner, corner + size], -1)


@given(st.integers(0, 2**31), st.integers(1, 3), st.integers(1, 12), st.integers(0, 6), st.integers(1, 4))
@settings(max_examples=40, deadline=None)
def test_the_cost_is_that_of_every_pair(seed: int, count: int, locations: int, places: int, classes: int) -> None:
    draw = torch.Generator().manual_seed(seed)
    logits = torch.randn(count, locations, classes, generator=draw) * 4
    predicted, boxes = draw_boxes(count, locations, draw), draw_boxes(count, places, draw)
    labels = torch.randint(-1, classes, (count, places), generator=draw)
    limit = torch.tensor([96.0, 64.0, 96.0, 64.0])
    cost = one_to_one.cost(logits, predicted, boxes, labels, limit)
    place = one_to_one.assign(logits, predicted, boxes, labels, limit)
    assert cost.shape == (count, places, locations) and place.shape == (count, places)
    for i in range(count):
        for m in range(places):
            expected = []
            for a in range(locations):
                logit = logits[i, a, max(int(labels[i, m]), 0)].clamp(max=one_to_one.SURE)
                gain = sigmoid_focal_loss(logit, torch.tensor(1.0)) - sigmoid_focal_loss(logit, torch.tensor(0.0))
                l1 = float(((predicted[i, a] - boxes[i, m]) / limit).abs().sum())
                overlap = float(generalized_box_iou(predicted[i, a : a + 1], boxes[i, m : m + 1]))
                expected.append(2 * float(gain) + 5 * l1 - 2 * overlap)
            assert cost[i, m].tolist() == pytest.approx(expected, rel=1e-3, abs=1e-3)
            assert expected[int(place[i, m])] == pytest.approx(min(expected), rel=1e-3, abs=1e-3)


def test_blocks_of_boxes_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    draw = torch.Generator().manual_seed(0)
    arguments = (
        torch.randn(2, 50, 3, generator=draw), draw_boxes(2, 50, draw), draw_boxes(2, 9, draw),
        torch.randint(0, 3, (2, 9), generator=draw), torch.tensor([96.0, 64.0, 96.0, 64.0]),
    )  # fmt: skip
    whole = one_to_one.assign(*arguments)
    monkeypatch.setitem(assign.BLOCK, "cpu", 1)
    assert torch.equal(one_to_one.assign(*arguments), whole)


def test_giou_is_torchvisions_and_finite_for_no_area() -> None:
    draw = torch.Generator().manual_seed(1)
    a, b = draw_boxes(1, 7, draw)[0], draw_boxes(1, 5, draw)[0]
    torch.testing.assert_close(giou(a.unsqueeze(1), b), generalized_box_iou(a, b))
    assert math.isfinite(float(giou(torch.zeros(4), torch.zeros(4))))


def test_a_location_learns_all_that_chose_it() -> None:
    place, labels = torch.tensor([[4, 4, 0, 2]]), torch.tensor([[1, 2, 0, -1]])
    shown = one_to_one.class_targets(place, labels, labels >= 0, 5, 3)
    assert shown.nonzero().tolist() == [[0, 0, 0], [0, 4, 1], [0, 4, 2]]


@pytest.mark.parametrize("sure", [2.0, 6.0, 12.0])
def test_a_sure_neighbour_is_not_cheaper_than_the_own_location(sure: float) -> None:
    """Of two touching objects only one's location is sure; the other box keeps the location that fits it."""
    boxes = torch.tensor([[[0.0, 0, 20, 20], [18, 0, 38, 20]]])
    place = one_to_one.assign(
        torch.tensor([[[sure], [-1.0]]]), boxes, boxes, torch.zeros(1, 2, dtype=torch.int64), torch.full((4,), 128.0)
    )
    assert place.tolist() == [[0, 1]]


def test_sharpened_logits_are_lowered_by_their_distance_to_the_neighbours_maximum() -> None:
    """Against a loop over pairs of cells; the maximum itself, and classes of their own, stay as they are."""
    shapes, strides = ((8, 16), (4, 8), (1, 2)), (8, 16, 64)
    cells = [(i, y, x) for i, (rows, columns) in enumerate(shapes) for y in range(rows) for x in range(columns)]
    logits = torch.randn(2, len(cells), 3, generator=torch.Generator().manual_seed(0))
    near = torch.zeros(len(cells), len(cells), dtype=torch.bool)
    for a, (i, y, x) in enumerate(cells):
        for b, (j, v, u) in enumerate(cells):
            if i >= j:  # of cell b's level, or a coarser one
                r = strides[i] // strides[j]
                near[a, b] = i - j < 2 and -1 <= v - y * r <= r and -1 <= u - x * r <= r
            else:
                r = strides[j] // strides[i]
                near[a, b] = j - i < 2 and abs(y // r - v) <= 1 and abs(x // r - u) <= 1
    far = torch.tensor([[i == j and max(abs(y - v), abs(x - u)) <= 2 for j, v, u in cells] for i, y, x in cells])
    beside, around = (torch.stack([logits[:, row].amax(1) for row in rows], 1) for rows in (near, far))
    lowered = one_to_one.BESIDE * (beside - logits) + one_to_one.AROUND * (around - logits)
    torch.testing.assert_close(one_to_one.sharpened(logits, shapes), logits - lowered)
    assert one_to_one.sharpened(logits, ()) is logits
