from __future__ import annotations

import csv
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.figure import Figure

from dataforge.images import draw
from dataforge.loading.loader import Loader
from dataforge.shards.reader import Shards
from tests.trainers.fake import pixels_of
from trainers.results import evaluation_charts, plots
from trainers.results.metrics import confusion, curves, voc
from trainers.results.truth import Predictions, truth_of_shards

NAMES = ("cat", "$dog", "_traffic light", "血")


def grey(height: int, width: int) -> np.ndarray:
    return np.full((height, width, 3), 100, np.uint8)


def test_outline_lies_on_the_boxs_edge_pixels() -> None:
    drawn = draw.draw(grey(100, 120), np.array([[30, 40, 90, 80]], np.float32), np.array([0]), NAMES)
    shade = np.array(draw.colour(0))
    is_line = (drawn == shade).all(-1)
    for y, x in ((40, 60), (79, 60), (60, 30), (60, 89)):
        assert is_line[y, x]
    for y, x in ((80, 60), (60, 29), (60, 90), (60, 60)):
        assert not is_line[y, x]
    assert (drawn[41:79, 31:89] == 100).all()  # nothing covers the object


@given(st.integers(1, 300), st.integers(1, 300), st.lists(st.floats(-50, 350, width=32), min_size=4, max_size=4))
@settings(max_examples=60, deadline=None)
def test_any_box_can_be_drawn(height: int, width: int, box: list[float]) -> None:
    pixels = grey(height, width)
    low, high = np.minimum(box[:2], box[2:]), np.maximum(box[:2], box[2:])
    drawn = draw.draw(pixels, np.concatenate([low, high])[None], np.array([2]), NAMES, np.array([0.5]))
    assert drawn.shape == pixels.shape and drawn.dtype == np.uint8
    assert (pixels == 100).all(), "the source was drawn on"
    if low[0] < width - 1 and low[1] < height - 1 and (high >= 1).all():
        assert (drawn != 100).any()


