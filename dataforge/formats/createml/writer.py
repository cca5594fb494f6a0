"""Writer of Create ML JSON."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np

from dataforge.files import new_folder, put_text
from dataforge.formats.pictures import put_picture
from dataforge.record import Record, Source


def write(source: Source, root: Path) -> None:
    """Write `<split>/annotations.json` and the images as `<split>/<key>`.

    Boxes keep their float32 values. Flags, areas, ids and unused classes cannot be stored.

    Raises:
        FormatError: `root` is not empty, or something cannot be read or written.
    """
    new_folder(root)
    rows: dict[str, list[bytes]] = {}
    for record in source.records:
        if not isinstance(record, Record):
            continue
        put_picture(record, root / record.split)
        xyxy = record.boxes.astype(np.float64)
        cxcywh = np.concatenate([(xyxy[:, :2] + xyxy[:, 2:]) / 2, xyxy[:, 2:] - xyxy[:, :2]], 1).tolist()
        annotations = [
            {"label": source.classes[label], "coordinates": dict(zip(("x", "y", "width", "height"), box, strict=True))}
            for label, box in zip(record.labels.tolist(), cxcywh, strict=True)
        ]
        row = {"image": record.key, "annotations": annotations}
        rows.setdefault(record.split, []).append(msgspec.json.encode(row))
    for split, lines in rows.items():
        put_text(root / split / "annotations.json", b"[" + b",\n".join(lines) + b"]\n")
