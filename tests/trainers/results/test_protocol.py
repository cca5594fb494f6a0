"""Any protocol's average precision against the published implementations, and the tables that explain differences."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dataforge.record import CROWD, DIFFICULT
from tests.trainers.results.test_metrics import load, oracle, random_set
from trainers.results.explain import RULES, between_predictions, between_protocols, single_rules
from trainers.results.metrics import voc
from trainers.results.protocol import PROTOCOLS, Protocol, average_precision
from trainers.results.truth import Predictions, Truth


def mixed(seed: int, images: int = 6, classes: int = 3) -> tuple[Truth, Predictions]:
    """Boxes with every flag, near misses, wrong classes, doubles, detections in empty images, ties."""
    rng = np.random.default_rng(seed)
    n = int(rng.integers(0, 40))
    corner = rng.uniform(0, 200, (n, 2))
    boxes = np.concatenate([corner, corner + rng.uniform(5, 90, (n, 2))], 1)
    image, labels = rng.integers(0, images - 1, n), rng.integers(0, classes, n)
    flags = rng.choice(np.array([0, 0, 0, CROWD, DIFFICULT], np.uint8), n)
    source = rng.integers(0, max(n, 1), 2 * n)
    shift = rng.choice([0.0, 0.02, 0.15, 0.5], len(source))[:, None] * np.tile(boxes[:, 2:] - boxes[:, :2], 2)[source]
    near = boxes[source] + rng.normal(0, 1, (len(source), 4)) * shift
    near[:, 2:] = np.maximum(near[:, 2:], near[:, :2] + 1)
    found_labels = np.where(rng.random(len(source)) < 0.8, labels[source], rng.integers(0, classes, len(source)))
    found_image = np.where(rng.random(len(source)) < 0.9, image[source], images - 1)
    scores = rng.random(len(source)).round(int(rng.choice([1, 6])))
    truth = Truth(
        np.arange(images),
        image,
        boxes,
        labels,
        flags,
        (boxes[:, 2:] - boxes[:, :2]).prod(1),
        tuple(f"class {c}" for c in range(classes)),
        tuple(range(classes)),
    )
    return truth, Predictions(found_image, near, scores, found_labels)


@pytest.mark.parametrize("seed", range(12))
def test_the_coco_protocols_agree_with_pycocotools(seed: int, tmp_path: Path) -> None:
    instances, found = random_set(seed)
    truth, predictions = load(tmp_path, instances, found)
    expected = oracle(instances, found)
    assert average_precision(truth, predictions, PROTOCOLS["coco"]) == pytest.approx(expected["AP"], abs=1e-9)
    assert average_precision(truth, predictions, PROTOCOLS["coco50"]) == pytest.approx(expected["AP50"], abs=1e-9)
    assert expected["AP50"] > 0


@pytest.mark.parametrize("seed", range(30))
@pytest.mark.parametrize("name", ["voc07", "voc12"])
def test_the_voc_protocols_agree_with_the_metric(name: str, seed: int) -> None:
    truth, predictions = mixed(seed)
    expected = voc(truth, predictions, name)["mAP"]
    assert average_precision(truth, predictions, PROTOCOLS[name]) == pytest.approx(expected, abs=1e-12, nan_ok=True)


def ultralytics(truth: Truth, predictions: Predictions) -> float:
    """mAP50 by a plain loop over the steps of Ultralytics' validation (8.3), one image and class at a time."""
    averages = []
    for label in np.unique(truth.labels):
        rows = []
        for image in range(len(truth.image_ids)):
            boxes = truth.boxes[(truth.image == image) & (truth.labels == label)]
            own = np.flatnonzero((predictions.image == image) & (predictions.labels == label))
            own = own[np.argsort(-predictions.scores[own], kind="stable")]
            taken: set[int] = set()
            for k in own:
                sides = np.minimum(boxes[:, 2:], predictions.boxes[k, 2:]) - np.maximum(
                    boxes[:, :2], predictions.boxes[k, :2]
                )
                inner = sides.clip(0).prod(1)
                area = (predictions.boxes[k, 2:] - predictions.boxes[k, :2]).prod()
                iou = inner / (area + (boxes[:, 2:] - boxes[:, :2]).prod(1) - inner)
                best = int(iou.argmax()) if len(iou) else -1
                right = best >= 0 and iou[best] >= 0.5 and best not in taken
                if right:
                    taken.add(best)
                if predictions.scores[k] >= 0.001:
                    rows.append((predictions.scores[k], k, right))
        rows.sort(key=lambda row: (-row[0], row[1]))
        hits = np.cumsum([right for _, _, right in rows])
        recall = [0.0, *(hits / (truth.labels == label).sum()), 1.0]
        precision = np.array([1.0, *(hits / np.arange(1, len(hits) + 1)), 0.0])
        ceiling = np.maximum.accumulate(precision[::-1])[::-1]
        at = np.linspace(0, 1, 101)
        averages.append(np.trapezoid(np.interp(at, recall, ceiling), at))
    return float(np.mean(averages)) if averages else float("nan")


