"""Legend: K detections, N true boxes, C classes, P pairs.

Average precision of COCO and PASCAL VOC, and the curves and counts for plots.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dataforge.analysis.detections import one_to_one, overlapping
from dataforge.errors import unknown
from dataforge.record import CROWD, DIFFICULT
from trainers.results.matching import match_best, overlaps
from trainers.results.protocol import COCO_IOUS, PROTOCOLS, Protocol, at_recalls, by_class, ceiling
from trainers.results.protocol import judge as judge_by
from trainers.results.truth import Floats, Ints, Predictions, Truth

AREAS = ((0.0, 1e10), (0.0, 32.0**2), (32.0**2, 96.0**2), (96.0**2, 1e10))  # all, small, medium, large; pixels
LIMITS = (1, 10, 100)  # detections of an image and class
LVIS_KEYS = ("AP", "AP50", "AP75", "APs", "APm", "APl", "APr", "APc", "APf", "AR300", "ARs", "ARm", "ARl")
COCO_KEYS = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")


def coco(truth: Truth, predictions: Predictions) -> dict[str, float]:
    """Compute COCO's 12 metrics, equal to those of pycocotools; -1 where undefined.

    As in pycocotools, a box whose annotation id is 0 never counts as detected. Boxes without ids (shards) are numbered
    from 1.
    """
    return coco_per_class(truth, predictions)[0]


def coco_per_class(
    truth: Truth, predictions: Predictions
) -> tuple[dict[str, float], NDArray[np.float64], NDArray[np.float64]]:
    """Compute COCO's 12 metrics, and each class's AP (C,) and AP50 (C,), NaN where a class has no box."""
    precision, recall = _by_area(truth, predictions, Protocol(), LIMITS)
    values = [precision[0], precision[0, 0], precision[0, 5], *precision[1:], *recall[0], *recall[1:, -1]]
    return _means(COCO_KEYS, values), *_per_class(precision)


def lvis_per_class(
    truth: Truth, predictions: Predictions
) -> tuple[dict[str, float], NDArray[np.float64], NDArray[np.float64]]:
    """Compute the 13 metrics of LVIS (lvis-api 0.5), and each class's AP and AP50 as `coco_per_class`.

    In each image only the classes that were looked for count: those that have a box in it or are known to be absent.
    """
    protocol = PROTOCOLS["lvis"]
    assert protocol.limit is not None
    precision, recall = _by_area(truth, predictions, protocol, (protocol.limit,))
    frequencies = np.array(truth.frequencies or [""] * len(truth.classes))
    groups = [precision[0][:, :, frequencies == frequency] for frequency in "rcf"]
    values = [precision[0], precision[0, 0], precision[0, 5], *precision[1:], *groups, *recall[:, 0]]
    return _means(LVIS_KEYS, values), *_per_class(precision)


def _means(keys: tuple[str, ...], values: Sequence[Floats]) -> dict[str, float]:
    return dict(zip(keys, (float(v[v > -1].mean()) if (v > -1).any() else -1.0 for v in values), strict=True))


def _per_class(precision: Floats) -> tuple[Floats, Floats]:
    per_class = np.where(precision[0] > -1, precision[0], np.nan)
    return per_class.mean((0, 1)), per_class[0].mean(0)


def _by_area(
    truth: Truth, predictions: Predictions, protocol: Protocol, limits: tuple[int, ...]
) -> tuple[Floats, Floats]:
    """Return the precision (areas, T, 101, C), and the recall (areas, limits, T, C); -1 where a class has no box."""
    classes = len(truth.classes)
    precision = np.full((len(AREAS), len(COCO_IOUS), 101, classes), -1.0)
    recall = np.full((len(AREAS), len(limits), len(COCO_IOUS), classes), -1.0)
    for a, area in enumerate(AREAS):
        judged = judge_by(truth, predictions, replace(protocol, area=area))
        labels, ranks = judged.predictions.labels, judged.rank
        found = np.array(
            [[np.bincount(labels[hit & (ranks < limit)], minlength=classes) for hit in judged.hit] for limit in limits]
        )
        for c, boxes, hits, total in by_class(judged, np.ones(len(truth.image_ids))):
            highest = ceiling(hits, total)
            precision[a, :, :, c] = [at_recalls(*row, boxes) for row in zip(hits, highest, strict=True)]
            recall[a, :, :, c] = found[:, :, c] / boxes
    return precision, recall


@dataclass(frozen=True, eq=False)
class Ranked:
    """One class's detections, best first, judged by VOC's rule.

    Attributes:
        scores: (k,) of those that count; hit: (k,) whether each is a true positive.
        boxes: the number of true boxes.
    """

    scores: Floats
    hit: NDArray[np.bool_]
    boxes: int


def judge(truth: Truth, predictions: Predictions, iou: float = 0.5) -> list[Ranked]:
    """Match detections by the rule of the VOC development kit, for each class.

    Each detection is matched to the box of its image and class that it overlaps most (the first one, of several). It is
    a true positive if the IoU reaches `iou` and no detection of a higher score is matched to the box. A detection
    matched to a difficult or crowd box is ignored. Equal scores keep their order.

    The kit counts pixels inclusively (width = xmax - xmin + 1). In the edge coordinates used here, x2 - x1 is the same
    width for a box ingested with offset 1, so that the plain IoU equals the kit's.
    """
    ignored = truth.flags & (CROWD | DIFFICULT) > 0
    to_find = np.bincount(truth.labels[~ignored], minlength=len(truth.classes))
    box, hit = match_best(overlaps(truth, predictions, least=iou), predictions)
    counts = (box < 0) | ~np.append(ignored, False)[box]
    order = np.lexsort((-predictions.scores, predictions.labels))
    order = order[counts[order]]
    ends = np.searchsorted(predictions.labels[order], np.arange(len(truth.classes) + 1))
    scores, hit = predictions.scores[order], hit[order]
    return [Ranked(scores[a:b], hit[a:b], int(n)) for a, b, n in zip(ends[:-1], ends[1:], to_find, strict=True)]


def voc(truth: Truth, predictions: Predictions, protocol: str = "voc07") -> dict[str, Any]:
    """Compute PASCAL VOC's average precision at IoU 0.5 (Everingham et al., IJCV 2010 and 2015).

    Args:
        protocol: "voc07", the mean of the precision at the recalls 0, 0.1, ..., 1; or "voc12", the area under the
            whole curve. In both, the precision at a recall is the highest at that recall or above.

    Returns:
        {"mAP": mean over the classes that have boxes, "per_class": {name: AP}}; NaN where there is no box.

    Raises:
        ConfigError: the protocol is not one of these.
    """
    if protocol not in ("voc07", "voc12"):
        raise unknown("VOC protocol", protocol, ("voc07", "voc12"))
    average = np.array([_average_precision(ranked, protocol) for ranked in judge(truth, predictions)])
    measured = average[~np.isnan(average)]
    names = class_names(truth)
    return {
        "mAP": float(measured.mean()) if len(measured) else float("nan"),
        "per_class": dict(zip(names, average.tolist(), strict=True)),
    }


def class_names(truth: Truth) -> list[str]:
    """Return the classes' names; duplicates with their ids."""
    double = {name for name in truth.classes if truth.classes.count(name) > 1}
    return [f"{n} (id {i})" if n in double else n for n, i in zip(truth.classes, truth.class_ids, strict=True)]


