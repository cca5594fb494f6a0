"""Detection of similar images: the same image at another size, quality or brightness, or consecutive video frames.

An image's hash is 64 bits; the fewer bits of two hashes differ, the more similar the images. For 306 photographs,
microscope images and circuit boards (coco_mini, coco128, bccd, deeppcb), the same image was within 2 bits at JPEG
quality 30, within 6 at half its size (all but one within 4), and within 5 when 10 % brighter. With 1 % cropped from
each edge, 93 % were within 4 bits, with 2 % 61 %, with 5 % almost none. Different images of these sets were at least
13 bits apart. A hash ignores colours and small details: video frames in which only a small object moves count as
similar. Flipped or rotated images do not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from dataforge.images.hashing import FLAT, hash_of, reduction
from dataforge.shards.reader import Shards
from dataforge.shards.table import Table
from dataforge.threads import cores, ordered

MAX_DISTANCE = 4  # at 5 bits or more, images of different objects on plain ground (fod_a) are matched too often
MANY_BITS = 9  # from here on, comparing all pairs costs less than searching this many bands
BLOCK = 64  # number of hashes then compared with all others at a time

Hashes = NDArray[np.uint64]


def hashes(
    shards: Shards,
    rows: NDArray[np.int64] | None = None,
    threads: int | None = None,
    progress: Callable[[int], None] | None = None,
) -> Hashes:
    """Return (N,) the hashes of the images of some records, by default of all.

    Args:
        rows: (N,) record numbers.
        threads: one per core by default.
        progress: called after each image with the number of images processed.

    Raises:
        DataError: an image is damaged.
    """
    table = shards.table

    def one(i: int) -> int:
        return hash_of(shards.pixels(i, reduction(int(table.height[i]), int(table.width[i]))))

    index = range(len(shards)) if rows is None else rows.tolist()
    hashed = np.zeros(len(index), np.uint64)
    for n, hashed[n] in enumerate(ordered(one, index, threads or cores())):
        if progress:
            progress(n + 1)
    return hashed


def same_bytes(table: Table) -> NDArray[np.int64]:
    """Return (N,) numbers that are equal for images with identical files, by CRC-32 and size."""
    return np.unique(np.stack([table.crc, table.size], 1), axis=0, return_inverse=True)[1].astype(np.int64)


def groups(
    hashes: Hashes, max_distance: int = MAX_DISTANCE, exact: NDArray[np.integer] | None = None
) -> NDArray[np.int64]:
    """Return (N,) group numbers, equal for images that are similar, directly or through a chain of similar images.

    `FLAT` is similar to no hash, not even to itself: blank frames are grouped only by `exact`.

    Args:
        max_distance: maximum number of differing bits between two hashes.
        exact: (N,) equal for identical files.

    Returns:
        Group numbers 0, 1, ... in the order of their first images.
    """
    different, which = np.unique(hashes, return_inverse=True)
    first = np.arange(len(different))
    held: list[tuple[NDArray[np.int64], NDArray[np.int64]]] = []
    for a, b in _alike(different, max_distance):
        apart = first[a] != first[b]
        held.append((a[apart], b[apart]))
        if sum(len(ends) for ends, _ in held) > 1 << 16:
            first = _join(first, *map(np.concatenate, zip(*held, strict=True)))
            held.clear()
    for a, b in held:
        first = _join(first, a, b)
    flat = hashes == FLAT
    group = np.where(flat, len(different) + np.arange(len(hashes)), first[which])
    if exact is not None:
        # as a graph: an edge from each image's group to the first group that has the same file
        _, at, same = np.unique(exact, return_index=True, return_inverse=True)
        group = _join(np.arange(len(different) + len(hashes)), group, group[at[same]])[group]
    return _numbered(group)


def components(count: int, edges: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return (count,) component numbers of nodes: 0, 1, ... in the order of their first nodes.

    Args:
        edges: (E, 2) pairs of nodes.
    """
    return _numbered(_join(np.arange(count), edges[:, 0], edges[:, 1]))


def distance(one: Hashes | np.uint64, other: Hashes | np.uint64) -> NDArray[np.int64]:
    """Return the number of differing bits; 65, more than there are, if either hash is `FLAT`."""
    return np.where((one == FLAT) | (other == FLAT), 65, np.bitwise_count(one ^ other))


def _alike(hashes: Hashes, most: int) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Yield the indices of pairs of hashes that differ in at most `most` bits; some pairs may occur twice.

    Split into most + 1 bands, two such hashes have one band in common (Manku et al., WWW 2007, section 3), so only
    hashes that share a band are compared. Sorted by a band, these are neighbours: one array operation compares each
    with the one k places further, so that memory stays at a few numbers per hash.
    """
    rows = np.flatnonzero(hashes != FLAT)
    hashes = hashes[rows]
    if most >= MANY_BITS:
        for start in range(0, len(rows), BLOCK):
            block = hashes[start : start + BLOCK, None]
            a, b = np.nonzero(np.bitwise_count(block ^ hashes[start:]) <= most)
            yield rows[start + a], rows[start + b]
        return
    edges = np.linspace(0, 64, most + 2).astype(int).tolist()
    for low, high in pairwise(edges):
        band = hashes >> np.uint64(low) & np.uint64((1 << high - low) - 1)
        order = np.argsort(band, kind="stable")
        end = np.searchsorted(band[order], band[order], "right")
        place, step = np.arange(len(rows)), 1
        while len(place := place[place + step < end[place]]):
            a, b = order[place], order[place + step]
            near = np.bitwise_count(hashes[a] ^ hashes[b]) <= most
            yield rows[a[near]], rows[b[near]]
            step += 1


def _join(first: NDArray[np.int64], a: NDArray[np.int64], b: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return (n,) the first member of each node's connected component, after adding edges between `a` and `b`.

    Args:
        first: (n,) as returned; `np.arange(n)` for no edges.
    """
    first = first.copy()
    while True:
        low, high = np.minimum(first[a], first[b]), np.maximum(first[a], first[b])
        if (low == high).all():
            return first
        np.minimum.at(first, high, low)
        while (first != (further := first[first])).any():
            first = further


def _numbered(names: NDArray[np.int64]) -> NDArray[np.int64]:
    """Renumber names to 0, 1, ... in the order of first occurrence."""
    _, at, number = np.unique(names, return_index=True, return_inverse=True)
    return np.argsort(np.argsort(at))[number]
