"""What TensorBoard is sent, and that looking changes nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from dataforge import Loader
from dataforge.images.draw import GAP, colour
from tests.trainers.suite import make_batch
from trainers.dense import Dense, match
from trainers.models import assign
from trainers.results import dense_pictures, monitor

NAMES = ("cat", "dog", "traffic light")


class Shelf:
    """A board that keeps what it gets."""

    def __init__(self) -> None:
        self.scalars: dict[str, float] = {}
        self.images: dict[str, np.ndarray] = {}

    def add_scalar(self, name: str, value: float, step: int) -> None:
        self.scalars[name] = value

    def add_image(self, name: str, pixels: np.ndarray, step: int) -> None:
        self.images[name] = pixels

    def close(self) -> None: ...


@pytest.mark.parametrize("taken", [0, 1, 4])
def test_looking_at_a_loaders_images_leaves_it_where_it_is(tiny_shards: Path, taken: int) -> None:
    def loader(epoch: int) -> Loader:
        found = Loader(tiny_shards, "train", batch_size=3, size=(32, 64), augment="flip", seed=3)
        found.set_epoch(epoch)
        return found

    expected, first = ([batch.index.tolist() for batch in loader(epoch)] for epoch in (2, 0))
    ours = loader(2)
    ours.load_state_dict(ours.state_dict() | {"step": taken})  # 4 is behind the last
    watched = monitor.watched(ours)
    assert watched.index.tolist() == first[0] and len(watched.images) == len(watched)
    assert [batch.index.tolist() for batch in ours] == expected[taken:]


def test_pictures_come_early_and_last() -> None:
    assert [epoch for epoch in range(1, 41) if monitor.due(epoch, 40)] == [1, 2, 4, 8, 16, 32, 40]


def test_gradient_norms_are_those_of_each_part_as_one_vector() -> None:
    model = nn.ModuleDict(
        {"a": nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2)), "still": nn.Linear(2, 2), "none": nn.ReLU()}
    )
    (model["a"](torch.rand(5, 3)) ** 2).sum().backward()
    expected = float(torch.cat([weight.grad.flatten() for weight in model["a"].parameters()]).norm())
    assert monitor.gradient_norms(model) == {"a": pytest.approx(expected)}
    board = Shelf()
    monitor.gradients(board, monitor.gradient_norms(model), 1, scale=4.0)
    assert board.scalars == {"gradient/a": pytest.approx(expected / 4)}
    assert monitor.gradient_norms(nn.ModuleDict({"still": nn.Linear(2, 2)})) == {}


@pytest.mark.parametrize("config", [{"sizes": [[12, 24, 48, 96]]}, {"sizes": [[16, 20], [32, 40]], "channels": 3}])
@pytest.mark.parametrize("objects", [[[(3, 5, 30, 29, 0), (40, 33, 95, 64, 2)], []], [[], []]])
def test_pictures_change_nothing(config: dict[str, Any], objects: list[list[tuple]]) -> None:
    model = Dense(3, width=8, **config)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    board = Shelf()
    monitor.write(board, model, make_batch(torch.rand(2, 3, 64, 96), objects), NAMES, 7)
    expected = {"ground_truth", "found_before_NMS", "found", "filters", "positive_anchors", "heat_maps", "feature_maps"}
    assert board.images.keys() == expected
    assert all(pixels.dtype == np.uint8 and pixels.shape[2] == 3 for pixels in board.images.values())
    assert model.training
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_before_nms_there_are_the_boxes_that_it_drops() -> None:
    model = Dense(3, sizes=[[24]], width=8)
    nn.init.constant_(model.classify.last.bias, 5.0)  # every anchor shows every class
    raw = model(torch.rand(1, 3, 32, 64))
    all_boxes, kept = (int((model.decode(raw, conf=0.25, iou=iou).labels >= 0).sum()) for iou in (1.0, 0.5))
    assert all_boxes == 300 > kept > 0


def test_positive_anchors_are_drawn_where_they_are() -> None:
    model = Dense(3, sizes=[[32]], width=8).eval()
    batch = make_batch(torch.zeros(2, 3, 64, 96), [[(32, 16, 64, 48, 1)], []])
    fixed = model(batch.images).anchors
    owner = match(fixed, batch)
    assert (owner[0] == 0).sum() >= 1 and (owner[1] == assign.NEGATIVE).all()
    sheet = dense_pictures.positives(batch, fixed, owner)
    first, second = sheet[GAP : GAP + 3 * 64, GAP : GAP + 3 * 96], sheet[GAP : GAP + 3 * 64, 2 * GAP + 3 * 96 : -GAP]
    rows, columns = np.nonzero((first == colour(1)).all(-1))
    drawn = fixed[owner[0] >= 0].numpy() * 3
    assert [columns.min(), rows.min()] == pytest.approx(np.maximum(drawn[:, :2].min(0), 0), abs=1)
    assert [columns.max() + 1, rows.max() + 1] == pytest.approx(np.minimum(drawn[:, 2:].max(0), (288, 192)), abs=1)
    assert (second == 0).all()


def test_heat_is_where_the_logits_are() -> None:
    levels = [(4, 8), (2, 4)]
    logits = torch.full((2, (32 + 8) * 2, 3), -20.0)  # two anchors a cell
    logits[0, (1 * 8 + 6) * 2 + 1, 2] = 20.0  # image 0, first level, row 1, column 6, class 2
    logits[1, (32 + 1 * 4 + 0) * 2, 1] = 20.0  # image 1, second level, row 1, column 0, class 1
    batch = make_batch(torch.zeros(2, 3, 32, 64), [[(0, 0, 9, 9, 1)], [(0, 0, 9, 9, 2)]])
    sheet = dense_pictures.heat(batch, logits, levels, NAMES)  # two rows; picture, class 1, class 2
    light = sheet.astype(int).sum(-1)
    scale = 3
    high, wide = 32 * scale + GAP, 64 * scale + GAP

    def tile(row: int, column: int) -> np.ndarray:
        y, x = row * (high + GAP) + GAP, column * wide + GAP
        return light[y + 20 : y + high - GAP - 2, x + 2 : x + wide - GAP - 2]  # without its frame and its name

    hot = tile(0, 2) > 600
    rows, columns = np.nonzero(hot)
    assert 6 * 8 * scale - 8 <= columns.min() and columns.max() <= 7 * 8 * scale + 8 and len(rows)
    hot = tile(1, 1) > 600
    rows, columns = np.nonzero(hot)
    assert columns.max() <= 16 * scale + 8 and rows.min() >= 16 * scale - 20 - 8 and len(rows)
    assert tile(0, 1).max() < 300 and tile(1, 2).max() < 300


def test_a_tile_goes_from_black_to_white() -> None:
    values = torch.stack([torch.arange(25.0).view(1, 5, 5) - 7, torch.zeros(1, 5, 5)])
    sheet = monitor.tiles(values)
    tile = (sheet.shape[1] - GAP) // 2 - GAP
    first, flat = sheet[GAP : GAP + tile, GAP : GAP + tile], sheet[GAP : GAP + tile, 2 * GAP + tile : -GAP]
    assert first.min() == 0 and first.max() == 255 and (flat == 0).all()