@pytest.mark.parametrize(("height", "width"), [(120, 160), (480, 640), (3000, 4000)])
def test_a_name_at_the_edge_stays_inside(height: int, width: int) -> None:
    """A label in the corner is moved in, and is as wide as in the middle."""
    side = min(height, width) // 4
    x, y = width // 3, height // 2
    widths = []
    for box in ([x, y, x + side, y + side], [width - side // 4, 0, width, side]):
        drawn = draw.draw(grey(height, width), np.array([box], float), np.array([0]), NAMES, np.array([0.25]))
        ys, xs = np.nonzero((drawn == np.array(draw.colour(0))).all(-1))
        widths.append(int(np.ptp(xs[ys == ys.min()])) + 1)
    assert ys.min() == 0 and xs.max() == width - 1
    assert widths[0] == widths[1] > side // 4


def test_padding_is_not_drawn_and_nothing_is_fine() -> None:
    pixels = grey(40, 50)
    boxes = np.array([[5, 5, 20, 20], [0, 0, 0, 0]], np.float32)
    assert (draw.draw(pixels, boxes, np.array([-1, -1]), NAMES) == 100).all()
    assert (draw.draw(pixels, np.zeros((0, 4)), np.zeros(0, int), NAMES) == 100).all()


def test_the_best_score_is_on_top() -> None:
    boxes = np.array([[20, 20, 60, 60], [20, 20, 60, 60]], np.float32)
    for scores, top in (([0.9, 0.1], 0), ([0.1, 0.9], 1)):
        drawn = draw.draw(grey(80, 80), boxes, np.array([0, 1]), NAMES, np.array(scores))
        assert tuple(drawn[59, 40]) == draw.colour(top)


def test_colours_differ() -> None:
    shades = np.array([draw.colour(i) for i in range(24)], int)
    apart = np.abs(shades[:, None] - shades[None]).sum(-1)[~np.eye(24, dtype=bool)]
    assert apart.min() > 20


def test_mosaic_of_loader_batches(tiny_shards: Path, tmp_path: Path) -> None:
    for augment in (None, "flip"):
        batch = next(iter(Loader(tiny_shards, "train", batch_size=10, size=(96, 128), augment=augment)))
        plots.mosaic(tmp_path / "sheet.jpg", batch.images, batch.boxes, batch.labels, NAMES)
        sheet = pixels_of(tmp_path / "sheet.jpg")
        assert sheet.shape == (3 * (288 + 4) + 4, 4 * (384 + 4) + 4, 3)
        assert sheet[: 288 + 4, : 384 + 4].std() > 10
    scores = torch.rand(batch.labels.shape)
    plots.mosaic(tmp_path / "one.jpg", batch.images[:1], batch.boxes[:1], batch.labels[:1], NAMES, scores[:1])
    assert pixels_of(tmp_path / "one.jpg").shape == (296, 392, 3)


def test_mosaic_of_large_images_is_shrunk(tmp_path: Path) -> None:
    images = torch.zeros(20, 3, 800, 300)
    none = torch.full((20, 8), -1)
    plots.mosaic(tmp_path / "sheet.jpg", images, torch.zeros(20, 8, 4), none, NAMES)
    height, width, _ = pixels_of(tmp_path / "sheet.jpg").shape
    assert height <= 1920 + 5 * 4 + 4 and width < height


def test_figures_of_a_set(tiny_shards: Path, tmp_path: Path) -> None:
    """With warnings as errors: names with $, a leading _ and letters the font lacks do no harm."""
    shards = Shards(tiny_shards, "val")
    truth = truth_of_shards(shards)
    truth = type(truth)(**{**vars(truth), "classes": NAMES, "class_ids": (1, 2, 3, 4)})
    found = Predictions(truth.image, truth.boxes, np.linspace(0, 1, len(truth.boxes)), truth.labels)
    none = Predictions(truth.image[:0], truth.boxes[:0], np.zeros(0), truth.labels[:0])
    for predictions in (found, none):
        plots.curves(tmp_path, curves(truth, predictions), NAMES)
        plots.on_images(tmp_path / "val.jpg", shards, range(len(shards)), predictions, NAMES)
        plots.on_images(tmp_path / "true.jpg", shards, range(len(shards)), truth, NAMES)
        plots.confusion_matrix(tmp_path / "confusion_matrix.png", confusion(truth, predictions), NAMES)
        plots.labels(tmp_path / "labels.jpg", shards.table, NAMES)
        for file in tmp_path.iterdir():
            with PIL.Image.open(file) as image:
                assert min(image.size) > 300
            assert pixels_of(file).std() > 5
            file.unlink()


def test_the_number_of_a_precision_recall_chart_is_that_of_its_protocol(tiny_shards: Path) -> None:
    truth = truth_of_shards(Shards(tiny_shards, "val"))
    boxes = np.concatenate([truth.boxes + 30, truth.boxes])  # half of them are wrong, and score as the others
    scores = np.tile(np.linspace(0, 1, len(truth.boxes)), 2)
    found = Predictions(np.tile(truth.image, 2), boxes, scores, np.tile(truth.labels, 2))
    axis = Figure().subplots()
    evaluation_charts.precision_recall(axis, curves(truth, found), truth.classes)
    legend = axis.get_legend()
    assert legend is not None
    mean = voc(truth, found, "voc12")["mAP"]
    assert 0 < mean < 1 and legend.get_texts()[-1].get_text() == f"all classes {mean:.3f} mAP50 (voc12)"


def test_figures_of_nothing_and_of_many_classes(tmp_path: Path) -> None:
    many = [f"class number {i}" for i in range(80)]
    plots.confusion_matrix(tmp_path / "c.png", np.eye(81, dtype=np.int64), many)
    plots.confusion_matrix(tmp_path / "c.png", np.zeros((2, 2), np.int64), ["a"])
    with PIL.Image.open(tmp_path / "c.png") as image:
        assert min(image.size) > 300


def test_results(tmp_path: Path) -> None:
    table = tmp_path / "results.csv"
    for rows in ([], [[1, 0.5, "", 3]], [[e, 1 / e, "" if e % 2 else 1 - 1 / e, "nan"] for e in range(1, 40)]):
        with open(table, "w", newline="") as file:
            csv.writer(file).writerows([["epoch", "loss", "mAP50-95", "data-wait %"], *rows])
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            plots.results(table, tmp_path / "results.png")
        assert pixels_of(tmp_path / "results.png").size > 0
    assert pixels_of(tmp_path / "results.png").std() > 5


def test_all_curves_of_a_run_have_one_range_of_epochs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    figures: list[Any] = []
    monkeypatch.setattr(plots, "_save", lambda figure, file: figures.append(figure))
    (tmp_path / "results.csv").write_text("epoch,loss,mAP50-95\n1,3,\n2,2,\n3,1,0.5\n")
    plots.results(tmp_path / "results.csv", tmp_path / "results.png")
    loss, score = figures[0].axes[:2]
    assert loss.get_xlim() == score.get_xlim() == (0.5, 3.5)
    assert all(tick == round(tick) for tick in score.get_xticks()), "epochs are whole"
    assert loss.get_ylim()[1] >= 3.12, "the highest point is not on the frame"
