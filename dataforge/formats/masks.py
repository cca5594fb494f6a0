"""The boxes of masks in COCO's run-length encoding (pycocotools' maskApi.c), without drawing them."""

from __future__ import annotations

import msgspec
import numpy as np
from numpy.typing import NDArray


class Rle(msgspec.Struct, gc=False):
    """Lengths of runs of 0 and 1 in turn, column by column: numbers, or pycocotools' text. `size`: height, width."""

    counts: str | list[int]
    size: tuple[int, int]


def rle_hull(mask: Rle) -> tuple[float, float, float, float] | None:
    """Return the box of a mask: x1, y1, x2, y2 in pixels and edge coordinates; None if it is empty.

    Raises:
        ValueError: it is not such an encoding; the text says why.
    """
    height, width = mask.size
    lengths = _lengths(mask.counts) if isinstance(mask.counts, str) else np.array(mask.counts, np.int64)
    if min(height, width) < 1 or (lengths < 0).any() or lengths.sum() != height * width:
        raise ValueError(f"runs of {lengths.sum()} pixels in a mask of {width}x{height}")
    ends = np.cumsum(lengths)
    first, last = ends[:-1:2], ends[1::2] - 1
    first, last = first[last >= first], last[last >= first]
    if not len(first):
        return None
    whole = first // height < last // height  # runs over the end of a column contain its last and the next one's first
    top = 0 if whole.any() else (first % height).min()
    bottom = height if whole.any() else (last % height).max() + 1
    return float(first[0] // height), float(top), float(last[-1] // height + 1), float(bottom)


def _lengths(text: str) -> NDArray[np.int64]:
    """Decode pycocotools' text: 5 bits a character, the lowest first; from the fourth on, differences to two before."""
    codes = np.frombuffer(text.encode(), np.uint8).astype(np.int64) - 48
    if not len(codes) or codes.min() < 0 or codes.max() > 63 or codes[-1] & 32:
        raise ValueError("counts is not pycocotools' text")
    last = np.flatnonzero(codes & 32 == 0)
    start = np.append(0, last[:-1] + 1)
    place = np.arange(len(codes)) - np.repeat(start, last + 1 - start)
    if place.max() > 11:
        raise ValueError("a run of more than 60 bits")
    numbers = np.add.reduceat((codes & 31) << 5 * place, start)
    numbers -= np.where(codes[last] & 16, 1 << 5 * (place[last] + 1), 0)
    numbers[1::2] = np.cumsum(numbers[1::2])
    numbers[2::2] = np.cumsum(numbers[2::2])
    return numbers
