"""Legend: K detections.

Comparison of an exported model with its checkpoint: one-to-one pairs of detections and permitted differences.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dataforge.images.draw import Pixels
from trainers.results.exported import Boxes


@dataclass(frozen=True)
class Tolerance:
    """Maximum differences between two detections of one object.

    Attributes:
        box: pixels of the source image, on any edge; score; map: of the mean average precisions.
        overlap: an IoU this close to the NMS threshold may be above or below it.
        sliver: pixels; rounding may remove thinner boxes.
    """

    box: float = 0.5
    score: float = 1e-3
    map: float = 1e-3
    overlap: float = 0.01
    sliver: float = 0.05


HALF = Tolerance(2.0, 2e-2, 1e-2, 0.05, 2.0)  # of networks in float16; pixels of their input


@dataclass(frozen=True)
class Comparison:
    """Comparison of two sets of detections on one image.

    Attributes:
        matched: number of pairs; excused: number of unpaired detections explained by a threshold.
        box, score: the largest difference in a pair, in pixels and in score.
        fault: description of the first unexplained difference; "" for none.
    """

    matched: int
    excused: int
    box: float
    score: float
    fault: str


def compare(
    expected: Boxes,
    actual: Boxes,
    *,
    conf: float,
    iou: float,
    top: int,
    tolerance: Tolerance | None = None,
    candidates: Boxes | None = None,
) -> Comparison:
    """Pair the detections of two runs, the nearest first.

    A pair has equal labels and both differences within the tolerance; the order is ignored, so that equal scores may
    be in any order. An unpaired detection is excused in four cases: its score is within the tolerance of `conf`; the
    other run has `top` detections and its last score is within the tolerance; it is a sliver; or NMS
    was ambiguous: in the other run a box of its class whose score is not lower overlaps it by `iou` +- its tolerance,
    or one of equal score, within the tolerance, by more; or one that is itself excused this way overlaps it by more. In
    the last case the exported model's box must be among `candidates`: NMS may select another box, but boxes may not
    move.

    Args:
        expected, actual: boxes (K, 4), scores (K,), labels (K,) each.
        candidates: PyTorch's boxes before NMS; without them no detection is excused by NMS.
    """
    tolerance = tolerance or Tolerance()
    gaps, steps, fits = _near(expected, actual, tolerance)
    rows, columns = np.nonzero(fits)
    cost = gaps[rows, columns] / tolerance.box + steps[rows, columns] / tolerance.score
    free = np.ones(len(expected[1]), bool), np.ones(len(actual[1]), bool)
    pairs = []
    for number in np.argsort(cost, kind="stable").tolist():
        row, column = rows[number], columns[number]
        if free[0][row] and free[1][column]:
            free[0][row] = free[1][column] = False
            pairs.append((row, column))
    paired = tuple(np.array(pairs, np.int64).reshape(-1, 2).T)

    both = (expected, actual)
    known = np.zeros(len(actual[1]), bool)
    if candidates is not None:
        known = np.asarray(_near(actual, candidates, tolerance)[2].any(1))
    lone = [(side, int(row)) for side in (0, 1) for row in np.flatnonzero(free[side])]
    lone.sort(key=lambda alone: -both[alone[0]][1][alone[1]])
    excused: list[tuple[int, int]] = []
    fault = ""
    for side, row in lone:
        own, other = both[side], both[1 - side]
        box, score, label = own[0][row], own[1][row], own[2][row]
        full = len(other[1]) >= top and score <= other[1].min() + tolerance.score
        thin = (box[2:] - box[:2]).min() < tolerance.sliver
        undecided = False
        if candidates is not None and (side == 0 or known[row]):
            near = (other[2] == label) & (other[1] >= score - tolerance.score)
            near = near & known if side == 0 else near
            shared, tied = overlaps(box, other[0]), other[1] <= score + tolerance.score
            doubtful = (np.abs(shared - iou) <= tolerance.overlap) | (tied & (shared > iou))
            undecided = bool((near & doubtful).any()) or any(
                both[s][2][r] == label and overlaps(box, both[s][0][r : r + 1])[0] >= iou - tolerance.overlap
                for s, r in excused
            )
        if score <= conf + tolerance.score or full or thin or undecided:
            excused.append((side, row))
        elif not fault:
            who = ("PyTorch alone finds", "the exported model alone finds")[side]
            fault = f"{who} class {label} at {np.round(box, 2).tolist()} with score {score:.4f}"
    worst = [float(values[paired].max()) if pairs else 0.0 for values in (gaps, steps)]
    return Comparison(len(pairs), len(excused), worst[0], worst[1], fault)


def _near(
    first: Boxes, second: Boxes, tolerance: Tolerance
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.bool_]]:
    """Return for all pairs (n, m) the largest edge difference, the score difference, and whether they match."""
    gaps = np.abs(first[0][:, None] - second[0]).max(2)
    steps = np.abs(first[1][:, None] - second[1])
    return gaps, steps, (first[2][:, None] == second[2]) & (gaps <= tolerance.box) & (steps <= tolerance.score)


def overlaps(box: NDArray[np.float64], boxes: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the IoU of one box (4,) with others (n, 4)."""
    low, high = np.maximum(box[:2], boxes[:, :2]), np.minimum(box[2:], boxes[:, 2:])
    shared = (high - low).clip(0).prod(1)
    union = (box[2:] - box[:2]).prod() + (boxes[:, 2:] - boxes[:, :2]).prod(1) - shared
    return shared / np.maximum(union, 1e-9)


def above(boxes: Boxes, conf: float) -> Boxes:
    """Return the boxes of at least this score. As NMS is greedy, this equals NMS with this threshold."""
    keep = boxes[1] >= conf
    return boxes[0][keep], boxes[1][keep], boxes[2][keep]


def awkward(pixels: Pixels) -> dict[str, Pixels]:
    """Make images of sizes that are difficult for exports, by name, from an image of the data set."""
    height, width = pixels.shape[:2]
    rows, columns = -(-30 // height), -(-2000 // width)
    strip = np.tile(pixels, (rows, columns, 1))[:30, :2000]
    scale = -(-4100 // max(height, width))
    grey = (pixels @ np.array([0.299, 0.587, 0.114])).round().clip(0, 255).astype(np.uint8)
    return {
        "1x1": pixels[height // 2, width // 2][None, None].copy(),
        "30x2000": np.ascontiguousarray(strip),
        "grey": np.repeat(grey[:, :, None], 3, 2),
        f"{height * scale}x{width * scale}": pixels.repeat(scale, 0).repeat(scale, 1),
    }


def spread(count: int, wanted: int) -> Sequence[int]:
    """Return `wanted` evenly spaced numbers below `count`, or all if there are fewer."""
    return sorted({int(i) for i in np.linspace(0, count - 1, min(count, wanted)).round()}) if count else []
