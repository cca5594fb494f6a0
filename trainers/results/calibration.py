"""Legend: K detections, C classes.

What a detector's scores mean: how far they are probabilities, and from which score on a detection is worth showing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dataforge.command import columns
from dataforge.errors import ConfigError
from trainers.results import metrics
from trainers.results.protocol import PROTOCOLS, Judged, judge
from trainers.results.tiling import Tiling, tiling_words
from trainers.results.truth import Floats, Ints, Predictions, Truth, finite_or_none


@dataclass(frozen=True, eq=False)
class Calibration:
    """How far scores are probabilities.

    Attributes:
        score: (10,) mean score of the detections in each tenth of 0..1, NaN where there is none; precision: (10,) the
            share of them that is right; count: (10,).
        error: the mean of |precision - score| over detections (D-ECE of Kueppers et al., CVPR workshops 2020, by the
            score alone).
        temperature: T for which sigmoid(logit(score) / T) fits best by likelihood; above 1 scores are too extreme.
        error_after: `error` of those scores.
    """

    score: Floats
    precision: Floats
    count: Ints
    error: float
    temperature: float
    error_after: float


def calibration(judged: Judged) -> Calibration:
    """Compare scores with the share of right detections at the first IoU threshold."""
    counts = judged.counts[0]
    scores, right = judged.predictions.scores[counts], judged.hit[0][counts]
    temperature = _temperature(scores, right)
    score, precision, count = _reliability(scores, right)
    return Calibration(
        score,
        precision,
        count,
        _calibration_error(score, precision, count),
        temperature,
        _calibration_error(*_reliability(probability(scores, temperature), right)),
    )


def _reliability(scores: Floats, right: NDArray[np.bool_]) -> tuple[Floats, Floats, Ints]:
    cell = np.minimum((scores * 10).astype(np.int64), 9)
    count = np.bincount(cell, minlength=10)
    sums = (np.bincount(cell, weights, minlength=10) for weights in (scores, right.astype(np.float64)))
    score, precision = (np.divide(s, count, out=np.full(10, np.nan), where=count > 0) for s in sums)
    return score, precision, count


def _calibration_error(score: Floats, precision: Floats, count: Ints) -> float:
    return float(np.nansum(np.abs(score - precision) * count) / max(count.sum(), 1))


def _temperature(scores: Floats, right: NDArray[np.bool_]) -> float:
    """Minimise the negative log-likelihood over log T in -4..4; it is convex in 1 / T."""
    if not 0 < right.sum() < len(right):
        return 1.0
    logit, low, high = _logit(scores), -4.0, 4.0
    sign = np.where(right, -1.0, 1.0)
    golden = (np.sqrt(5) - 1) / 2
    for _ in range(60):
        left, middle = high - golden * (high - low), low + golden * (high - low)
        costs = [np.logaddexp(0, sign * logit / np.exp(at)).mean() for at in (left, middle)]
        low, high = (low, middle) if costs[0] < costs[1] else (left, high)
    return float(np.exp((low + high) / 2))


def _logit(scores: Floats) -> Floats:
    clipped = scores.clip(1e-7, 1 - 1e-7)
    return np.log(clipped) - np.log1p(-clipped)


def _sigmoid(values: Floats) -> Floats:
    return 1 / (1 + np.exp(-values))


@dataclass(frozen=True, eq=False)
class Thresholds:
    """The scores from which on detections are kept for the highest F1 at an IoU of 0.5, by VOC's matching.

    A threshold lies midway between the lowest score that is kept and the next one.

    Attributes:
        conf: () of the highest mean F1 of the classes; f1: that mean.
        class_conf: (C,) of the highest F1 of each class, and class_precision, class_recall, class_f1: (C,) there. A
            class without boxes has `conf`, and NaN for the others.
    """

    conf: float
    f1: float
    class_conf: Floats
    class_precision: Floats
    class_recall: Floats
    class_f1: Floats


def thresholds(truth: Truth, predictions: Predictions) -> Thresholds:
    """Find the best thresholds.

    Raises:
        ConfigError: there is no detection, or none that is right.
    """
    ranked = metrics.judge(truth, predictions)
    measured = [c for c, each in enumerate(ranked) if each.boxes]
    scores = _falling(np.concatenate([np.zeros(0), *(ranked[c].scores for c in measured)]))
    if not any(ranked[c].hit.any() for c in measured):
        raise ConfigError("calibration: none of the detections is right; expected some boxes that are found")
    mean = np.zeros(len(scores))
    conf, precision, recall, f1 = np.full((4, len(ranked)), np.nan)
    for c in measured:
        each = ranked[c]
        kept = np.searchsorted(-each.scores, -scores, "right")
        right = np.append(0, np.cumsum(each.hit))[kept]
        of_class = 2 * right / (kept + each.boxes)
        mean += of_class / len(measured)
        best = int(of_class.argmax())
        precision[c], recall[c], f1[c] = right[best] / max(kept[best], 1), right[best] / each.boxes, of_class[best]
        if f1[c]:
            conf[c] = _below(_falling(each.scores), scores[best])
    best = int(mean.argmax())
    overall = _below(scores, scores[best])
    return Thresholds(overall, float(mean[best]), np.where(np.isnan(conf), overall, conf), precision, recall, f1)


def _falling(scores: Floats) -> Floats:
    return np.unique(scores)[::-1]


def _below(scores: Floats, score: float) -> float:
    """Return the middle between one of distinct, falling scores and the next, or 0 after the last."""
    return float(score + np.append(scores, 0.0)[np.searchsorted(-scores, -score, "right")]) / 2


def calibrate(truth: Truth, predictions: Predictions) -> dict[str, Any]:
    """Return temperature and thresholds, with what they change, as `--json` prints them.

    Raises:
        ConfigError: there is no detection, or none that is right.
    """
    best, scores = thresholds(truth, predictions), calibration(judge(truth, predictions, PROTOCOLS["coco50"]))
    columns = zip(best.class_conf, best.class_precision, best.class_recall, best.class_f1, strict=True)
    keys = ("conf", "precision", "recall", "F1")
    classes = [finite_or_none(dict(zip(keys, map(float, row), strict=True))) for row in columns]
    return {
        "temperature": scores.temperature,
        "D-ECE": scores.error,
        "D-ECE_after": scores.error_after,
        "conf": best.conf,
        "F1": best.f1,
        "classes": dict(zip(metrics.class_names(truth), classes, strict=True)),
    }


def calibration_text(facts: dict[str, Any]) -> str:
    """Return the same as text."""
    rows = [
        (name, *("-" if value is None else f"{value:.4f}" for value in row.values()))
        for name, row in facts["classes"].items()
    ]
    return "\n".join(
        [
            f"scores: D-ECE {facts['D-ECE']:.4f}; divided by the temperature {facts['temperature']:.3f} in logits "
            f"{facts['D-ECE_after']:.4f}",
            f"threshold of all classes: {facts['conf']:.4f}, mean F1 {facts['F1']:.4f} (IoU 0.5)",
            columns([("class", "thresh.", "prec.", "recall", "F1"), *rows]),
        ]
    )


def stored(facts: dict[str, Any], classes: Sequence[str], iou: float, tiling: Tiling | None) -> dict[str, Any]:
    """Return what a checkpoint keeps of a calibration.

    Args:
        classes: its classes; those that were not calibrated have the threshold of all.
        iou, tiling: with which the detections were made.

    Returns:
        "temperature", "conf" and "class_conf", the threshold of each class; "iou" and "tiling", as `detected_with`
        returns them.
    """
    every = [facts["classes"].get(name, facts)["conf"] for name in classes]
    thresholds = {"temperature": facts["temperature"], "conf": facts["conf"], "class_conf": every}
    return thresholds | detected_with(iou, tiling)


def detected_with(iou: float, tiling: Tiling | None) -> dict[str, Any]:
    """Return what changes detections, and so their thresholds: NMS's "iou", and "tiling", a dict or None."""
    keys = ("side", "overlap", "merge", "whole")
    return {"iou": iou, "tiling": tiling and {key: getattr(tiling, key) for key in keys}}


def differences(calibration: Mapping[str, Any], iou: float, tiling: Tiling | None) -> str:
    """Return with which options a stored calibration was found, of those that differ now; "" for none.

    Args:
        calibration: as `stored` returns it; one without "iou" and "tiling" is not compared.
        iou, tiling: those of now.
    """
    now = detected_with(iou, tiling)
    words = {"iou": "--iou {:g}".format, "tiling": tiling_words}
    return ", ".join(words[key](calibration[key]) for key in now if calibration.get(key, now[key]) != now[key])


def probability(scores: Floats, temperature: float) -> Floats:
    """Return scores (K,) as probabilities: their logits are divided by a temperature."""
    return _sigmoid(_logit(scores) / temperature)
