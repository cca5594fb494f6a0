"""Writer of Label Studio's JSON."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.parse import quote

import msgspec
import numpy as np

from dataforge.errors import FormatError
from dataforge.files import put_text
from dataforge.formats.written import put_rows, single_rings
from dataforge.record import Record, Source


def write(source: Source, root: Path) -> None:
    """Write `<split>/tasks.json` and the images as `<split>/<key>`.

    Images are named as local files, `/data/local-files/?d=<key>`: import a split with its folder as the root of Label
    Studio's local storage. Boxes and polygons of one ring keep their float32 values. Flags, areas, ids and unused
    classes cannot be stored.

    Raises:
        FormatError: `root` is not empty, an image's size is unknown, or something cannot be read or written.
    """

    def task(record: Record) -> dict[str, Any]:
        width, height = record.width, record.height
        if min(width, height) <= 0:
            raise FormatError(f"{record.key!r}: its size is unknown; Label Studio's boxes are percents of it")
        xyxy = (record.boxes.astype(np.float64) * 100 / (width, height, width, height)).tolist()
        regions = [_region(box, ring, (width, height)) for box, ring in zip(xyxy, single_rings(record), strict=True)]
        result = [
            {
                "id": f"{n}",
                "type": kind,
                "from_name": "label",
                "to_name": "image",
                "original_width": width,
                "original_height": height,
                "image_rotation": 0,
                "value": {**value, kind: [source.classes[label]]},
            }
            for n, (label, (kind, value)) in enumerate(zip(record.labels.tolist(), regions, strict=True))
        ]
        image = f"/data/local-files/?d={quote(record.key)}"
        return {"data": {"image": image}, "annotations": [{"result": result, "was_cancelled": False}]}

    for split, tasks in put_rows(source, root, task).items():
        put_text(root / split / "tasks.json", msgspec.json.format(msgspec.json.encode(tasks), indent=1))


def _region(box: list[float], ring: list[float] | None, size: tuple[int, int]) -> tuple[str, dict[str, Any]]:
    """Return the type and the value of a region: a polygon if it has one ring, else a rectangle.

    Args:
        box: x1, y1, x2, y2 in percent of `size`; ring: x, y, x, y, ... in pixels; size: (width, height).
    """
    if ring is not None:
        return "polygonlabels", {"points": (np.reshape(ring, (-1, 2)) * 100 / size).tolist(), "closed": True}
    x1, y1, x2, y2 = box
    return "rectanglelabels", {"x": x1, "y": y1, "width": x2 - x1, "height": y2 - y1, "rotation": 0}
