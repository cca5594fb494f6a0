"""Legend: n detections, t tiles.

Detection in overlapping tiles of an image, merged in its pixels. torch is not imported.

Every detection has a view: its tile, or the whole image. It is a fragment if it ends at a border of its tile inside the
image. What is seen twice is found once, in three steps:

1. A fragment is dropped if another tile contains it farther from its borders: that tile shows more of the object. An
   object no larger than the overlap therefore leaves no fragment, since some tile contains all of it.
2. Fragments of one class in neighbouring tiles that agree on the part of the image that both tiles show are pieces of
   one object, and become the box around them. A fragment that agrees with a complete detection there is dropped.
3. The rest is merged per class: NMS keeps the box with the best score, weighted boxes fusion (Solovyev et al., 2021)
   its mean with the boxes that overlap it, weighted by their scores.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise

import cv2
import numpy as np
from numpy.typing import NDArray

from dataforge.images.draw import Pixels
from dataforge.images.tiles import windows
from dataforge.transform.similar import components
from trainers.results.exported import Boxes
from trainers.results.tiling import Tiling

MARGIN = 1 / 64  # of a tile's side: a box that ends as near to the border may be cut by it
AGREE = 0.5  # IoU of two detections in the part of the image that both views show
PAIRS = 1 << 22  # candidates that are compared at a time
STRIP = 256  # rows of that view that are computed at a time
VIEW = 4096  # pixels of the longer side of the whole image, as the detector or a person gets to see it
Numbers = NDArray[np.float64]
Detect = Callable[[Sequence[Pixels]], list[Boxes]]


def detect_tiled(detect: Detect, pixels: Pixels, tiling: Tiling, iou: float) -> Boxes:
    """Detect in the tiles of an image, and merge.

    Args:
        detect: images (H, W, 3) -> for each: boxes (k, 4) xyxy in its pixels, scores (k,), labels (k,).
        pixels: (height, width, 3) RGB.
        iou: the overlap from which on two boxes of a class are merged.

    Returns:
        Boxes (n, 4) in pixels of the image, scores (n,), best first, labels (n,).
    """
    height, width = pixels.shape[:2]
    tiles = windows(height, width, tiling.side, tiling.overlap)
    if len(tiles) == 1:
        return detect([pixels])[0]
    views, own, found = [], [], []
    for first in range(0, len(tiles), tiling.batch):
        part = tiles[first : first + tiling.batch]
        crops = [np.ascontiguousarray(pixels[y1:y2, x1:x2]) for x1, y1, x2, y2 in part.tolist()]
        for tile, (boxes, scores, labels) in zip(part, detect(crops), strict=True):
            boxes = boxes + tile[[0, 1, 0, 1]]
            depth = _depth(boxes, tile[None], height, width)[:, 0]
            others = tiles[(tiles[:, :2] < tile[2:]).all(1) & (tiles[:, 2:] > tile[:2]).all(1)]
            deeper = (_depth(boxes, others, height, width) > depth[:, None]).any(1)
            kept = (depth > MARGIN * tiling.side) | ~deeper
            views.append(np.tile(tile, (int(kept.sum()), 1)))
            own.append(depth[kept] <= MARGIN * tiling.side)
            found.append((boxes[kept], scores[kept], labels[kept]))
    if tiling.whole:
        view, scale = overview(pixels)
        boxes, scores, labels = detect([view])[0]
        views.append(np.tile([0, 0, width, height], (len(boxes), 1)))
        own.append(np.zeros(len(boxes), bool))
        found.append((boxes / scale[[0, 1, 0, 1]], scores, labels))
    boxes, scores, labels = (np.concatenate(column) for column in zip(*found, strict=True))
    joined = _join(boxes, scores, labels, np.concatenate(views), np.concatenate(own))
    return merge(*joined, iou, fuse=tiling.merge == "wbf")


def overview(pixels: Pixels) -> tuple[Pixels, Numbers]:
    """Return an image shrunk to a longer side of `VIEW` pixels, if it is larger, and the factors (x, y)."""
    size = np.array([pixels.shape[1], pixels.shape[0]])
    if size.max() <= VIEW:
        return pixels, np.ones(2)
    small = np.maximum(np.rint(size * (VIEW / size.max())).astype(int), 1)
    edges = np.linspace(0, small[1], -(-small[1] // STRIP) + 1).astype(int)
    rows = np.rint(edges * (size[1] / small[1])).astype(int)
    strips = [  # of a rotated image, OpenCV copies what it is given
        cv2.resize(np.ascontiguousarray(pixels[y1:y2]), (int(small[0]), int(b - a)), interpolation=cv2.INTER_AREA)
        for (y1, y2), (a, b) in zip(pairwise(rows), pairwise(edges), strict=True)
    ]
    return np.concatenate(strips), small / size


def merge(boxes: Numbers, scores: Numbers, labels: NDArray[np.int64], iou: float, *, fuse: bool) -> Boxes:
    """Merge boxes (n, 4) of each class that overlap by more than `iou`: by NMS, or by weighted boxes fusion (`fuse`).

    A merged box has the best score of its members.
    """
    order = np.argsort(-scores, kind="stable")
    boxes, scores, labels = boxes[order], scores[order], labels[order]
    pairs = np.sort(_meeting(boxes, labels), axis=1)
    pairs = pairs[np.argsort(pairs[:, 1], kind="stable")]
    first = np.searchsorted(pairs[:, 1], np.arange(len(boxes) + 1)).tolist()
    leader, merged, weight = np.arange(len(boxes)), boxes.copy(), np.maximum(scores, 1e-12)
    for n in range(len(boxes)):
        near = leader[pairs[first[n] : first[n + 1], 0]]
        overlap = _iou(boxes[n], merged[near])
        if not len(near) or overlap.max() <= iou:
            continue
        k = leader[n] = near[overlap.argmax()]
        if fuse:
            weight[k] += weight[n]
            merged[k] += (boxes[n] - merged[k]) * (weight[n] / weight[k])
    kept = leader == np.arange(len(boxes))
    return merged[kept], scores[kept], labels[kept]


def _depth(boxes: Numbers, tiles: NDArray[np.int64], height: int, width: int) -> Numbers:
    """Return (n, t) how far boxes (n, 4) are inside the borders of tiles (t, 4) that lie in the image; inf if there are
    none, negative for boxes that extend beyond the tile."""
    inner = np.concatenate([tiles[:, :2] > 0, tiles[:, 2:] < [width, height]], 1)
    gap = np.concatenate([boxes[:, None, :2] - tiles[:, :2], tiles[:, 2:] - boxes[:, None, 2:]], 2)
    return np.where(inner, gap, np.inf).min(2)


def _join(
    boxes: Numbers, scores: Numbers, labels: NDArray[np.int64], views: NDArray[np.int64], fragment: NDArray[np.bool_]
) -> Boxes:
    """Join fragments of one object, and drop those of a complete detection.

    Args:
        views: (n, 4) the tile of each; fragment: (n,).
    """
    pairs = _meeting(boxes, labels)
    pairs = pairs[fragment[pairs].any(1) & (views[pairs[:, 0]] != views[pairs[:, 1]]).any(1)]
    shared = _common(views[pairs[:, 0]], views[pairs[:, 1]])
    parts = [_common(boxes[side], shared) for side in pairs.T]
    pairs = pairs[_iou(*parts) >= AGREE]
    both = fragment[pairs].all(1)
    complete = pairs[~both]
    alive = np.ones(len(boxes), bool)
    alive[complete[fragment[complete]]] = False
    group = np.unique(components(len(boxes), pairs[both & alive[pairs].all(1)])[alive], return_inverse=True)[1]
    count = int(group.max(initial=-1)) + 1
    low, high, best = np.full((count, 2), np.inf), np.zeros((count, 2)), np.zeros(count)
    np.minimum.at(low, group, boxes[alive, :2])
    np.maximum.at(high, group, boxes[alive, 2:])
    np.maximum.at(best, group, scores[alive])
    label = np.zeros(count, np.int64)
    label[group] = labels[alive]
    return np.concatenate([low, high], 1), best, label


def _common(first: Numbers, second: Numbers) -> Numbers:
    """Return the intersections (n, 4) of boxes, inverted where there is none."""
    return np.concatenate([np.maximum(first[:, :2], second[:, :2]), np.minimum(first[:, 2:], second[:, 2:])], 1)


def _areas(boxes: Numbers) -> Numbers:
    return (boxes[..., 2:] - boxes[..., :2]).clip(0).prod(-1)


def _iou(first: Numbers, second: Numbers) -> Numbers:
    first, second = np.broadcast_arrays(first, second)
    shared = _areas(_common(first, second))
    return shared / np.maximum(_areas(first) + _areas(second) - shared, 1e-12)


def _meeting(boxes: Numbers, labels: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the pairs (p, 2) of boxes of one class that have an area in common."""
    return np.concatenate([np.zeros((0, 2), np.int64), *_sweep(boxes, labels)])


def _sweep(boxes: Numbers, labels: NDArray[np.int64]) -> Iterator[NDArray[np.int64]]:
    """Yield the pairs of `_meeting`: along x, with the classes side by side, a box is compared with those that begin
    before it ends."""
    x = boxes[:, [0, 2]] + labels[:, None] * (boxes[:, 2].max(initial=0) + 1)
    order = np.argsort(x[:, 0], kind="stable")
    start, (top, bottom) = x[order, 0], boxes[order][:, [1, 3]].T
    counts = np.maximum(np.searchsorted(start, x[order, 1]) - np.arange(1, len(order) + 1), 0)
    chunk = np.cumsum(counts) // PAIRS
    for rows in np.split(np.arange(len(order)), np.flatnonzero(np.diff(chunk)) + 1):
        first = np.repeat(rows, counts[rows])
        second = first + 1 + np.arange(len(first)) - np.repeat(np.cumsum(counts[rows]) - counts[rows], counts[rows])
        meet = (top[first] < bottom[second]) & (top[second] < bottom[first])
        yield order[np.stack([first[meet], second[meet]], 1)]
