"""Shapes in which images of different aspect ratios are batched. No image is opened."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dataforge.errors import ConfigError
from dataforge.shards.table import Table

Shape = tuple[int, int]

AUTO = 4  # shapes that `auto_shapes` picks


def shapes_of(size: Shape | None, buckets: Sequence[Shape] | str | None, table: Table) -> list[Shape]:
    """Return the shapes of a loader's batches, for its `size` and `buckets`.

    Raises:
        ConfigError: neither is given, or one is not (height, width) of at least 1 pixel.
    """
    if size is None and (buckets is None or isinstance(buckets, str)):
        raise ConfigError("size is None and no buckets are given; expected exactly one of them")
    wanted: Any = [size] if buckets is None or buckets == "auto" else buckets
    try:
        shapes = [(int(h), int(w)) for h, w in wanted]
    except (TypeError, ValueError):
        shapes = []
    if not shapes or min(min(shape) for shape in shapes) < 1:
        raise ConfigError(
            f"size or buckets {wanted!r}; expected (height, width), each of at least 1 pixel, or buckets 'auto'"
        )
    return auto_shapes(table.height, table.width, shapes[0][0] * shapes[0][1]) if buckets == "auto" else shapes


def bucket(height: NDArray[np.int32], width: NDArray[np.int32], shapes: Sequence[Shape]) -> NDArray[np.int64]:
    """Return for each image the shape whose aspect ratio is nearest (by the ratio of ratios): letterboxed in it, the
    image leaves the smallest share of the shape empty.

    Args:
        height, width: (N,) pixels.

    Returns:
        (N,) indices into `shapes`.
    """
    if len(shapes) == 1:
        return np.zeros(len(height), np.int64)
    image = np.log(width / height)
    return np.abs(image[:, None] - np.log([w / h for h, w in shapes])).argmin(1)


def merge_small(buckets: NDArray[np.int64], shapes: Sequence[Shape], least: Sequence[int]) -> None:
    """Move the images of buckets that contain too few to the next nearest non-empty bucket, in place.

    Args:
        buckets: (N,) as returned by `bucket`.
        least: minimum number of images of a bucket, if it is not the only one.
    """
    ratio = np.log([w / h for h, w in shapes])
    while True:
        counts = np.bincount(buckets, minlength=len(shapes))
        small = np.flatnonzero((counts > 0) & (counts < least))
        if not len(small) or (counts > 0).sum() == 1:
            return
        distance = np.where(counts > 0, np.abs(ratio - ratio[small[0]]), np.inf)
        distance[small[0]] = np.inf
        buckets[buckets == small[0]] = distance.argmin()


def auto_shapes(
    height: NDArray[np.int32], width: NDArray[np.int32], area: int, count: int = AUTO, multiple: int = 32
) -> list[Shape]:
    """Pick the shapes in which letterboxed images leave the least empty: exactly, by dynamic programming over ratios.

    Args:
        height, width: (N,) pixels.
        area: maximum number of pixels of a shape, which bounds memory.
        count: maximum number of shapes.
        multiple: sides are multiples of it. Shapes that would waste a fifth of the area by that are not candidates.

    Returns:
        At most `count` (height, width), from tall to wide.

    Raises:
        ConfigError: no image, or no shape has such sides within the area.
    """
    sides = [(area // w // multiple * multiple, w) for w in range(multiple, area // multiple + 1, multiple)]
    largest = max((h * w for h, w in sides), default=0)
    if not len(height) or not largest:
        raise ConfigError(
            f"buckets 'auto': {len(height)} images, {area} pixels; expected one and {multiple}x{multiple}"
        )
    shapes = sorted(((h, w) for h, w in sides if h * w >= 0.8 * largest), key=lambda shape: shape[1] / shape[0])
    ratio = np.log([w / h for h, w in shapes])
    image, images = np.unique(np.log(width / height).round(3), return_counts=True)
    # an image letterboxed in a shape of another ratio fills the smaller ratio of the two
    waste = images * (1 - np.exp(-np.abs(image - ratio[:, None])))
    below = np.searchsorted(image, ratio, "right")  # (C,) images that are no wider than a shape
    between = np.full((len(shapes), len(shapes)), np.inf)  # waste of the images between two chosen shapes
    for i in range(len(shapes)):
        for k in range(i + 1, len(shapes)):
            part = slice(below[i], below[k])
            between[i, k] = np.minimum(waste[i, part], waste[k, part]).sum()
    best = np.array([waste[k, : below[k]].sum() for k in range(len(shapes))])  # with k as the widest shape so far
    rest = np.array([waste[k, below[k] :].sum() for k in range(len(shapes))])
    chosen = [[k] for k in range(len(shapes))]
    total, best_shapes = np.inf, chosen[0]
    for _ in range(count):
        k = int((best + rest).argmin())
        if best[k] + rest[k] < total:
            total, best_shapes = float(best[k] + rest[k]), chosen[k]
        step = best[:, None] + between
        before = step.argmin(0)
        best, chosen = step.min(0), [[*chosen[before[k]], k] for k in range(len(shapes))]
    return [shapes[k] for k in best_shapes]
