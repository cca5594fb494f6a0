"""Writer of VGG Image Annotator's JSON."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from dataforge.files import put_text
from dataforge.formats.annotated import put_rows, xywh_of
from dataforge.record import Record, Source


def write(source: Source, root: Path) -> None:
    """Write `<split>/via_region_data.json` and the images as `<split>/<key>`; classes are the attribute "class".

    Boxes keep their float32 values. Flags, areas, ids and unused classes cannot be stored.

    Raises:
        FormatError: `root` is not empty, or something cannot be read or written.
    """

    def entry(record: Record) -> tuple[str, dict[str, Any]]:
        regions = [
            {
                "shape_attributes": {"name": "rect", **dict(zip(("x", "y", "width", "height"), box, strict=True))},
                "region_attributes": {"class": source.classes[label]},
            }
            for label, box in zip(record.labels.tolist(), xywh_of(record.boxes), strict=True)
        ]
        return record.key, {"filename": record.key, "size": -1, "regions": regions, "file_attributes": {}}

    for split, entries in put_rows(source, root, entry).items():
        put_text(root / split / "via_region_data.json", msgspec.json.encode(dict(entries)))
