"""Legend: K detections, N true boxes, I images, C classes.

What a detector gets wrong, and what it would gain if it did not.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from trainers.results.matching import Pairs, overlaps
from trainers.results.protocol import Judged, mean_of_classes, weighted_precision
from trainers.results.truth import Floats, Ints

KINDS = {
    "class": "a box found, but as another class",
    "place": "a box of the class found, but with an IoU below the threshold",
    "both": "a box found neither well placed nor as its class",
    "double": "a box found again",
    "background": "nothing is there",
    "missed": "a box that nothing found",
}
_NEAR = 0.1  # below this IoU a detection shows background (Bolya et al., section 3.2)


@dataclass(frozen=True, eq=False)
class Errors:
    """Errors of a set of detections, by the kinds of TIDE.

    Attributes:
        counts: {kind: number}; gains: {kind: by how much AP at the IoU threshold would rise without them}.
        kind: (K,) index into `KINDS` of each detection of `judged.predictions`, -1 where it is none.
        missed: (N,) boxes that nothing found.
        ap: the average precision with the errors.
    """

    counts: dict[str, int]
    gains: dict[str, float]
    kind: Ints
    missed: NDArray[np.bool_]
    ap: float


def errors(judged: Judged) -> Errors:
    """Sort the errors at the first IoU threshold into six kinds (Bolya et al., "TIDE", ECCV 2020).

    A false positive is, in this order: misplaced (IoU of 0.1 to the threshold with a box of its class), of a wrong
    class (IoU above the threshold with a box of another class), double, background (IoU below 0.1 with every box), or
    both misplaced and of a wrong class. A box is missed if nothing found it and no misplaced or wrongly named detection
    could be corrected to it. The gain of a kind is the AP that results when its detections are corrected (of several
    for one box, the one of the highest score; the others and those of the last three kinds are removed) or the missed
    boxes are not to be found, minus the present one.
    """
    truth, predictions = judged.truth, judged.predictions
    iou = judged.ious[0]
    hit, counts = judged.hit[0], judged.counts[0]
    wrong = counts & ~hit
    pairs = overlaps(truth, predictions, least=_NEAR, any_class=True)
    pairs = pairs.where(judged.countable[pairs.box] & wrong[pairs.detection])
    own = truth.labels[pairs.box] == predictions.labels[pairs.detection]
    same_iou, same_box = _best(pairs.where(own), len(wrong))
    other_iou, other_box = _best(pairs.where(~own), len(wrong))
    conditions = [
        (same_iou >= _NEAR) & (same_iou < iou),
        other_iou >= iou,
        same_iou >= iou,
        np.maximum(same_iou, other_iou) < _NEAR,
    ]
    names = list(KINDS)
    kind = np.select(
        conditions, [names.index(k) for k in ("place", "class", "double", "background")], names.index("both")
    )
    kind[~wrong] = -1

    found = np.zeros(len(truth.boxes), bool)
    found[judged.box[0][hit]] = True
    correctable = np.isin(kind, [names.index("place"), names.index("class")])
    target = np.where(kind == names.index("place"), same_box, other_box)
    corrected = _first_of_each(np.where(correctable & ~np.append(found, True)[target], target, -1))
    missed = judged.countable & ~found
    missed[target[corrected]] = False

    numbers = {name: int((kind == i).sum()) for i, name in enumerate(names)} | {"missed": int(missed.sum())}
    measured = np.isin(np.arange(len(truth.classes)), truth.labels[judged.countable])
    ap = _ap(judged, measured)
    gains = {}
    for i, name in enumerate(names):
        if name == "missed":
            fixed = replace(judged, countable=judged.countable & ~missed)
        else:
            right = corrected & (kind == i)
            labels = predictions.labels.copy()
            labels[right] = truth.labels[target[right]]
            fixed = replace(
                judged,
                predictions=replace(predictions, labels=labels),
                hit=(hit | right)[None],
                counts=(counts & ~((kind == i) & ~right))[None],
            )
        gains[name] = _ap(fixed, measured) - ap
    return Errors(numbers, gains, kind, missed, ap)


def _ap(judged: Judged, measured: NDArray[np.bool_]) -> float:
    """Return the mean over the classes (C,) measured; one with detections but no box to find counts 0, as in TIDE."""
    per_class = weighted_precision(judged, np.ones(len(judged.truth.image_ids)), "101")[0]
    detected = np.isin(np.arange(len(per_class)), judged.predictions.labels[judged.counts[0]])
    per_class[np.isnan(per_class) & detected] = 0
    return mean_of_classes(per_class[measured])


def _best(pairs: Pairs, detections: int) -> tuple[Floats, Ints]:
    """Return (K,) the highest IoU of each detection, 0 without a pair, and (K,) its box, -1 without."""
    order = np.lexsort((-pairs.iou, pairs.detection))
    first = order[np.flatnonzero(np.diff(pairs.detection[order], prepend=-1))]
    iou, box = np.zeros(detections), np.full(detections, -1)
    iou[pairs.detection[first]], box[pairs.detection[first]] = pairs.iou[first], pairs.box[first]
    return iou, box


def _first_of_each(target: Ints) -> NDArray[np.bool_]:
    """Return (K,), true at the first of each value that is not -1."""
    values, first = np.unique(target, return_index=True)
    is_first = np.zeros(len(target), bool)
    is_first[first[values >= 0]] = True
    return is_first


def recall_by_group(judged: Judged, conf: float = 0.0) -> dict[str, dict[str, tuple[int, int]]]:
    """Count how many boxes are found at the first IoU threshold, by size, shape and crowding.

    Returns:
        {group: {range: (found, boxes)}}.
    """
    truth = judged.truth
    found = np.zeros(len(truth.boxes), bool)
    found[judged.box[0][judged.hit[0] & (judged.predictions.scores >= conf)]] = True
    sides = truth.boxes[:, 2:] - truth.boxes[:, :2]
    ratio = np.divide(sides[:, 0], sides[:, 1], out=np.ones(len(sides)), where=sides[:, 1] > 0)
    in_image = np.bincount(truth.image, minlength=len(truth.image_ids))[truth.image]
    groups = {
        "size (pixels)": (np.sqrt(truth.areas), (16, 32, 64, 96, 192)),
        "width / height": (ratio, (1 / 3, 1 / 2, 1 / 1.25, 1.25, 2, 3)),
        "boxes in the image": (in_image, (2, 6, 21, 101)),
    }
    result = {}
    for name, (values, edges) in groups.items():
        cell = np.digitize(values, edges)
        words = [
            f"below {edges[0]:.3g}",
            *(f"{a:.3g} to {b:.3g}" for a, b in itertools.pairwise(edges)),
            f"{edges[-1]:.3g} or more",
        ]
        result[name] = {
            word: (int((found & judged.countable & (cell == i)).sum()), int((judged.countable & (cell == i)).sum()))
            for i, word in enumerate(words)
            if (judged.countable & (cell == i)).any()
        }
    return result


def worst_images(judged: Judged, conf: float, most: int = 20) -> list[tuple[int, int, int]]:
    """Return (row, false positives, missed boxes) of the images with the most errors at a score threshold."""
    truth, predictions = judged.truth, judged.predictions
    shown = predictions.scores >= conf
    false = np.bincount(predictions.image[shown & judged.counts[0] & ~judged.hit[0]], minlength=len(truth.image_ids))
    found = np.zeros(len(truth.boxes), bool)
    found[judged.box[0][shown & judged.hit[0]]] = True
    missed = np.bincount(truth.image[judged.countable & ~found], minlength=len(truth.image_ids))
    order = np.argsort(-(false + missed), kind="stable")[:most]
    return [(int(i), int(false[i]), int(missed[i])) for i in order if false[i] + missed[i]]
