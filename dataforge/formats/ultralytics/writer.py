"""Writer of Ultralytics' NDJSON."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from dataforge.errors import FormatError
from dataforge.files import put_text
from dataforge.formats.written import put_rows
from dataforge.formats.yolo.writer import points_of, unit_of
from dataforge.record import Record, Source


def write(source: Source, root: Path) -> None:
    """Write `dataset.ndjson` and the images as `images/<split>/<key>`.

    If a box of an image has a polygon, all its boxes are written as segments, those without one of one ring by their
    corners. Flags, areas and ids cannot be stored.

    Raises:
        FormatError: `root` is not empty, an image's size is unknown, or something cannot be read or written.
    """

    def line(record: Record) -> dict[str, Any]:
        if min(record.width, record.height) <= 0:
            raise FormatError(f"{record.key!r}: its size is unknown; Ultralytics' boxes are fractions of it")
        kind, unit = "boxes", unit_of(record.boxes, record.height, record.width).tolist()
        if record.polygons:
            kind, unit = "segments", points_of(record)
        rows = [[label, *numbers] for label, numbers in zip(record.labels.tolist(), unit, strict=True)]
        size = {"width": record.width, "height": record.height}
        return {"type": "image", "file": record.key, **size, "split": record.split, "annotations": {kind: rows}}

    rows = put_rows(source, root, line, "images/{}")
    names = {str(n): name for n, name in enumerate(source.classes)}
    lines = [
        {"type": "dataset", "task": "detect", "class_names": names},
        *(row for part in rows.values() for row in part),
    ]
    put_text(root / "dataset.ndjson", b"".join(msgspec.json.encode(one) + b"\n" for one in lines))
