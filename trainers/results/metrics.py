"""Legend: K detections, N true boxes, C classes, P pairs.

Average precision of COCO and PASCAL VOC, and the curves and counts for plots.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
from faster_coco_eval import COCO
from faster_coco_eval.core.faster_eval_api import COCOeval_faster
from numpy.typing import NDArray

from dataforge.analysis.detections import one_to_one, overlapping, pair_iou, spread
from dataforge.errors import unknown
from dataforge.record import CROWD, DIFFICULT
from trainers.results.truth import Floats, Ints, Predictions, Truth, xywh

COCO_KEYS = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")
_PAIRS = 1 << 21  # pairs of a detection and a box compared at a time


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
    # A class without boxes changes none of the numbers, and no image and class uses more than 100 detections.
    wanted = np.bincount(truth.labels, minlength=len(truth.classes))[predictions.labels] > 0
    keep = np.flatnonzero(wanted)
    keep = keep[_rank(predictions.image[keep], predictions.labels[keep], predictions.scores[keep]) < 100]
    shared: dict[str, Any] = {
        "images": [{"id": i} for i in truth.image_ids.tolist()],
        "categories": [{"id": label, "name": name} for label, name in enumerate(truth.classes)],
    }
    numbered = np.arange(1, len(truth.boxes) + 1) if truth.ids is None else truth.ids
    true = {
        "id": numbered.tolist(),
        "iscrowd": (truth.flags & CROWD).tolist(),
        "area": truth.areas.tolist(),
        "image_id": truth.image_ids[truth.image].tolist(),
        "category_id": truth.labels.tolist(),
        "bbox": xywh(truth.boxes).tolist(),
    }
    boxes = xywh(predictions.boxes[keep])
    detected = {
        "id": list(range(1, len(keep) + 1)),
        "iscrowd": [0] * len(keep),
        "area": boxes[:, 2:].prod(1).tolist(),
        "image_id": truth.image_ids[predictions.image[keep]].tolist(),
        "category_id": predictions.labels[keep].tolist(),
        "bbox": boxes.tolist(),
        "score": predictions.scores[keep].tolist(),
    }
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Found annotation id 0")  # `evaluate` prints its own warning
        evaluation = COCOeval_faster(COCO(shared | _rows(true)), COCO(shared | _rows(detected)), "bbox")
    evaluation.evaluate()
    evaluation.accumulate()
    precision = np.asarray(evaluation.eval["precision"])  # (10 IoUs, 101 recalls, C, 4 sizes, 3 limits)
    recall = np.asarray(evaluation.eval["recall"])  # (10 IoUs, C, 4 sizes, 3 limits)
    values = [precision[..., 0, 2], precision[0, ..., 0, 2], precision[5, ..., 0, 2]]
    values += [precision[..., size, 2] for size in (1, 2, 3)]
    values += [recall[..., 0, limit] for limit in (0, 1, 2)] + [recall[..., size, 2] for size in (1, 2, 3)]
    numbers = dict(zip(COCO_KEYS, (float(v[v > -1].mean()) if (v > -1).any() else -1.0 for v in values), strict=True))
    per_class = np.where(precision > -1, precision, np.nan)[..., 0, 2]
    return numbers, per_class.mean((0, 1)), per_class[0].mean(0)


def _rows(columns: dict[str, list[Any]]) -> dict[str, list[dict[str, Any]]]:
    """Convert columns to COCO's annotations."""
    return {"annotations": [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]}


def _rank(image: Ints, labels: Ints, scores: Floats) -> Ints:
    """Return (K,), each detection's rank by score within its image and class; ties keep their order."""
    order = np.lexsort((-scores, labels, image))
    new = np.flatnonzero(np.diff(image[order], prepend=-1) | np.diff(labels[order], prepend=-1))
    rank = np.empty(len(order), np.int64)
    rank[order] = np.arange(len(order)) - np.repeat(new, np.diff(new, append=len(order)))
    return rank


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
    order = np.lexsort((-predictions.scores, predictions.labels))
    best, overlap = _best_box(truth, predictions, order)
    reached = overlap >= iou
    firsts = np.full(len(truth.boxes), len(order))  # the first in the order that reaches a box is matched to it
    np.minimum.at(firsts, best[reached], np.flatnonzero(reached))
    hit = reached.copy()
    hit[reached] = firsts[best[reached]] == np.flatnonzero(reached)
    counts = ~reached
    counts[reached] = ~ignored[best[reached]]
    ends = np.searchsorted(predictions.labels[order], np.arange(len(truth.classes) + 1))
    scores = predictions.scores[order]
    return [
        Ranked(scores[a:b][counts[a:b]], hit[a:b][counts[a:b]], int(n))
        for a, b, n in zip(ends[:-1], ends[1:], to_find, strict=True)
    ]


def _best_box(truth: Truth, predictions: Predictions, order: Ints) -> tuple[Ints, Floats]:
    """Return for each detection in `order` the box of its image and class of highest IoU, and that IoU (0 for none)."""
    classes = len(truth.classes)
    key = truth.image * classes + truth.labels
    by_key = np.argsort(key, kind="stable")
    wanted = (predictions.image * classes + predictions.labels)[order]
    low, high = np.searchsorted(key[by_key], wanted), np.searchsorted(key[by_key], wanted, "right")
    best, overlap = np.zeros(len(order), np.int64), np.zeros(len(order))
    with_box = np.flatnonzero(high > low)
    pairs = np.cumsum((high - low)[with_box])
    parts = np.split(with_box, np.searchsorted(pairs, np.arange(_PAIRS, pairs[-1] if len(pairs) else 0, _PAIRS)))
    for part in parts:
        if not len(part):
            continue
        row, position = spread(low[part], high[part])
        box = by_key[position]
        ious = pair_iou(predictions.boxes[order[part]][row], truth.boxes[box])
        starts = np.flatnonzero(np.diff(row, prepend=-1))
        overlap[part] = np.maximum.reduceat(ious, starts)
        top = np.flatnonzero(ious == overlap[part][row])  # several where boxes tie; the first counts
        _, first = np.unique(row[top], return_index=True)
        best[part] = box[top[first]]
    return best, overlap


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
    chosen = np.flatnonzero(predictions.scores >= conf)
    pairs = overlapping(predictions.image[chosen], predictions.boxes[chosen], truth.image, truth.boxes, iou)
    box_of, detection_of = one_to_one(*pairs[:2], len(chosen), len(truth.boxes))
    ignored = truth.flags & (CROWD | DIFFICULT) > 0
    labels = np.append(truth.labels, classes)[box_of]  # -1, unpaired, is the appended background
    labels_found = predictions.labels[chosen]
    kept = ~np.append(ignored, False)[box_of]
    missed = truth.labels[(detection_of < 0) & ~ignored]
    cells = np.concatenate([labels[kept] * (classes + 1) + labels_found[kept], missed * (classes + 1) + classes])
    return np.bincount(cells, minlength=(classes + 1) ** 2).reshape(classes + 1, classes + 1)