@pytest.mark.parametrize("seed", range(30))
def test_the_ultralytics_protocol_agrees_with_a_plain_loop(seed: int) -> None:
    truth, predictions = mixed(seed)
    value = average_precision(truth, predictions, PROTOCOLS["ultralytics50"])
    assert value == pytest.approx(ultralytics(truth, predictions), abs=1e-12, nan_ok=True)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from(list(PROTOCOLS)), st.sampled_from(list(PROTOCOLS)))
def test_the_costs_sum_to_the_difference(seed: int, start: str, end: str) -> None:
    truth, predictions = mixed(seed)
    first, steps, last = between_protocols(truth, predictions, PROTOCOLS[start], PROTOCOLS[end])
    assert first == pytest.approx(average_precision(truth, predictions, PROTOCOLS[start]), nan_ok=True)
    assert last == pytest.approx(average_precision(truth, predictions, PROTOCOLS[end]), nan_ok=True)
    if not np.isnan(first):
        assert sum(step.cost for step in steps) == pytest.approx(last - first, abs=1e-12)
    assert all(step.before != step.after for step in steps)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from(list(PROTOCOLS)))
def test_the_costs_of_two_sets_of_detections_sum_to_the_difference(seed: int, name: str) -> None:
    truth, first = mixed(seed)
    if not len(truth.boxes):
        return
    second = first.where((first.scores >= 0.3) & (first.labels != 0))
    start, steps, end = between_predictions(truth, first, second, PROTOCOLS[name])
    assert sum(step.cost for step in steps) == pytest.approx(end - start, abs=1e-12, nan_ok=True)
    # `second` holds a part of `first`: with that part alone nothing is left to explain
    assert np.isnan(start) or steps[-1].cost == pytest.approx(0, abs=1e-12)


def test_each_rule_alone_changes_what_it_should() -> None:
    """One image with a crowd, a difficult box, a double, equal scores: hand counts."""
    truth = Truth(
        np.arange(2),
        np.array([0, 0, 0]),
        np.array([[0, 0, 10, 10], [20, 0, 30, 10], [40, 0, 80, 40]], float),
        np.zeros(3, np.int64),
        np.array([0, DIFFICULT, CROWD], np.uint8),
        np.array([100.0, 100, 1600]),
        ("a", "b"),
        (1, 2),
    )
    boxes = np.array([[0, 0, 10, 10], [0, 0, 10, 10], [20, 0, 30, 10], [45, 0, 55, 10], [0, 0, 5, 5]], float)
    predictions = Predictions(
        np.array([0, 0, 0, 0, 1]), boxes, np.array([0.9, 0.9, 0.8, 0.7, 0.2]), np.zeros(5, np.int64)
    )
    half = Protocol(ious=(0.5,), points="all")

    def value(**rules: object) -> float:
        return average_precision(truth, predictions, replace(half, **rules))  # type: ignore[arg-type]

    assert value() == pytest.approx(1 / 2 + 2 / 3 / 2)  # a hit, its double, the difficult box: two boxes to find
    assert value(duplicates="drop") == pytest.approx(1)
    assert value(difficult="ignore") == pytest.approx(1)  # one box to find, found first
    assert value(crowd="count") == pytest.approx((1 + 2 / 3) / 3)  # a third box, which nothing covers by half
    assert value(classes="all") == pytest.approx((1 / 2 + 2 / 3 / 2) / 2)
    assert value(conf=0.85) == pytest.approx(1 / 2)
    assert value(limit=1) == pytest.approx(1 / 2)
    rules = {step.rule for step in single_rules(truth, predictions, half)}
    assert rules == {*RULES.values()} - {"classes in an image"}  # all were looked for in each
