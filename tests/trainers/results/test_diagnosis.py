"""Kinds of errors against a plain loop and by hand, intervals, and comparisons."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from dataforge.analysis.detections import pair_iou
from dataforge.record import CROWD
from tests.trainers.results.test_protocol import mixed
from trainers.results.diagnosis import KINDS, errors, recall_by_group, worst_images
from trainers.results.protocol import PROTOCOLS, average_precision, judge
from trainers.results.significance import compare, resampled
from trainers.results.truth import Predictions, Truth

HALF = PROTOCOLS["coco50"]


def scene(
    boxes: list[list[float]], labels: list[int], detections: list[tuple[list[float], float, int]]
) -> tuple[Truth, Predictions]:
    """One image of two classes."""
    corners = np.array(boxes, float).reshape(-1, 4)
    truth = Truth(
        np.array([4]),
        np.zeros(len(labels), np.int64),
        corners,
        np.array(labels, np.int64),
        np.zeros(len(labels), np.uint8),
        (corners[:, 2:] - corners[:, :2]).prod(1),
        ("a", "b"),
        (1, 2),
    )
    found, scores, names = zip(*detections, strict=True)
    return truth, Predictions(np.zeros(len(found), np.int64), np.array(found, float), np.array(scores), np.array(names))


A, B, FAR = [0.0, 0, 100, 100], [200.0, 0, 300, 100], [400.0, 400, 500, 500]


@pytest.mark.parametrize(
    ("detection", "kind"),
    [
        ((A, 0.8, 1), "class"),
        (([0.0, 0, 40, 100], 0.8, 0), "place"),
        (([0.0, 0, 40, 100], 0.8, 1), "both"),
        ((FAR, 0.8, 0), "background"),
        (([0.0, 0, 100, 9], 0.8, 0), "background"),  # an IoU of 0.09
    ],
)
def test_one_error_of_each_kind(detection: tuple[list[float], float, int], kind: str) -> None:
    result = errors(judge(*scene([A, B], [0, 1], [detection, (B, 0.9, 1)]), HALF))
    missed = kind in ("both", "background")  # the others could be corrected to the box
    assert result.counts == {name: int(name == kind or (name == "missed" and missed)) for name in KINDS}
    assert result.ap == pytest.approx(0.5)
    assert result.gains["class" if kind == "class" else "place"] == pytest.approx(0 if missed else 0.5)


def test_a_double_costs_precision_only() -> None:
    result = errors(judge(*scene([A, FAR], [0, 0], [(A, 0.9, 0), (A, 0.8, 0), (FAR, 0.7, 0)]), HALF))
    assert result.counts == dict.fromkeys(KINDS, 0) | {"double": 1}
    assert result.gains["double"] == pytest.approx(1 - result.ap) and result.ap < 1


def plain(truth: Truth, predictions: Predictions) -> dict[str, int]:
    """The definitions, one detection at a time (Bolya et al., section 3.2)."""
    judged = judge(truth, predictions, HALF)
    counts = dict.fromkeys(KINDS, 0)
    found = set(judged.box[0][judged.hit[0]].tolist())
    usable = set()
    for k in range(len(judged.predictions.scores)):
        if judged.hit[0, k] or not judged.counts[0, k]:
            continue
        near = {True: (0.0, -1), False: (0.0, -1)}
        for j in np.flatnonzero((truth.image == judged.predictions.image[k]) & judged.countable):
            iou = pair_iou(judged.predictions.boxes[k : k + 1], truth.boxes[j : j + 1])[0]
            own = bool(truth.labels[j] == judged.predictions.labels[k])
            near[own] = max(near[own], (iou, int(j)), key=lambda pair: pair[0])
        if 0.1 <= near[True][0] < 0.5:
            counts["place"] += 1
            usable.add(near[True][1])
        elif near[False][0] >= 0.5:
            counts["class"] += 1
            usable.add(near[False][1])
        elif near[True][0] >= 0.5:
            counts["double"] += 1
        elif max(near[True][0], near[False][0]) < 0.1:
            counts["background"] += 1
        else:
            counts["both"] += 1
    counts["missed"] = sum(1 for j in np.flatnonzero(judged.countable).tolist() if j not in found | usable)
    return counts


@pytest.mark.parametrize("seed", range(40))
def test_kinds_against_a_plain_loop(seed: int) -> None:
    truth, predictions = mixed(seed)
    result = errors(judge(truth, predictions, HALF))
    assert result.counts == plain(truth, predictions)
    assert all(np.isnan(result.ap) or gain >= -1e-9 for gain in result.gains.values())


def test_an_ignored_box_is_no_error() -> None:
    truth, predictions = scene([A, B], [0, 1], [(A, 0.8, 0), (B, 0.9, 1)])
    crowd = replace(truth, flags=np.array([CROWD, 0], np.uint8))
    assert errors(judge(crowd, predictions, HALF)).counts == dict.fromkeys(KINDS, 0)


def test_groups_and_worst_images_count_every_box() -> None:
    truth, predictions = mixed(5)
    judged = judge(truth, predictions, HALF)
    for ranges in recall_by_group(judged).values():
        assert sum(boxes for _, boxes in ranges.values()) == judged.countable.sum()
        assert sum(found for found, _ in ranges.values()) == judged.hit[0].sum()
    total = sum(false + missed for _, false, missed in worst_images(judged, 0.0))
    assert total == (judged.counts[0] & ~judged.hit[0]).sum() + judged.countable.sum() - judged.hit[0].sum()


def test_a_resample_is_the_average_precision_of_its_images() -> None:
    truth, predictions = mixed(3)
    # with equal scores the order of a copied image's detections would matter
    scores = np.random.default_rng(0).permutation(len(predictions.scores)) / len(predictions.scores)
    predictions = replace(predictions, scores=scores)
    value, samples = resampled(truth, predictions, HALF, resamples=20, seed=4)
    assert value == pytest.approx(average_precision(truth, predictions, HALF))
    generator = np.random.default_rng(4)
    for sample in samples:
        drawn = generator.integers(0, len(truth.image_ids), len(truth.image_ids))
        parts = [np.flatnonzero(truth.image == i) for i in drawn]
        own = [np.flatnonzero(predictions.image == i) for i in drawn]
        rows, columns = np.concatenate(parts), np.concatenate(own)
        copy = Truth(
            np.arange(len(drawn)),
            np.repeat(np.arange(len(drawn)), [len(part) for part in parts]),
            truth.boxes[rows],
            truth.labels[rows],
            truth.flags[rows],
            truth.areas[rows],
            truth.classes,
            truth.class_ids,
        )
        image = np.repeat(np.arange(len(drawn)), [len(part) for part in own])
        found = Predictions(image, predictions.boxes[columns], predictions.scores[columns], predictions.labels[columns])
        assert sample == pytest.approx(average_precision(copy, found, HALF), nan_ok=True)


def test_a_comparison_sees_a_difference_and_not_noise() -> None:
    generator = np.random.default_rng(1)
    images = np.arange(200)
    box = np.tile(np.array([[0, 0, 10, 10]], float), (200, 1))
    none = np.zeros(200, np.int64)
    truth = Truth(images, images, box, none, none.astype(np.uint8), none + 100.0, ("a",), (1,))

    def detector(rate: float) -> Predictions:
        return Predictions(
            images, np.where(generator.random((200, 1)) < rate, box, box + 50), generator.random(200), none
        )

    better = compare(truth, detector(0.6), detector(0.9), HALF, resamples=200)
    assert better.p < 0.05 and better.difference.low > 0
    equal = detector(0.7)
    same = compare(truth, equal, equal, HALF, resamples=200)
    assert same.p == 1 and same.difference.value == same.difference.low == same.difference.high == 0
