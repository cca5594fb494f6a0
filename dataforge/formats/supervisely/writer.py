"""Writer of Supervisely's projects."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np

from dataforge.errors import FormatError
from dataforge.files import inside, new_folder, put_text
from dataforge.formats.pictures import is_picture, picture_name, put_picture
from dataforge.record import Record, Source, polygons_of


def write(source: Source, root: Path) -> None:
    """Write `meta.json`, and `<split>/img/<key>` with `<split>/ann/<key>.json`; folders in keys become `__`.

    Boxes keep their float32 values. Flags, areas and ids cannot be stored. A polygon is written if its box is that of
    the pixels which its points are the centers of, as `read` returns it: beside a polygon the format has no other box.
    Other objects are written as their boxes.

    Raises:
        FormatError: `root` is not empty, a key is no picture's name, or something cannot be read or written.
    """
    new_folder(root)
    classes = [{"title": name, "shape": "any", "color": "#208020"} for name in source.classes]
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
        objects = [
            {
                "classTitle": source.classes[label],
                "geometryType": "polygon" if len(exterior) > 2 else "rectangle",
                "tags": [],
                "points": {"exterior": exterior, "interior": []},
            }
            for label, exterior in zip(record.labels.tolist(), _exteriors(record), strict=True)
        ]
        size = {"height": record.height, "width": record.width}
        facts = {"description": "", "tags": [], "size": size, "objects": objects}
        put_text(root / record.split / "ann" / f"{name}.json", msgspec.json.encode(facts))


def _exteriors(record: Record) -> list[list[list[float]]]:
    """Return the points of each object: of its polygon if that has one ring and the object's box, else two corners."""
    exteriors = []
    corners = record.boxes.astype(np.float64) - (0, 0, 1, 1)
    for box, low_high, rings in zip(record.boxes, corners, polygons_of(record).lists(), strict=True):
        points = rings[0].astype(np.float64) - 0.5 if len(rings) == 1 else np.zeros((0, 2))
        hull = np.concatenate([points.min(0, initial=np.inf), points.max(0, initial=-np.inf) + 1])
        exteriors.append((points if (hull.astype(np.float32) == box).all() else low_high.reshape(2, 2)).tolist())
    return exteriors
