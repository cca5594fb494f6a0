"""Polygons of boxes: rings of points in pixels of the upright image, edge coordinates. Several rings are parts of one
object. A rotated box is a ring of its four corners."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

Offsets = NDArray[np.int64]
Ring = Sequence[Any] | NDArray[Any]  # x1, y1, x2, y2, ..., or pairs


@dataclass(frozen=True, eq=False)
class Polygons:
    """The polygons of n boxes, one after another. A box without a polygon has no ring.

    Attributes:
        points: (P, 2) float32 x, y.
        rings: (R + 1,) ring j has the points rings[j]:rings[j + 1].
        boxes: (n + 1,) box i has the rings boxes[i]:boxes[i + 1].
    """

    points: NDArray[np.float32]
    rings: Offsets
    boxes: Offsets

    @classmethod
    def of(cls, shapes: Iterable[Iterable[Ring]], scale: Ring = (1, 1)) -> Polygons:
        """Return the polygons of boxes that are given as lists of rings, x and y multiplied by `scale`.

        A ring of an odd number of coordinates becomes one point that is NaN, for `sound` to find.
        """
        rings: list[NDArray[np.float32]] = []
        counts = []
        for shape in shapes:
            before = len(rings)
            for ring in shape:
                with np.errstate(all="ignore"):
                    flat = np.asarray(ring, np.float64).reshape(-1)
                    pairs = flat.reshape(-1, 2) if len(flat) % 2 == 0 else np.full((1, 2), np.nan)
                    rings.append((pairs * scale).astype(np.float32))
            counts.append(len(rings) - before)
        points = np.concatenate([np.zeros((0, 2), np.float32), *rings])
        return cls(points, offsets_of([len(ring) for ring in rings]), offsets_of(counts))

    @classmethod
    def later(cls, make: Callable[[], Polygons]) -> Polygons:
        """Return polygons that are made when they are first used."""
        polygons = cls.__new__(cls)
        polygons.__dict__["_make"] = make
        return polygons

    def __getattr__(self, name: str) -> NDArray[Any]:
        if name not in ("points", "rings", "boxes"):
            raise AttributeError(name)
        self.__dict__.update(vars(self.__dict__["_make"]()))
        return self.__dict__[name]  # type: ignore[no-any-return]

    @classmethod
    def none(cls, count: int) -> Polygons:
        """Return those of `count` boxes without polygons."""
        return cls(np.zeros((0, 2), np.float32), np.zeros(1, np.int64), np.zeros(count + 1, np.int64))

    @classmethod
    def join(cls, parts: Iterable[Polygons]) -> Polygons:
        """Return the polygons of the boxes of all parts, one after another."""
        parts = [cls.none(0), *parts]
        rings = offsets_of(np.concatenate([np.diff(part.rings) for part in parts]))
        boxes = offsets_of(np.concatenate([np.diff(part.boxes) for part in parts]))
        return cls(np.concatenate([part.points for part in parts]), rings, boxes)

    def __bool__(self) -> bool:
        """Whether any box has a polygon."""
        return len(self.rings) > 1

    def hulls(self) -> NDArray[np.float32]:
        """Return the boxes (n, 4) around the polygons; inverted and infinite where there is none."""
        box = self.each_point(np.arange(len(self.boxes) - 1))
        low = np.full((len(self.boxes) - 1, 2), np.inf, np.float32)
        high = -low
        np.minimum.at(low, box, self.points)
        np.maximum.at(high, box, self.points)
        return np.concatenate([low, high], 1)

    def fit(self, boxes: NDArray[Any], height: NDArray[Any] | int, width: NDArray[Any] | int) -> NDArray[np.bool_]:
        """Return whether each polygon's hull, clipped to its image, is the box (n, 4), to half a pixel."""
        low, high = np.array(0.0), np.stack(np.broadcast_arrays(width, height, width, height), -1)
        return (np.abs(np.clip(self.hulls(), low, high) - boxes) <= 0.5).all(1)

    @property
    def counts(self) -> Offsets:
        """(n,) the number of rings of each box."""
        return np.diff(self.boxes)

    def take(self, index: NDArray[np.int64]) -> Polygons:
        """Return those of some boxes, in the order of `index` (m,); -1 stands for a box without a polygon."""
        ring, boxes = ranges(self.boxes, index)
        point, rings = ranges(self.rings, ring)
        return Polygons(self.points[point], rings, boxes)

    def part(self, start: int, stop: int) -> Polygons:
        """Return those of the boxes start:stop, faster than `take`."""
        boxes = self.boxes[start : stop + 1]
        rings = self.rings[boxes[0] : boxes[-1] + 1]
        return Polygons(self.points[rings[0] : rings[-1]], rings - rings[0], boxes - boxes[0])

    def lists(self) -> list[list[NDArray[np.float32]]]:
        """Return the rings (k, 2) of each box, as lists: the inverse of `of`."""
        rings = [self.points[a:b] for a, b in pairwise(self.rings.tolist())]
        return [rings[a:b] for a, b in pairwise(self.boxes.tolist())]

    def each_point(self, values: NDArray[Any]) -> NDArray[Any]:
        """Return (P, ...) for each point the value of its box, of (n, ...)."""
        return values[self._box_of_rings].repeat(np.diff(self.rings), axis=0)

    @property
    def _box_of_rings(self) -> Offsets:
        return np.repeat(np.arange(len(self.boxes) - 1), self.counts)

    def move(self, matrix: NDArray[np.floating]) -> Polygons:
        """Map the points of each box by its matrix (n, 3, 3); those behind the horizon of a projection become NaN."""
        x, y, w = np.moveaxis(self.each_point(matrix) @ np.insert(self.points, 2, 1, axis=1)[:, :, None], 1, 0)[..., 0]
        with np.errstate(all="ignore"):
            moved = np.where(w > 1e-9, np.stack([x, y]) / w, np.nan)
        return Polygons(moved.T.astype(np.float32), self.rings, self.boxes)

    def sound(self) -> NDArray[np.bool_]:
        """Return (R,) whether each ring has at least three points, all of them finite."""
        finite = offsets_of(np.isfinite(self.points[:, 0]) & np.isfinite(self.points[:, 1]))
        count = np.diff(self.rings)
        return (count >= 3) & (finite[self.rings[1:]] - finite[self.rings[:-1]] == count)

    def only(self, kept: NDArray[np.bool_]) -> Polygons:
        """Return those of the same boxes with some rings (R,) alone."""
        point, rings = ranges(self.rings, np.flatnonzero(kept))
        return Polygons(self.points[point], rings, offsets_of(kept)[self.boxes])

    def differ(self, other: Polygons) -> NDArray[np.bool_]:
        """Return (n,) whether each box has another polygon than the same box of `other`."""
        differs = self.counts != other.counts
        same = np.flatnonzero(~differs)
        a, b = self.take(same), other.take(same)
        ring = np.diff(a.rings) != np.diff(b.rings)
        differs[same[a._box_of_rings[ring]]] = True
        same = np.flatnonzero(~differs)
        a, b = self.take(same), other.take(same)
        differs[a.each_point(same)[(a.points != b.points).any(1)]] = True
        return differs


def offsets_of(counts: Sequence[int] | NDArray[Any]) -> Offsets:
    """Return (n + 1,) 0 and the sums of the first 1, 2, ..., n counts."""
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(counts, dtype=np.int64)])


def ranges(offsets: Offsets, index: NDArray[np.int64]) -> tuple[Offsets, Offsets]:
    """Return the rows offsets[i]:offsets[i + 1] of each i in `index` (n,), none for -1; and (n + 1,) their offsets."""
    first = offsets[index]
    counts = np.where(index < 0, 0, offsets[index + 1] - first)
    bounds = offsets_of(counts)
    return np.arange(bounds[-1]) + np.repeat(first - bounds[:-1], counts), bounds
