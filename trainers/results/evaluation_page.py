"""Legend: K detections, N true boxes, C classes.

One HTML page about an evaluation: numbers with their intervals, errors by kind, curves, calibration, worst images.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence

import numpy as np
import PIL.Image

from dataforge.analysis import charts
from dataforge.analysis.html_page import Section, page
from dataforge.errors import counted
from dataforge.images.draw import draw
from dataforge.shards.reader import Shards
from trainers.results import evaluation_charts, metrics, plots
from trainers.results.calibration import Calibration, calibration
from trainers.results.diagnosis import KINDS, Errors, errors, recall_by_group, worst_images
from trainers.results.explain import explanation, points
from trainers.results.protocol import PROTOCOLS, Judged, judge
from trainers.results.significance import interval, resampled
from trainers.results.truth import Predictions, Truth


def evaluation_page(title: str, truth: Truth, predictions: Predictions, shards: Shards | None = None) -> str:
    """Return the page as HTML.

    Args:
        shards: of the truth; the worst images are drawn from them.
    """
    judged = judge(truth, predictions, PROTOCOLS["coco50"])
    curves = metrics.curves(truth, predictions)
    sections = [
        _summary(truth, predictions),
        _errors(errors(judged)),
        _classes(truth, predictions, curves),
        Section(
            "Curves",
            f"At IoU 0.5, by the matching of VOC. The mean F1 is highest at the score {curves.best:.3f}.",
            pictures=[
                ("Precision and recall", _chart(evaluation_charts.precision_recall, curves, truth.classes)),
                *(
                    (f"{name} by score threshold", _chart(evaluation_charts.threshold, curves, truth.classes, name))
                    for name in ("F1", "precision", "recall")
                ),
            ],
        ),
        Section(
            "Confusion",
            "Detections with a score of at least 0.25 and boxes, paired by IoU of at least 0.5 whatever their classes.",
            pictures=[("Confusion matrix", _confusion(truth, predictions))],
        ),
        *_groups(judged),
        _calibration(calibration(judged)),
        *_rules(truth, predictions),
    ]
    if shards is not None:
        sections.append(_worst(shards, judged, curves.best))
    return page(title, sections)


def _summary(truth: Truth, predictions: Predictions) -> Section:
    numbers = metrics.coco(truth, predictions)
    ranges = {
        key: interval(*resampled(truth, predictions, PROTOCOLS[name], resamples=200))
        for key, name in (("AP", "coco"), ("AP50", "coco50"))
    }
    rows = [
        (
            key,
            f"{value:.4f}" if value >= 0 else "-",
            f"{ranges[key].low:.4f} to {ranges[key].high:.4f}" if key in ranges else "",
        )
        for key, value in numbers.items()
    ]
    text = (
        f"{counted(len(truth.image_ids), 'image')}, {counted(len(truth.boxes), 'box')}, "
        f"{counted(len(predictions.scores), 'detection')}; COCO's "
        "metrics, - without such objects. The interval contains 95 % of 200 bootstrap resamples of the images."
    )
    return Section("Average precision", text, (("metric", "value", "95 % interval"), rows))


def _errors(result: Errors) -> Section:
    rows = [(kind, result.counts[kind], f"{result.gains[kind]:+.4f}", KINDS[kind]) for kind in KINDS]
    text = (
        f"False positives and missed boxes at IoU 0.5 by the kinds of TIDE (Bolya et al., 2020), and by how much AP50 "
        f"({result.ap:.4f}) would rise if a kind were corrected."
    )
    return Section(
        "Errors",
        text,
        (("kind", "count", "gain", "meaning"), rows),
        [("Gain in AP50 by kind", _chart(evaluation_charts.errors, result))],
    )


def _classes(truth: Truth, predictions: Predictions, curves: metrics.Curves) -> Section:
    _, ap, ap50 = metrics.coco_per_class(truth, predictions)
    boxes = np.bincount(truth.labels, minlength=len(truth.classes))
    rows: list[Sequence[object]] = []
    for c, name in enumerate(metrics.class_names(truth)):
        if np.isnan(curves.f1[c]).all():
            rows.append((name, int(boxes[c]), *["-"] * 6))
            continue
        best = int(curves.f1[c].argmax())
        values = (ap[c], ap50[c], curves.conf[best], curves.precision[c, best], curves.recall_at[c, best])
        rows.append((name, int(boxes[c]), *(f"{value:.3f}" for value in (*values, curves.f1[c, best]))))
    header = ("class", "boxes", "AP", "AP50", "best score", "precision", "recall", "F1")
    return Section("Classes", "The last four at the score threshold of the highest F1 of the class.", (header, rows))


def _groups(judged: Judged) -> list[Section]:
    rows = [
        (group, words, boxes, f"{found / boxes:.1%}")
        for group, ranges in recall_by_group(judged).items()
        for words, (found, boxes) in ranges.items()
    ]
    text = "Boxes found at IoU 0.5 by a detection of any score; size is the square root of the area."
    return [Section("Recall by group", text, (("group", "range", "boxes", "found"), rows))] if rows else []


def _calibration(result: Calibration) -> Section:
    text = (
        f"Mean difference of score and precision (D-ECE): {result.error:.3f}. Scores divided by the temperature "
        f"{result.temperature:.2f} in logits would have {result.error_after:.3f}."
    )
    return Section(
        "Calibration", text, pictures=[("Precision by score", _chart(evaluation_charts.reliability, result))]
    )


def _rules(truth: Truth, predictions: Predictions) -> list[Section]:
    facts = explanation(truth, predictions)
    rows = []
    for name, end in facts["protocols"].items():
        steps = [step for step in end["steps"] if points(step["cost"]) not in ("0.00", "-0.00")]
        costs = "; ".join(f"{s['rule']} {s['before']} -> {s['after']}: {points(s['cost'], '+')}" for s in steps)
        rows.append((name, points(end["AP"]), points(end["difference"], "+"), costs))
    alone = [(step["rule"], step["before"], step["after"], points(step["cost"], "+")) for step in facts["single_rules"]]
    return [
        Section(
            "The same detections by other rules",
            "Average precision in points, the difference to COCO's AP50, and the cost of each rule, in this order.",
            (("protocol", "AP", "difference", "of which"), rows),
        ),
        Section("Each rule of COCO's AP50 alone", "", (("rule", "here", "there", "points"), alone)),
    ]


def _worst(shards: Shards, judged: Judged, conf: float) -> Section:
    truth, predictions = judged.truth, judged.predictions
    pictures = []
    for row, false, missed in worst_images(judged, conf):
        own = np.flatnonzero((predictions.image == row) & (predictions.scores >= conf))
        true = np.flatnonzero(truth.image == row)
        image, boxes = plots.picture(shards, row, np.concatenate([truth.boxes[true], predictions.boxes[own]]))
        sides = [
            draw(image, boxes[: len(true)], truth.labels[true], truth.classes),
            draw(image, boxes[len(true) :], predictions.labels[own], truth.classes, predictions.scores[own]),
        ]
        picture = PIL.Image.fromarray(np.concatenate(sides, 1))
        file = io.BytesIO()
        picture.save(file, "JPEG", quality=85)
        pictures.append((f"{truth.names[row]}: {false} false, {missed} missed", file.getvalue()))
    text = f"Images with the most errors at the score {conf:.3f}: true boxes on the left, detections on the right."
    return Section("Worst images", text if pictures else "No image has an error.", pictures=pictures)


def _confusion(truth: Truth, predictions: Predictions) -> bytes:
    file = io.BytesIO()
    plots.confusion_matrix(file, metrics.confusion(truth, predictions), truth.classes)
    return file.getvalue()


def _chart(paint: Callable[..., None], *facts: object) -> bytes:
    return charts.svg(lambda axis: paint(axis, *facts), 3.6)
