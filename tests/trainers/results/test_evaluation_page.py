"""The page of an evaluation: complete, escaped, and for the sets that break charts."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from dataforge.shards.reader import Shards
from tests.trainers import fake
from tests.trainers.results.test_protocol import mixed
from trainers.results.evaluation_page import evaluation_page
from trainers.results.explain import explanation, explanation_text
from trainers.results.protocol import PROTOCOLS
from trainers.results.truth import Predictions, truth_of_shards


def test_the_page_contains_each_part_and_escapes_names() -> None:
    truth, predictions = mixed(4)
    truth = replace(truth, classes=("<script>alert(1)</script>", "b", "c"))
    page = evaluation_page("a & b", truth, predictions)
    assert "<title>a &amp; b</title>" in page and "<script>alert" not in page and "&lt;script&gt;" in page
    headings = ("Average precision", "Errors", "Classes", "Curves", "Confusion", "Recall by group", "Calibration")
    assert all(f"<h2>{heading}</h2>" in page for heading in headings)
    assert all(f"<td>{name}</td>" in page for name in PROTOCOLS if name != "lvis")
    assert (page.count("<svg"), page.count("<img")) == (6, 1)


def test_the_worst_images_are_drawn_from_shards(tmp_path: Path) -> None:
    shards = Shards(fake.shards(tmp_path / "shards"), "val")
    truth = truth_of_shards(shards)
    nothing = Predictions(np.zeros(0, np.int64), np.zeros((0, 4)), np.zeros(0), np.zeros(0, np.int64))
    page = evaluation_page("none found", truth, nothing, shards)
    with_boxes = len(np.unique(truth.image))
    assert page.count("missed</figcaption>") == min(20, with_boxes) > 0


@pytest.mark.parametrize("boxes", [0, 1])
def test_a_set_without_boxes_or_detections_has_a_page(boxes: int) -> None:
    truth, predictions = mixed(6)
    keep = slice(0, boxes)
    truth = replace(
        truth,
        image=truth.image[keep],
        boxes=truth.boxes[keep],
        labels=truth.labels[keep],
        flags=truth.flags[keep],
        areas=truth.areas[keep],
    )
    for found in (predictions, predictions.where(np.zeros(len(predictions.scores), bool))):
        page = evaluation_page("little", truth, found)
        assert "</html>" in page and "-1.0000" not in page and page.count('<td class="number">-</td>') >= 4
        assert "each rule of coco50 alone" in explanation_text(explanation(truth, found))
