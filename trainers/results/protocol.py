"""Legend: K detections, N true boxes, T IoU thresholds, C classes.

Every choice that an average precision depends on, as one value, so that two tools' numbers can be compared.

`metrics` computes the published protocols for everyday use; this module takes any combination of their rules.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from dataforge.errors import unknown
from dataforge.record import CROWD, DIFFICULT
from trainers.results.matching import match_best, match_best_free, overlaps, rank
from trainers.results.truth import Floats, Ints, Predictions, Truth

COCO_IOUS = tuple(np.linspace(0.5, 0.95, 10).tolist())


@dataclass(frozen=True)
class Protocol:
    """The rules of an average precision. The defaults are COCO's AP (pycocotools 2.0).

    Attributes:
        ious: the IoU thresholds, of which the mean is taken.
        matching: "best-free" (COCO): by falling score, each detection to the free box of highest IoU; "best" (VOC,
            Ultralytics): each to the box of highest IoU, where the highest score is right and the others are wrong.
        points: how the precision is averaged over recall. "101": at the recalls 0, 0.01, ... 1 (COCO); "11": at 0, 0.1,
            ... 1 (VOC 2007); "all": the area under the curve (VOC 2010-2012); "trapezoid": the area under straight
            lines through 101 points, with a precision of 1 at recall 0 (Ultralytics).
        extent: added to widths and heights in the IoU; 1 counts pixels inclusively.
        crowd: "ignore" (COCO: any number of detections match, none counts) or "count" as an ordinary box.
        difficult: "count" or "ignore" (VOC: neither found nor missed).
        limit: the number of detections with the highest scores that count, None for all.
        limit_of: of what: an "image", or a "class" in an image (COCO).
        conf: the lowest score that counts.
        duplicates: "keep", or "drop" detections with the image, class and box of one with a higher score.
        images: "all", or "annotated": detections in images without boxes do not count.
        classes: "annotated": the mean is over the classes that have boxes; "all": others count as 0.
        ties: what orders equal scores: the "image id" (COCO), the order in the "file", or its "reverse".
    """

    ious: tuple[float, ...] = COCO_IOUS
    matching: Literal["best-free", "best"] = "best-free"
    points: Literal["101", "11", "all", "trapezoid"] = "101"
    extent: float = 0.0
    crowd: Literal["ignore", "count"] = "ignore"
    difficult: Literal["count", "ignore"] = "count"
    limit: int | None = 100
    limit_of: Literal["class", "image"] = "class"
    conf: float = 0.0
    duplicates: Literal["keep", "drop"] = "keep"
    images: Literal["all", "annotated"] = "all"
    classes: Literal["annotated", "all"] = "annotated"
    ties: Literal["image id", "file", "reverse"] = "image id"


_VOC = {"ious": (0.5,), "matching": "best", "difficult": "ignore", "limit": None, "ties": "file"}
_ULTRALYTICS = {
    "conf": 0.001,
    "ties": "file",
    "matching": "best",
    "points": "trapezoid",
    "crowd": "count",
    "limit": 300,
    "limit_of": "image",
}
PROTOCOLS: dict[str, Protocol] = {
    "coco": Protocol(),
    "coco50": Protocol(ious=(0.5,)),
    "voc07": Protocol(**_VOC, points="11"),  # type: ignore[arg-type]
    "voc12": Protocol(**_VOC, points="all"),  # type: ignore[arg-type]
    "ultralytics": Protocol(**_ULTRALYTICS),  # type: ignore[arg-type]
    "ultralytics50": Protocol(**_ULTRALYTICS, ious=(0.5,)),  # type: ignore[arg-type]
    "conf25": Protocol(ious=(0.5,), conf=0.25),
}


def protocol_of(name: str) -> Protocol:
    """Return a protocol by name.

    Raises:
        ConfigError: there is none of this name.
    """
    if name not in PROTOCOLS:
        raise unknown("protocol", name, PROTOCOLS)
    return PROTOCOLS[name]


@dataclass(frozen=True, eq=False)
class Judged:
    """Detections judged by a protocol, by falling score.

    Attributes:
        predictions: the detections that passed its limits, by falling score.
        hit: (T, K) whether each is a true positive; counts: (T, K) whether it counts at all (neither matched to an
            ignored box nor left out).
        box: (T, K) the true box matched, -1 for none.
        countable: (N,) the true boxes that are to be found.
        truth: the truth they were judged against; ious: the T thresholds.
    """

    truth: Truth
    predictions: Predictions
    hit: NDArray[np.bool_]
    counts: NDArray[np.bool_]
    box: Ints
    countable: NDArray[np.bool_]
    ious: tuple[float, ...]


def judge(truth: Truth, predictions: Predictions, protocol: Protocol) -> Judged:
    """Match detections to true boxes by a protocol, at each of its IoU thresholds."""
    predictions = _limited(truth, predictions, protocol)
    crowd = (truth.flags & CROWD > 0) & (protocol.crowd == "ignore")
    ignored = crowd | ((truth.flags & DIFFICULT > 0) & (protocol.difficult == "ignore"))
    shared_crowd = crowd if protocol.matching == "best-free" else None
    pairs = overlaps(truth, predictions, least=min(protocol.ious), crowd=shared_crowd, extent=protocol.extent)
    shape = (len(protocol.ious), len(predictions.scores))
    hit, box = np.zeros(shape, bool), np.full(shape, -1)
    for t, iou in enumerate(protocol.ious):
        near = pairs.where(pairs.iou >= iou)
        if protocol.matching == "best":
            box[t], hit[t] = match_best(near, predictions)
        else:
            box[t] = match_best_free(near, predictions, ignored, crowd)
            hit[t] = box[t] >= 0
    counts = ~(np.append(ignored, False)[box])
    return Judged(truth, predictions, hit & counts, counts, box, ~ignored, protocol.ious)


def _limited(truth: Truth, predictions: Predictions, protocol: Protocol) -> Predictions:
    """Return the detections that a protocol looks at, by falling score."""
    position = np.arange(len(predictions.scores))
    if protocol.ties == "image id":
        position = truth.image_ids[predictions.image]
    elif protocol.ties == "reverse":
        position = -position
    predictions = predictions.where(np.lexsort((position, -predictions.scores)))
    keep = predictions.scores >= protocol.conf
    if protocol.images == "annotated":
        keep &= np.isin(predictions.image, truth.image)
    if protocol.duplicates == "drop":
        whole = np.column_stack([predictions.image, predictions.labels, predictions.boxes])
        first = np.zeros(len(keep), bool)
        first[np.unique(whole, axis=0, return_index=True)[1]] = True
        keep &= first
    predictions = predictions.where(keep)
    if protocol.limit is None:
        return predictions
    labels = predictions.labels if protocol.limit_of == "class" else np.zeros_like(predictions.labels)
    return predictions.where(rank(predictions.image, labels, predictions.scores) < protocol.limit)


def average_precision(truth: Truth, predictions: Predictions, protocol: Protocol) -> float:
    """Return the mean average precision by a protocol; NaN if no class has a box."""
    judged = judge(truth, predictions, protocol)
    per_class = weighted_precision(judged, np.ones(len(truth.image_ids)), protocol.points).mean(0)
    return mean_of_classes(np.nan_to_num(per_class) if protocol.classes == "all" else per_class)


def mean_of_classes(per_class: Floats) -> float:
    """Return the mean of (C,) without NaN; NaN if nothing is left."""
    measured = per_class[~np.isnan(per_class)]
    return float(measured.mean()) if len(measured) else float("nan")


def weighted_precision(judged: Judged, weights: Floats, points: str) -> Floats:
    """Return (T, C), the average precision of each threshold and class; NaN where a class has no box.

    Args:
        weights: (I,) how often each image counts.
        points: as in `Protocol`.
    """
    truth, predictions = judged.truth, judged.predictions
    classes = len(truth.classes)
    countable = np.flatnonzero(judged.countable)
    boxes = np.bincount(truth.labels[countable], weights[truth.image[countable]], minlength=classes)
    result = np.full((len(judged.hit), classes), np.nan)
    by_class = np.argsort(predictions.labels, kind="stable")
    ends = np.searchsorted(predictions.labels[by_class], np.arange(classes + 1))
    weight = weights[predictions.image]
    for c in np.flatnonzero(boxes):
        own = by_class[ends[c] : ends[c + 1]]
        for t in range(len(result)):
            rows = own[judged.counts[t, own]]
            hits = np.cumsum(weight[rows] * judged.hit[t, rows])
            total = np.cumsum(weight[rows])
            precision = np.divide(hits, total, out=np.zeros_like(hits), where=total > 0)
            result[t, c] = _area(hits, precision, float(boxes[c]), points)
    return result


def _area(hits: Floats, precision: Floats, boxes: float, points: str) -> float:
    """Average a curve: (k,) true positives so far, (k,) precision, and the number of boxes."""
    ceiling = np.maximum.accumulate(precision[::-1])[::-1]
    if points == "all":
        return float((ceiling * np.diff(hits, prepend=0)).sum() / boxes)
    if points == "trapezoid":
        recall = np.concatenate([[0.0], hits / boxes, [1.0]])
        at = np.linspace(0, 1, 101)
        return float(np.trapezoid(np.interp(at, recall, np.concatenate([[1.0], ceiling, [0.0]])), at))
    if points == "101":
        first = np.searchsorted(hits / boxes, np.linspace(0, 1, 101))  # rounded as pycocotools rounds
    else:
        first = np.searchsorted(hits * 10, np.arange(11) * boxes)  # hits / boxes >= 0.3, which has no exact binary form
    return float(np.append(ceiling, 0.0)[first].mean())
