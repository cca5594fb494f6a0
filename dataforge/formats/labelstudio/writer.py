"""Writer of Label Studio's JSON."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.parse import quote

import msgspec
import numpy as np

from dataforge.errors import FormatError
from dataforge.files import put_text
from dataforge.formats.annotated import put_rows
from dataforge.record import Record, Source


def write(source: Source, root: Path) -> None:
    """Write `<split>/tasks.json` and the images as `<split>/<key>`.

    Images are named as local files, `/data/local-files/?d=<key>`: import a split with its folder as the root of Label
    Studio's local storage. Flags, areas, ids and unused classes cannot be stored.

    Raises:
        FormatError: `root` is not empty, an image's size is unknown, or something cannot be read or written.
    """

    def task(record: Record) -> dict[str, Any]:
        width, height = record.width, record.height
        if min(width, height) <= 0:
            raise FormatError(f"{record.key!r}: its size is unknown; Label Studio's boxes are percents of it")
        xyxy = record.boxes.astype(np.float64) * 100 / (width, height, width, height)
        result = [
            {
                "id": f"{n}",
                "type": "rectanglelabels",
                "from_name": "label",
                "to_name": "image",
                "original_width": width,
                "original_height": height,
                "image_rotation": 0,
                "value": {
                    **dict(zip(("x", "y", "width", "height"), (x1, y1, x2 - x1, y2 - y1), strict=True)),
                    "rotation": 0,
                    "rectanglelabels": [source.classes[label]],
                },
            }
            for n, (label, (x1, y1, x2, y2)) in enumerate(zip(record.labels.tolist(), xyxy.tolist(), strict=True))
        ]
        image = f"/data/local-files/?d={quote(record.key)}"
        return {"data": {"image": image}, "annotations": [{"result": result, "was_cancelled": False}]}

    for split, tasks in put_rows(source, root, task).items():
        put_text(root / split / "tasks.json", msgspec.json.format(msgspec.json.encode(tasks), indent=1))
