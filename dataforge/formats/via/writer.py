"""Writer of VGG Image Annotator's JSON."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from dataforge.files import put_text
from dataforge.formats.written import put_rows, single_rings, xywh_of
from dataforge.record import Record, Source


def write(source: Source, root: Path) -> None:
    """Write `<split>/via_region_data.json` and the images as `<split>/<key>`; classes are the attribute "class".

    Boxes and polygons of one ring keep their float32 values. Flags, areas, ids and unused classes cannot be stored.

    Raises:
        FormatError: `root` is not empty, or something cannot be read or written.
    """

    def entry(record: Record) -> tuple[str, dict[str, Any]]:
        rows = zip(record.labels.tolist(), xywh_of(record.boxes), single_rings(record), strict=True)
        regions = [
            {"shape_attributes": _shape(box, ring), "region_attributes": {"class": source.classes[label]}}
            for label, box, ring in rows
        ]
        return record.key, {"filename": record.key, "size": -1, "regions": regions, "file_attributes": {}}

    for split, entries in put_rows(source, root, entry).items():
        put_text(root / split / "via_region_data.json", msgspec.json.encode(dict(entries)))


def _shape(box: list[float], ring: list[float] | None) -> dict[str, Any]:
    if ring is not None:
        return {"name": "polygon", "all_points_x": ring[0::2], "all_points_y": ring[1::2]}
    return {"name": "rect", **dict(zip(("x", "y", "width", "height"), box, strict=True))}
