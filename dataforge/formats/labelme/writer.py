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
from dataforge.record import FLAGS, Finding, Source


def write(source: Source, root: Path) -> None:
    """Write `labels.txt`, and for each image `<split>/<key>` with a JSON file of rectangles next to it.

    Boxes keep their float32 values; crowd, difficult and truncated are written as shape flags. Areas, ids and class
    numbers are not stored. Splits named annotations, labels or json are read back as train.

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
                "points": [box[:2], box[2:]],
                "group_id": None,
                "shape_type": "rectangle",
                "flags": {name: True for name, bit in FLAGS.items() if flag & bit},
            }
            for box, label, flag in zip(
                record.boxes.astype(np.float64).tolist(), record.labels.tolist(), record.flags.tolist(), strict=True
            )
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
