"""Write LabelMe JSON."""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from typing import Any

import msgspec
import numpy as np

from dataforge.errors import FormatError
from dataforge.files import exists, new_folder, put_text
from dataforge.formats.labelme.reader import NAMES, NO_CLASS
from dataforge.formats.pictures import put_picture
from dataforge.formats.written import fitting_rings
from dataforge.record import FLAGS, Finding, Source


def write(source: Source, root: Path) -> None:
    """Write `labels.txt`, and for each image `<split>/<key>` with a JSON file of shapes next to it.

    Boxes and polygons keep their float32 values, several rings are a group; crowd, difficult and truncated are written
    as shape flags. Areas, ids and class numbers are not stored. Splits named annotations, labels or json are read back
    as train.

    Raises:
        FormatError: `root` is not new, cannot be written, or a class cannot be represented.
    """
    new_folder(root)
    for name in source.classes:
        if name in NO_CLASS or not name.strip() or len(name.splitlines()) != 1:
            raise FormatError(f"class {name!r}: cannot be held; expected a name of one line, not one of {NO_CLASS}")
    put_text(root / NAMES, "".join(f"{name}\n" for name in source.classes).encode())
    for record in source.records:
        if isinstance(record, Finding):
            continue
        put_picture(record, root / record.split)
        shapes = [
            {
                "label": source.classes[label],
                "points": points,
                "group_id": group,
                "shape_type": kind,
                "flags": {name: True for name, bit in FLAGS.items() if flag & bit},
            }
            for n, (box, rings, label, flag) in enumerate(
                zip(
                    record.boxes.astype(np.float64).tolist(),
                    fitting_rings(record),
                    record.labels.tolist(),
                    record.flags.tolist(),
                    strict=True,
                )
            )
            for kind, points, group in _parts(box, rings, n)
        ]
        picture = root / record.split / record.key
        facts: dict[str, Any] = {
            "version": "5.5.0",
            "flags": {},
            "shapes": shapes,
            "imagePath": picture.name,
            "imageData": None,
            "imageHeight": record.height,
            "imageWidth": record.width,
        }
        names = [PurePosixPath(picture.name).stem + ".json", picture.name + ".json"]
        plain, whole = (picture.with_name(name.lstrip(".")) for name in names)  # hidden files would not be read
        put_text(whole if exists(plain) else plain, msgspec.json.encode(facts))


def _parts(box: list[float], rings: list[Any], n: int) -> list[tuple[str, Any, int | None]]:
    """Return type, points and group of each shape of box n: a rectangle, or its rings, which are a group if several."""
    if not rings:
        return [("rectangle", [box[:2], box[2:]], None)]
    group = n if len(rings) > 1 else None
    return [("polygon", ring.tolist(), group) for ring in rings]
