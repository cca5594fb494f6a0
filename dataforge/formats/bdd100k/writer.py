"""Writer of BDD100K's JSON."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from dataforge.files import put_text
from dataforge.formats.written import put_rows
from dataforge.record import CROWD, TRUNCATED, Record, Source


def write(source: Source, root: Path) -> None:
    """Write `<split>/labels.json` and the images as `<split>/<key>`.

    Boxes keep their float32 values. The flag difficult, areas, ids and unused classes cannot be stored.

    Raises:
        FormatError: `root` is not empty, or something cannot be read or written.
    """

    def frame(record: Record) -> dict[str, Any]:
        first_last = (record.boxes.astype(np.float64) - (0, 0, 1, 1)).tolist()
        rows = zip(record.labels.tolist(), record.flags.tolist(), first_last, strict=True)
        labels = [
            {
                "id": f"{n}",
                "category": source.classes[label],
                "attributes": {"truncated": bool(flag & TRUNCATED), "crowd": bool(flag & CROWD)},
                "box2d": dict(zip(("x1", "y1", "x2", "y2"), box, strict=True)),
            }
            for n, (label, flag, box) in enumerate(rows)
        ]
        return {"name": record.key, "labels": labels}

    for split, frames in put_rows(source, root, frame).items():
        put_text(root / split / "labels.json", msgspec.json.encode(frames))