def _average_precision(ranked: Ranked, protocol: str) -> float:
    if ranked.boxes == 0:
        return float("nan")
    hits = np.cumsum(ranked.hit, dtype=np.int64)
    ceiling = _ceiling(hits)
    if protocol == "voc07":
        # hits / boxes >= k / 10 in integers: 0.3 has no exact binary representation
        first = np.searchsorted(hits * 10, np.arange(11) * ranked.boxes)
        return float(np.append(ceiling, 0.0)[first].mean())
    return float(ceiling[ranked.hit].sum() / ranked.boxes)


def _ceiling(hits: Ints) -> Floats:
    """Return (k,), the highest precision at each position or any later one."""
    precision = hits / np.arange(1, len(hits) + 1)
    return np.maximum.accumulate(precision[::-1])[::-1]


@dataclass(frozen=True, eq=False)
class Curves:
    """Curves at one IoU, by VOC's matching.

    Attributes:
        recall: (101,) 0, 0.01, ..., 1, and at_recall: (C, 101) the precision there.
        conf: (1001,) thresholds 0, 0.001, ..., 1, and precision, recall_at, f1: (C, 1001) of detections that score at
            least that; precision is 1 if there are none.
        ap: (C,) area under the curve. All of a class without boxes is NaN.
        best: the threshold of the highest mean F1.
    """

    recall: Floats
    at_recall: Floats
    conf: Floats
    precision: Floats
    recall_at: Floats
    f1: Floats
    ap: Floats
    best: float


