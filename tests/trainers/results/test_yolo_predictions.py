"""YOLO's text files of detections against COCO's result format, and hostile ones."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from dataforge.errors import FormatError
from tests.trainers.results.test_protocol import mixed
from trainers.results.predicted_files import yolo_lines
from trainers.results.truth import Truth
from trainers.results.yolo_predictions import read_yolo_predictions


@pytest.fixture
def truth() -> Truth:
    known, _ = mixed(2, images=3)
    names = ("a/first.jpg", "b/second.png", "third.jpg")
    return replace(known, names=names, sizes=np.array([[100, 200], [300, 50], [64, 64]]))


def test_files_that_predict_wrote_are_read(truth: Truth, tmp_path: Path) -> None:
    boxes = np.array([[10, 20, 110, 60], [0, 0, 200, 100]], float)
    (tmp_path / "first.txt").write_text(yolo_lines(boxes, np.array([0.75, 0.5]), np.array([2, 0]), (100, 200)))
    (tmp_path / "third.txt").write_text("")
    predictions = read_yolo_predictions(tmp_path, truth)
    np.testing.assert_allclose(predictions.boxes, boxes, atol=1e-3)
    assert predictions.image.tolist() == [0, 0]
    assert predictions.scores.tolist() == [0.75, 0.5]
    assert predictions.labels.tolist() == [2, 0]


@pytest.mark.parametrize(
    ("name", "line", "words"),
    [
        ("fourth", "0 .5 .5 .1 .1 .9", "0 images of the truth are named 'fourth'"),
        ("first", "0 .5 .5 .1 .1", "line 1: '0 .5 .5 .1 .1'; expected class"),
        ("first", "3 .5 .5 .1 .1 .9", "class \\(0 to 2\\)"),
        ("first", "0.5 .5 .5 .1 .1 .9", "class \\(0 to 2\\)"),
        ("first", "0 .5 .5 -.1 .1 .9", "line 1"),
        ("first", "0 .5 nan .1 .1 .9", "line 1"),
        ("first", "cat .5 .5 .1 .1 .9", "line 1"),
    ],
)
def test_a_file_that_is_wrong_is_named(name: str, line: str, words: str, truth: Truth, tmp_path: Path) -> None:
    (tmp_path / f"{name}.txt").write_text(line)
    with pytest.raises(FormatError, match=words) as error:
        read_yolo_predictions(tmp_path, truth)
    assert f"{name}.txt" in str(error.value)


def test_what_cannot_be_assigned_is_refused(truth: Truth, tmp_path: Path) -> None:
    with pytest.raises(FormatError, match=r"no \.txt file"):
        read_yolo_predictions(tmp_path, truth)
    (tmp_path / "first.txt").write_text("0 .5 .5 .1 .1 .9")
    with pytest.raises(FormatError, match="2 images of the truth"):
        read_yolo_predictions(tmp_path, replace(truth, names=("first.jpg", "x/first.png", "third.jpg")))
    with pytest.raises(FormatError, match="does not state the size"):
        read_yolo_predictions(tmp_path, replace(truth, sizes=np.zeros((3, 2), np.int64)))
