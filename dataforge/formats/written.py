"""What writers share: records as files state them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from dataforge.files import new_folder
from dataforge.formats.pictures import put_picture
from dataforge.record import Boxes, Record, Source

T = TypeVar("T")


def xywh_of(boxes: Boxes) -> list[list[float]]:
    """Return x, y, width and height of boxes (n, 4), from which their float32 edges are restored."""
    xyxy = boxes.astype(np.float64)
    return np.concatenate([xyxy[:, :2], xyxy[:, 2:] - xyxy[:, :2]], 1).tolist()


def fitting_rings(record: Record) -> list[list[NDArray[np.float64]]]:
    """Return the rings (k, 2) of each box's polygon; none where it has another hull.

    For formats that state polygons instead of boxes: those are read back as the hull.
    """
    if record.polygons is None:
        return [[] for _ in record.boxes]
    shapes = zip(record.polygons.lists(), record.polygons.fit(record.boxes, record.height, record.width), strict=True)
    return [[ring.astype(np.float64) for ring in rings] if fits else [] for rings, fits in shapes]


def single_rings(record: Record) -> list[list[float] | None]:
    """Return x, y, x, y, ... of `fitting_rings`; None where there is none, or several."""
    return [rings[0].reshape(-1).tolist() if len(rings) == 1 else None for rings in fitting_rings(record)]


def put_rows(source: Source, root: Path, row: Callable[[Record], T], folder: str = "{}") -> dict[str, list[T]]:
    """Write all images to `folder` in a new folder, and return what `row` makes of each record, by split.

    Args:
        folder: {} stands for the split.

    Raises:
        FormatError: `root` is not empty, or an image cannot be read or written.
    """
    new_folder(root)
    rows: dict[str, list[T]] = {}
    for record in source.records:
        if isinstance(record, Record):
            put_picture(record, root / folder.format(record.split))
            rows.setdefault(record.split, []).append(row(record))
    return rows
