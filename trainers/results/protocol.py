"""Legend: K detections, N true boxes, T IoU thresholds, C classes.

Every choice that an average precision depends on, as one value, so that two tools' numbers can be compared.

`metrics` computes the published protocols for everyday use; this module takes any combination of their rules.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from dataforge.analysis.detections import sides
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
        judged: "all" classes in every image, or only those "looked for": detections of other classes do not count, nor
            do those that match no box of a class of which boxes may be missing (LVIS).
        classes: "annotated": the mean is over the classes that have boxes; "all": others count as 0.
        area: the least and the largest area of a box in pixels; others, and detections outside that match none, are
            ignored.
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
    judged: Literal["all", "looked for"] = "all"
    classes: Literal["annotated", "all"] = "annotated"
    area: tuple[float, float] = (0.0, 1e10)
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
    "lvis": Protocol(limit=300, limit_of="image", judged="looked for"),
}


@dataclass(frozen=True, eq=False)
class Judged:
    """Detections judged by a protocol, by falling score.

    Attributes:
        predictions: the detections that passed its limits, by falling score.
        hit: (T, K) whether each is a true positive; counts: (T, K) whether it counts at all (neither matched to an
            ignored box nor left out).
        box: (T, K) the true box matched, -1 for none.
        rank: (K,) each detection's rank by score in its image and class.
        countable: (N,) the true boxes that are to be found.
        truth: the truth they were judged against; ious: the T thresholds.
    """

    truth: Truth
    predictions: Predictions
    hit: NDArray[np.bool_]
    counts: NDArray[np.bool_]
    box: Ints
    rank: Ints
    countable: NDArray[np.bool_]
    ious: tuple[float, ...]


def judge(truth: Truth, predictions: Predictions, protocol: Protocol) -> Judged:
    """Match detections to true boxes by a protocol, at each of its IoU thresholds."""
    predictions = _limited(truth, predictions, protocol)
    partial = np.zeros(len(predictions.scores), bool)
    if protocol.judged == "looked for" and truth.judged is not None:
        known, partial = _looked_for(truth, predictions, truth.judged)
        predictions, partial = predictions.where(known), partial[known]
    low, high = protocol.area
    crowd = (truth.flags & CROWD > 0) & (protocol.crowd == "ignore")
    ignored = crowd | ((truth.flags & DIFFICULT > 0) & (protocol.difficult == "ignore"))
    ignored |= (truth.areas < low) | (truth.areas > high)
    is_coco = protocol.matching == "best-free"
    pairs = overlaps(
        truth, predictions, least=min(protocol.ious), crowd=crowd if is_coco else None, extent=protocol.extent
    )
    ranks = rank(predictions.image, predictions.labels, predictions.scores)
    if is_coco:
        box = match_best_free(pairs, ranks, protocol.ious, ignored, crowd)
        # as in pycocotools, a box whose annotation id is 0 never counts as found
        hit = (box >= 0) & (np.append(np.ones(len(ignored)) if truth.ids is None else truth.ids, 0)[box] != 0)
    else:
        matches = [match_best(pairs.where(pairs.iou >= iou), predictions) for iou in protocol.ious]
        box, hit = (np.stack(part) for part in zip(*matches, strict=True))
    areas = sides(predictions.boxes).prod(1)
    counts = ~np.append(ignored, False)[box]
    counts &= (hit if is_coco else box >= 0) | ((areas >= low) & (areas <= high) & ~partial)
    return Judged(truth, predictions, hit & counts, counts, box, ranks, ~ignored, protocol.ious)


def _looked_for(
    truth: Truth, predictions: Predictions, judged: NDArray[np.int32]
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Return (K,) whether each detection's class was looked for in its image, and whether boxes may be missing."""
    classes = len(truth.classes)
    pairs = judged[:, 0].astype(np.int64) * classes + judged[:, 1]
    wanted = predictions.image * classes + predictions.labels
    everywhere = judged[:, 1] < 0
    absent = pairs[(judged[:, 2] == 0) & ~everywhere]
    known = np.isin(wanted, np.append(absent, truth.image * classes + truth.labels))
    known |= np.isin(predictions.image, judged[everywhere, 0])
    return known, np.isin(wanted, pairs[(judged[:, 2] == 1) & ~everywhere])


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


def by_class(judged: Judged, weights: Floats) -> Iterator[tuple[int, float, Floats, Floats]]:
    """Yield for each class with boxes: its label, its boxes, and (T, k) true positives and detections so far.

    Args:
        weights: (I,) how often each image counts.
    """
    truth, predictions = judged.truth, judged.predictions
    classes = len(truth.classes)
    countable = np.flatnonzero(judged.countable)
    boxes = np.bincount(truth.labels[countable], weights[truth.image[countable]], minlength=classes)
    order = np.argsort(predictions.labels, kind="stable")
    ends = np.searchsorted(predictions.labels[order], np.arange(classes + 1))
    weight = weights[predictions.image]
    for c in np.flatnonzero(boxes).tolist():
        own = order[ends[c] : ends[c + 1]]
        hits = np.cumsum(judged.hit[:, own] * weight[own], 1)
        yield c, float(boxes[c]), hits, np.cumsum(judged.counts[:, own] * weight[own], 1)


def ceiling(hits: Floats, total: Floats) -> Floats:
    """Return (T, k), the highest precision at each detection or any later one, rounded as pycocotools rounds."""
    precision = hits / (total + np.spacing(1))
    return np.maximum.accumulate(precision[:, ::-1], 1)[:, ::-1]


def at_recalls(hits: Floats, highest: Floats, boxes: float) -> Floats:
    """Return (101,), the `ceiling` (k,) of one threshold at the recalls 0, 0.01, ... 1; 0 where that is not reached."""
    return np.append(highest, 0.0)[np.searchsorted(hits / boxes, _RECALLS)]


_RECALLS = np.linspace(0, 1, 101)


def weighted_precision(judged: Judged, weights: Floats, points: str) -> Floats:
    """Return (T, C), the average precision of each threshold and class; NaN where a class has no box.

    Args:
        weights: (I,) how often each image counts.
        points: as in `Protocol`.
    """
    result = np.full((len(judged.hit), len(judged.truth.classes)), np.nan)
    for c, boxes, hits, total in by_class(judged, weights):
        highest = ceiling(hits, total)
        result[:, c] = [_area(*row, boxes, points) for row in zip(hits, highest, strict=True)]
    return result


def _area(hits: Floats, highest: Floats, boxes: float, points: str) -> float:
    """Average a curve: (k,) true positives so far, (k,) `ceiling`, and the number of boxes."""
    if points == "all":
        return float((highest * np.diff(hits, prepend=0)).sum() / boxes)
    if points == "trapezoid":
        recall = np.concatenate([[0.0], hits / boxes, [1.0]])
        at = np.interp(_RECALLS, recall, np.concatenate([[1.0], highest, [0.0]]))
        return float(np.trapezoid(at, _RECALLS))
    if points == "101":
        return float(at_recalls(hits, highest, boxes).mean())
    first = np.searchsorted(hits * 10, np.arange(11) * boxes)  # hits / boxes >= 0.3, which has no exact binary form
    return float(np.append(highest, 0.0)[first].mean())
