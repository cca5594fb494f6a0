"""Pairing of the images and boxes of two sets. The result does not depend on the order of the two sets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Rows = NDArray[np.int64]
Pairs = NDArray[np.int64]  # (n, 2): an index into the first set, an index into the second
Image = tuple[str, str, int, int]  # split, key, CRC-32 and size of its bytes


def pair_images(one: Sequence[Image], other: Sequence[Image]) -> Pairs:
    """Pair images by split and key, then the remaining ones by equal bytes, whatever their split and name."""
    pairs: list[tuple[int, int]] = []
    left, right = list(range(len(one))), list(range(len(other)))
    # the same bytes may occur several times: images with the same key or split are paired first
    for columns in ((0, 1), (1, 2, 3), (0, 2, 3), (2, 3)):
        waiting: dict[tuple[object, ...], list[int]] = {}
        for j in sorted(right, key=other.__getitem__, reverse=True):
            waiting.setdefault(tuple(other[j][c] for c in columns), []).append(j)
        matched = []
        for i in sorted(left, key=one.__getitem__):
            equal = waiting.get(tuple(one[i][c] for c in columns))
            if equal:
                matched.append((i, equal.pop()))
        pairs += matched
        used, used_right = {i for i, _ in matched}, {j for _, j in matched}
        left = [i for i in left if i not in used]
        right = [j for j in right if j not in used_right]
        if not left or not right:
            break
    return np.array(sorted(pairs), np.int64).reshape(-1, 2)


@dataclass(frozen=True)
class Objects:
    """Boxes of one set; those of record i are `offsets[i]:offsets[i + 1]`. Labels refer to the same classes in both."""

    offsets: NDArray[np.int64]
    boxes: NDArray[np.float32]
    labels: Rows
    flags: NDArray[np.uint8]

    def rows(self, images: Rows) -> tuple[Rows, Rows]:
        """Return, for each box of the given records in order, the position of its image in `images` and its row."""
        counts = self.offsets[images + 1] - self.offsets[images]
        place = np.repeat(np.arange(len(images)), counts)
        return place, np.arange(len(place)) + (self.offsets[images] - np.cumsum(counts) + counts)[place]

    def content(self, place: Rows, rows: Rows) -> NDArray[np.int64]:
        """Return (n, 7): position of the image, bits of the 4 coordinates, label and flags of each box."""
        bits = (self.boxes[rows] + 0.0).view(np.int32)  # + 0.0 turns -0.0 into 0.0
        return np.column_stack([place, bits, self.labels[rows], self.flags[rows]])


def pair_boxes(one: Objects, other: Objects, images: Pairs, iou: float) -> Pairs:
    """Pair the boxes of paired images one to one: first identical boxes, then boxes that differ only in flags, then
    only in flags and label, then by the greatest overlap.

    Args:
        images: (P, 2) pairs of record numbers.
        iou: boxes with a smaller overlap are not paired.

    Returns:
        (Q, 2) pairs of rows, sorted by the first column.
    """
    equal, others = _as_they_stand(one, other, images)
    pairs = [equal]
    (place, left), (place_right, right) = one.rows(others[:, 0]), other.rows(others[:, 1])
    content, content_right = one.content(place, left), other.content(place_right, right)
    for columns in (7, 6, 5):  # equal coordinates, for all images at once
        i, j = _equal_rows(content, content_right, columns)
        pairs.append(np.column_stack([left[i], right[j]]))
        content, left = np.delete(content, i, 0), np.delete(left, i)
        content_right, right = np.delete(content_right, j, 0), np.delete(right, j)
    both = np.intersect1d(content[:, 0], content_right[:, 0])
    starts = [np.searchsorted(rows[:, 0], [both, both + 1]).T.tolist() for rows in (content, content_right)]
    for (a1, a2), (b1, b2) in zip(*starts, strict=True):
        a, b = left[a1:a2], right[b1:b2]
        chosen = _overlapping(one.boxes[a], other.boxes[b], content[a1:a2, 5:], content_right[b1:b2, 5:], iou)
        pairs.append(np.column_stack([a[chosen[0]], b[chosen[1]]]))
    paired = np.concatenate(pairs)
    return paired[np.argsort(paired[:, 0])]


def _as_they_stand(one: Objects, other: Objects, images: Pairs) -> tuple[Pairs, Pairs]:
    """Return the pairs of boxes of images with identical boxes in the same order, and the remaining pairs of images.

    In most comparisons, this covers nearly all images.
    """
    as_many = np.diff(one.offsets)[images[:, 0]] == np.diff(other.offsets)[images[:, 1]]
    (place, left), (_, right) = one.rows(images[as_many, 0]), other.rows(images[as_many, 1])
    same = (one.boxes[left] == other.boxes[right]).all(1)
    same &= (one.labels[left] == other.labels[right]) & (one.flags[left] == other.flags[right])
    differs = np.bincount(place[~same], minlength=int(as_many.sum())) > 0
    kept = ~differs[place]
    close = np.concatenate([images[~as_many], images[as_many][differs]])
    return np.column_stack([left[kept], right[kept]]), close


def _equal_rows(one: NDArray[np.int64], other: NDArray[np.int64], columns: int) -> tuple[Rows, Rows]:
    """Return indices of pairs of rows whose first `columns` columns are equal. Rows that occur several times are
    sorted by the other columns, and paired in that order.
    """
    if not len(one) or not len(other):
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    rows = np.concatenate([one, other])
    second = np.arange(len(rows)) >= len(one)
    keys = [*rows.T[: columns - 1 : -1], second, *rows.T[columns - 1 :: -1]]  # of equal rows, those of `one` first
    order = np.lexsort(keys)
    rows = rows[order, :columns]
    starts = np.flatnonzero(np.concatenate([[True], (rows[1:] != rows[:-1]).any(1)]))
    own = np.add.reduceat((order < len(one)).astype(np.int64), starts)  # rows of `one` in each group of equal rows
    both = np.minimum(own, np.diff([*starts, len(rows)]) - own)
    group = np.repeat(np.arange(len(starts)), both)
    first = starts[group] + np.arange(len(group)) - (np.cumsum(both) - both)[group]
    return order[first], order[first + own[group]] - len(one)


def _overlapping(
    one: NDArray[np.float32],
    other: NDArray[np.float32],
    content: NDArray[np.int64],
    content_right: NDArray[np.int64],
    least: float,
) -> tuple[list[int], list[int]]:
    """Pair boxes (n, 4) and (m, 4) of an image, the greatest overlap first; among equal overlaps, equal labels first.

    Args:
        content, content_right: (n, 2) and (m, 2) label and flags.
    """
    a, b = one.astype(np.float64), other.astype(np.float64)
    low, high = np.maximum(a[:, None, :2], b[None, :, :2]), np.minimum(a[:, None, 2:], b[None, :, 2:])
    shared = (high - low).clip(min=0).prod(-1)
    areas, areas_right = (a[:, 2:] - a[:, :2]).prod(1), (b[:, 2:] - b[:, :2]).prod(1)
    overlap = shared / np.maximum(areas[:, None] + areas_right[None] - shared, 1e-9)
    i, j = np.nonzero((overlap >= least) & (shared > 0))
    # no content occurs on both sides, so breaking ties by its rank does not depend on the order of the sides
    everything = np.concatenate([np.column_stack([a, content]), np.column_stack([b, content_right])])
    rank = np.lexsort(everything.T).argsort()
    x, y = rank[i], rank[len(a) + j]
    order = np.lexsort([np.maximum(x, y), np.minimum(x, y), content[i, 0] != content_right[j, 0], -overlap[i, j]])
    chosen: tuple[list[int], list[int]] = [], []
    used, used_right = set(), set()
    for m, n in zip(i[order].tolist(), j[order].tolist(), strict=True):
        if m not in used and n not in used_right:
            used.add(m)
            used_right.add(n)
            chosen[0].append(m)
            chosen[1].append(n)
    return chosen
