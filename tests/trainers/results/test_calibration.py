"""Temperatures that were applied are found again; thresholds are those of a search over all scores."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dataforge.errors import ConfigError
from tests.trainers.results.test_protocol import mixed
from trainers.results.calibration import (
    calibrate,
    calibration,
    calibration_text,
    differences,
    probability,
    stored,
    thresholds,
)
from trainers.results.metrics import judge as judge_voc
from trainers.results.protocol import PROTOCOLS, judge
from trainers.results.tiling import Tiling
from trainers.results.truth import Predictions, Truth

HALF = PROTOCOLS["coco50"]


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_the_temperature_of_scores_is_found(temperature: float) -> None:
    """Right with probability p where the score says sigmoid(temperature * logit(p))."""
    generator = np.random.default_rng(0)
    chance = generator.uniform(0.05, 0.95, 20_000)
    logit = np.log(chance / (1 - chance))
    images = np.arange(len(chance))
    right = generator.random(len(chance)) < chance
    box = np.array([[0, 0, 10, 10]], float)
    boxes = np.where(right[:, None], box, box + 50)
    none = np.zeros(len(chance), np.int64)
    truth = Truth(images, images, box.repeat(len(chance), 0), none, none.astype(np.uint8), none + 100.0, ("a",), (1,))
    scores = 1 / (1 + np.exp(-temperature * logit))
    result = calibration(judge(truth, Predictions(images, boxes, scores, none), HALF))
    assert result.temperature == pytest.approx(temperature, rel=0.05)
    assert result.error_after < 0.02 and (result.error > 0.09) == (temperature != 1)
    assert result.count.sum() == len(chance)
    np.testing.assert_allclose(np.nansum(result.precision * result.count), right.sum())
    np.testing.assert_allclose(probability(scores, temperature), chance)


def f1_at(truth: Truth, predictions: Predictions, conf: float) -> np.ndarray:
    """F1 of each class of the detections that score at least `conf`; NaN for a class without boxes."""
    kept = judge_voc(truth, predictions.where(predictions.scores >= conf))
    return np.array([2 * each.hit.sum() / (len(each.hit) + each.boxes) if each.boxes else np.nan for each in kept])


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000))
def test_thresholds_are_those_of_a_search(seed: int) -> None:
    truth, predictions = mixed(seed)
    every = np.array([f1_at(truth, predictions, conf) for conf in np.unique(predictions.scores)]).reshape(-1, 3)
    if not np.nansum(every):
        with pytest.raises(ConfigError, match="none of the detections is right"):
            thresholds(truth, predictions)
        return
    best = thresholds(truth, predictions)
    measured = ~np.isnan(every[0])
    assert best.f1 == pytest.approx(every[:, measured].mean(1).max())
    assert f1_at(truth, predictions, best.conf)[measured].mean() == pytest.approx(best.f1)
    for c, conf in enumerate(best.class_conf):
        assert measured[c] or (np.isnan(best.class_f1[c]) and conf == best.conf)
        if measured[c]:
            assert best.class_f1[c] == pytest.approx(every[:, c].max()) == f1_at(truth, predictions, conf)[c]
            precision, recall = best.class_precision[c], best.class_recall[c]
            assert best.class_f1[c] == pytest.approx(2 * precision * recall / max(precision + recall, 1e-9))
            for near in (conf - 1e-9, conf + 1e-9) if conf else ():  # between scores, where rounding changes nothing
                assert f1_at(truth, predictions, near)[c] == f1_at(truth, predictions, conf)[c]


def test_what_a_checkpoint_keeps_is_in_the_order_of_its_classes() -> None:
    facts = calibrate(*mixed(3))
    kept = stored(facts, ["class 2", "new", "class 0"], 0.5, None)
    assert kept["class_conf"] == [
        facts["classes"]["class 2"]["conf"],
        facts["conf"],
        facts["classes"]["class 0"]["conf"],
    ]
    assert kept["temperature"] == facts["temperature"] and kept["conf"] == facts["conf"]
    text = calibration_text(facts)
    assert [line.split()[0] for line in text.splitlines()[3:]] == ["class", "class", "class"] and "temperature" in text


def test_what_a_calibration_was_found_with_is_named_where_it_differs() -> None:
    tiles = Tiling(640, 0.25, "wbf", whole=True, batch=2)
    whole, tiled = (json.loads(json.dumps(stored(calibrate(*mixed(3)), [], 0.5, how))) for how in (None, tiles))
    assert differences(whole, 0.5, None) == differences(tiled, 0.5, replace(tiles, batch=8)) == ""
    assert differences(whole, 0.45, None) == "--iou 0.5" and differences(whole, 0.5, tiles) == "no --tile"
    told = "--iou 0.5, --tile 640 --overlap 0.25 --tile-merge wbf --tile-whole"
    assert differences(tiled, 0.45, replace(tiles, merge="nms")) == told
    assert differences({"conf": 0.5}, 0.45, tiles) == ""  # stored by an earlier version
