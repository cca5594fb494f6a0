"""Writer of Supervisely's projects."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np

from dataforge.errors import FormatError
from dataforge.files import inside, new_folder, put_text
from dataforge.formats.pictures import is_picture, picture_name, put_picture
from dataforge.record import Record, Source


def write(source: Source, root: Path) -> None:
    """Write `meta.json`, and `<split>/img/<key>` with `<split>/ann/<key>.json`; folders in keys become `__`.

    Boxes keep their float32 values. Flags, areas and ids cannot be stored.

    Raises:
        FormatError: `root` is not empty, a key is no picture's name, or something cannot be read or written.
    """
    new_folder(root)
    classes = [{"title": name, "shape": "rectangle", "color": "#208020"} for name in source.classes]
    put_text(root / "meta.json", msgspec.json.encode({"classes": classes, "tags": []}))
    taken: set[str] = set()
    for record in source.records:
        if not isinstance(record, Record):
            continue
        key = inside(picture_name(record))
        if key is None or not is_picture(key):
            raise FormatError(f"{record.key!r}: Supervisely cannot hold it; expected a picture's name below a folder")
        name = key.replace("/", "__")
        while f"{record.split}/{name}" in taken:
            name = f"_{name}"
        taken.add(f"{record.split}/{name}")
        put_picture(replace(record, key=name), root / record.split / "img")
        corners = (record.boxes.astype(np.float64) - (0, 0, 1, 1)).tolist()
        objects = [
            {
                "classTitle": source.classes[label],
                "geometryType": "rectangle",
                "tags": [],
                "points": {"exterior": [box[:2], box[2:]], "interior": []},
            }
            for label, box in zip(record.labels.tolist(), corners, strict=True)
        ]
        size = {"height": record.height, "width": record.width}
        facts = {"description": "", "tags": [], "size": size, "objects": objects}
        put_text(root / record.split / "ann" / f"{name}.json", msgspec.json.encode(facts))
