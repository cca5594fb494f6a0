"""Legend: K detections, N true boxes, P pairs.

Which detection is matched to which true box, by the rules of COCO and of PASCAL VOC.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dataforge.analysis.detections import overlapping
from trainers.results.truth import Floats, Ints, Predictions, Truth


@dataclass(frozen=True, eq=False)
class Pairs:
    """Pairs of a detection and a true box of the same image, the highest IoU first.

    Attributes:
        detection: (P,) indices of detections; box: (P,) indices of true boxes; iou: (P,) how much they overlap.
    """

    detection: Ints
    box: Ints
    iou: Floats

    def where(self, keep: NDArray[np.bool_] | Ints) -> Pairs:
        """Return the pairs that `keep` selects, a mask (P,) or indices."""
        return Pairs(self.detection[keep], self.box[keep], self.iou[keep])


def overlaps(
    truth: Truth,
    predictions: Predictions,
    *,
    least: float,
    any_class: bool = False,
    crowd: NDArray[np.bool_] | None = None,
    extent: float = 0.0,
) -> Pairs:
    """Return all pairs of a detection and a true box that overlap by at least `least` (above 0).

    Args:
        any_class: pair boxes of different classes also.
        crowd: (N,) boxes whose overlap is measured as a share of the detection's area, as COCO does for crowds.
        extent: added to each width and height: 1 counts pixels inclusively, as the VOC development kit does.
    """
    key, wanted = truth.image, predictions.image
    if not any_class:
        key, wanted = (part.image * len(truth.classes) + part.labels for part in (truth, predictions))
    return Pairs(*overlapping(wanted, predictions.boxes, key, truth.boxes, least, crowd=crowd, extent=extent))


def rank(image: Ints, labels: Ints, scores: Floats) -> Ints:
    """Return (K,), each detection's rank by score within its image and class; ties keep their order."""
    group = image * (labels.max(initial=0) + 1) + labels
    order = np.lexsort((-scores, group))
    new = np.flatnonzero(np.diff(group[order], prepend=-1))
    ranks = np.empty(len(order), np.int64)
    ranks[order] = np.arange(len(order)) - np.repeat(new, np.diff(new, append=len(order)))
    return ranks


def match_best_free(
    pairs: Pairs, ranks: Ints, ious: Sequence[float], ignored: NDArray[np.bool_], crowd: NDArray[np.bool_]
) -> Ints:
    """Match as COCO does: by falling score, each detection to the free box of its class with the highest IoU.

    Boxes that count go before ignored ones (N,); a crowd box (N,) is never used up; of equal IoUs the later box counts.

    Args:
        ranks: (K,) as `rank` returns them.
        ious: T thresholds; each is a matching of its own.

    Returns:
        (T, K) the box of each detection, -1 for none.
    """
    keys = (-pairs.box, -pairs.iou, ignored[pairs.box], pairs.detection, ranks[pairs.detection])
    pairs = pairs.where(np.lexsort(keys))
    matched = np.full((len(ious), len(ranks)), -1)
    for box_of, iou in zip(matched, ious, strict=True):
        near = pairs.where(pairs.iou >= iou)
        free = np.ones(len(ignored), bool)
        ends = np.flatnonzero(np.diff(ranks[near.detection])) + 1
        # the detections of one rank are of different images or classes: they do not compete
        for start, end in itertools.pairwise([0, *ends.tolist(), len(near.box)]):
            detection, box = near.detection[start:end], near.box[start:end]
            is_open = free[box] | crowd[box]
            detection, box = detection[is_open], box[is_open]
            first = np.flatnonzero(np.diff(detection, prepend=-1))
            box_of[detection[first]] = box[first]
            free[box[first]] = False
    return matched


def match_best(pairs: Pairs, predictions: Predictions) -> tuple[Ints, NDArray[np.bool_]]:
    """Match as the VOC development kit does: each detection to the box of its class with the highest IoU.

    Of equal IoUs the earlier box counts.

    Returns:
        (K,) the box of each detection, -1 for none; and (K,) whether it is the box's detection of the highest score.
    """
    order = np.lexsort((pairs.box, -pairs.iou, pairs.detection))
    first = order[np.flatnonzero(np.diff(pairs.detection[order], prepend=-1))]
    box_of = np.full(len(predictions.scores), -1)
    box_of[pairs.detection[first]] = pairs.box[first]
    matched = np.flatnonzero(box_of >= 0)
    matched = matched[np.argsort(-predictions.scores[matched], kind="stable")]
    is_first = np.zeros(len(box_of), bool)
    is_first[matched[np.unique(box_of[matched], return_index=True)[1]]] = True
    return box_of, is_first