def curves(truth: Truth, predictions: Predictions, iou: float = 0.5) -> Curves:
    """Compute precision, recall and F1 of each class against recall and against the score threshold."""
    recall, conf = np.linspace(0, 1, 101), np.linspace(0, 1, 1001)
    at_recall = np.full((len(truth.classes), 101), np.nan)
    precision, recall_at = np.full((2, len(truth.classes), 1001), np.nan)
    ap = np.full(len(truth.classes), np.nan)
    for c, ranked in enumerate(judge(truth, predictions, iou)):
        if not ranked.boxes:
            continue
        hits = np.cumsum(ranked.hit, dtype=np.int64)
        first = np.searchsorted(hits * 100, np.arange(101) * ranked.boxes)
        at_recall[c] = np.append(_ceiling(hits), 0.0)[first]
        kept = np.searchsorted(-ranked.scores, -conf, "right")
        true = np.append(0, hits)[kept]
        precision[c] = np.where(kept > 0, true / np.maximum(kept, 1), 1.0)
        recall_at[c] = true / ranked.boxes
        ap[c] = _average_precision(ranked, "voc12")
    both = precision + recall_at
    f1 = np.divide(2 * precision * recall_at, both, out=np.where(np.isnan(both), np.nan, 0.0), where=both > 0)
    measured = f1[~np.isnan(ap)]
    best = float(conf[measured.mean(0).argmax()]) if len(measured) else 0.0
    return Curves(recall, at_recall, conf, precision, recall_at, f1, ap, best)


def confusion(truth: Truth, predictions: Predictions, conf: float = 0.25, iou: float = 0.5) -> Ints:
    """Count how often each class was detected as each.

    Detections that score at least `conf` and boxes of any class are paired one to one, the highest IoU first. The
    others are paired with the background. Difficult and crowd boxes, and the detections paired with them, are ignored.

    Returns:
        (C + 1, C + 1) counts: rows the true class, columns the detected one, the last of each the background.
    """
    classes = len(truth.classes)
    chosen = predictions.where(predictions.scores >= conf)
    pairs = overlapping(chosen.image, chosen.boxes, truth.image, truth.boxes, iou)
    box_of, detection_of = one_to_one(*pairs[:2], len(chosen.scores), len(truth.boxes))
    ignored = truth.flags & (CROWD | DIFFICULT) > 0
    labels = np.append(truth.labels, classes)[box_of]  # -1, unpaired, is the appended background
    kept = ~np.append(ignored, False)[box_of]
    missed = truth.labels[(detection_of < 0) & ~ignored]
    cells = np.concatenate([labels[kept] * (classes + 1) + chosen.labels[kept], missed * (classes + 1) + classes])
    return np.bincount(cells, minlength=(classes + 1) ** 2).reshape(classes + 1, classes + 1)
