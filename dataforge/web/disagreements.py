"""Where a model and the boxes of an image disagree, as `static/review.js` lists it: how sure the surest of it is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from dataforge.analysis.detections import pair_iou
from dataforge.overlay.boxes import Box
from dataforge.record import CROWD

SAME = 0.5  # IoU from which a proposal and a box are one object
TIGHT = 0.75  # IoU below which a box is loose
APART = 0.1  # IoU below which no proposal meets a box


def surest(boxes: Sequence[Box], proposals: Sequence[dict[str, Any]]) -> float | None:
    """Return the highest score of a proposal that is no box, or one of another class or place.

    Returns:
        0 if there is none, but a box that no proposal meets; None where all agree.
    """
    ranked = sorted(proposals, key=lambda proposal: -proposal["score"])
    own = np.array([box.box for box in boxes], np.float64).reshape(-1, 4)
    theirs = np.array([proposal["box"] for proposal in ranked], np.float64).reshape(-1, 4)
    rows, columns = len(ranked), len(boxes)
    overlap = pair_iou(np.repeat(theirs, columns, 0), np.tile(own, (rows, 1))).reshape(rows, columns)
    labels = np.array([box.label for box in boxes], np.int64)
    alike = labels == np.array([proposal["label"] for proposal in ranked], np.int64)[:, None]
    free = np.ones(columns, bool)
    paired: dict[int, int] = {}
    for fits in (alike, np.ones_like(alike)):
        for i in range(rows):
            fitting = overlap[i] * (free & fits[i] & (overlap[i] >= SAME))
            if i not in paired and fitting.any():
                paired[i] = int(fitting.argmax())
                free[paired[i]] = False
    for i, proposal in enumerate(ranked):
        j = paired.get(i)  # a second proposal of a box has no partner, and is no mistake of the boxes
        agrees = alike[i] & (overlap[i] >= SAME)
        if not (agrees.any() if j is None else alike[i, j] and overlap[i, j] >= TIGHT):
            return float(proposal["score"])
    crowd = np.array([box.flags & CROWD > 0 for box in boxes], bool)
    extra = free & ~crowd & ~(overlap >= APART).any(0)
    return 0.0 if extra.any() else None
