"""Operations that combine several records in one picture. A picture is a list of parts, painted one over another.

Partners are drawn from the whole split by (seed, epoch, record), not from the batch. So a sample does not depend on the
other records of its batch; the cost is that its partners are decoded for it alone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray

from dataforge.augment.operations.geometry import Draw, Floats, Shape, Share, fit_matrix, scaled

Ints = NDArray[np.int64]


@dataclass
class Parts:
    """What pictures are made of, in the order of painting.

    Attributes:
        owner: (P,) the picture's row in the batch, ascending.
        record: (P,) the record that is painted.
        place: (P, 3, 3) from the record's own canvas to the picture.
        region: (P, 4) xyxy whole pixels of the picture that it fills.
        weight: (P,) how much it counts against what is there already; 1 covers it.
        boxed: (P,) -1, or for `copy_paste` a number that says which of the record's boxes is the region.
    """

    owner: Ints
    record: Ints
    place: Floats
    region: Ints
    weight: Floats
    boxed: Floats

    def add(self, owner: Ints, record: Ints, out: Shape, **given: Any) -> None:
        """Append parts to pictures of shape `out`; what is not given is as for a picture of one part."""
        new = single(record, out)
        new.owner = owner
        for name, value in given.items():
            setattr(new, name, value)
        for name, value in vars(new).items():
            setattr(self, name, np.concatenate([getattr(self, name), value]))

    def sort(self) -> None:
        """By owner, otherwise as they were added."""
        if (np.diff(self.owner) >= 0).all():
            return
        order = np.argsort(self.owner, kind="stable")
        for name, value in vars(self).items():
            setattr(self, name, value[order])


@dataclass(frozen=True)
class Partners:
    """What partners are drawn from: (N,) heights and widths of all records, and how they are fitted."""

    height: NDArray[np.int32]
    width: NDArray[np.int32]
    out: Shape
    fit: str

    def pick(self, u: Floats) -> Ints:
        """Record numbers from uniform numbers."""
        return (u * len(self.height)).astype(np.int64)


def single(record: Ints, out: Shape) -> Parts:
    """Pictures of one record each, over all of the canvas."""
    n = len(record)
    return Parts(
        owner=np.arange(n),
        record=record,
        place=np.tile(np.eye(3), (n, 1, 1)),
        region=np.tile(np.array([0, 0, out[1], out[0]]), (n, 1)),
        weight=np.ones(n),
        boxed=np.full(n, -1.0),
    )


def mosaic(
    draw: Draw, rows: Ints, parts: Parts, partners: Partners, *, side: Annotated[float, 2, 3] = 2.0, until: float = 0.0
) -> None:
    """Tiles of several records, 2 x 2 or 3 x 3, with drawn borders (YOLOv4, section 3.3).

    Args:
        side: tiles a side, 2 or 3.
        until: from this epoch on there is none; 0 for all epochs.
    """
    k = int(side)
    u = draw(2 * (k - 1) + 1 + 4 * k * k)[rows]
    n = len(rows)
    even = np.arange(1, k) / k
    cut = even + (2 * u[:, : 2 * (k - 1)].reshape(n, 2, k - 1) - 1) / (k * k)  # never on one another
    size = np.array([partners.out[1], partners.out[0]])
    cut = np.concatenate([np.zeros((n, 2, 1)), cut, np.ones((n, 2, 1))], 2)
    lines = np.round(cut * size[:, None]).astype(np.int64)
    own_tile = (u[:, 2 * (k - 1)] * k * k).astype(int)
    rest = u[:, 2 * (k - 1) + 1 :].reshape(n, k * k, 4)
    for tile in range(k * k):
        x, y = tile % k, tile // k
        region = np.stack([lines[:, 0, x], lines[:, 1, y], lines[:, 0, x + 1], lines[:, 1, y + 1]], 1)
        own = own_tile == tile
        record = np.where(own, parts.record[rows], partners.pick(rest[:, tile, 0]))
        place = _cover(record, region, rest[:, tile, 1:3], partners)
        parts.place[rows[own]], parts.region[rows[own]] = place[own], region[own]
        parts.add(rows[~own], record[~own], partners.out, place=place[~own], region=region[~own])


def _cover(record: Ints, region: Ints, u: Floats, partners: Partners) -> Floats:
    """Matrices that lay the fitted picture of each record over its region, as small as will fill it."""
    record = record % len(partners.height)
    height, width = partners.height[record], partners.width[record]
    fitted = fit_matrix(height, width, partners.out, partners.fit)
    low = fitted[:, :2, 2]
    size = np.stack([width, height], 1) * fitted[:, [0, 1], [0, 1]]
    wanted = region[:, 2:] - region[:, :2]
    factor = (wanted / size).max(1, keepdims=True)
    shift = region[:, :2] - factor * low - u * (factor * size - wanted)
    return scaled(factor[:, 0], factor[:, 0], shift[:, 0], shift[:, 1])


def cutmix(
    draw: Draw, rows: Ints, parts: Parts, partners: Partners, *, low: Share = 0.1, high: Share = 0.5, until: float = 0.0
) -> None:
    """Put a rectangle of another record over the picture (Yun et al., ICCV 2019).

    Args:
        low, high: its share of the picture.
        until: as for `mosaic`.
    """
    u = draw(4)[rows]
    side = np.sqrt(low + (high - low) * u[:, 1:2])
    corner = u[:, 2:] * (1 - side)
    region = np.concatenate([corner, corner + side], 1) * ([partners.out[1], partners.out[0]] * 2)
    parts.add(rows, partners.pick(u[:, 0]), partners.out, region=np.round(region).astype(np.int64))


def copy_paste(
    draw: Draw,
    rows: Ints,
    parts: Parts,
    partners: Partners,
    *,
    count: Annotated[float, 1, 20] = 3.0,
    until: float = 0.0,
) -> None:
    """Paste up to `count` boxes of another record, with the pixels in them, where they lie in that one.

    Args:
        until: as for `mosaic`.
    """
    u = draw(1 + int(count))[rows]
    for i in range(int(count)):
        parts.add(rows, partners.pick(u[:, 0]), partners.out, boxed=u[:, 1 + i])


def mixup(
    draw: Draw, rows: Ints, parts: Parts, partners: Partners, *, low: Share = 0.3, high: Share = 0.5, until: float = 0.0
) -> None:
    """Blend with another record (Zhang et al., ICLR 2018); both records' boxes count in full.

    Args:
        low, high: the other one's weight.
        until: as for `mosaic`.
    """
    u = draw(2)[rows]
    parts.add(rows, partners.pick(u[:, 0]), partners.out, weight=low + (high - low) * u[:, 1])


MIXERS: dict[str, Callable[..., None]] = {  # always in this order
    "mosaic": mosaic,
    "cutmix": cutmix,
    "copy_paste": copy_paste,
    "mixup": mixup,
}
