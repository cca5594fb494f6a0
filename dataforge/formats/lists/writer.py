"""Write JSON lists."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np

from dataforge.errors import FormatError
from dataforge.files import inside, new_folder, put_text
from dataforge.formats.lists.reader import BACKGROUND, IMAGES, LABEL_MAP, OBJECTS, Objects
from dataforge.formats.pictures import put_picture
from dataforge.record import DIFFICULT, Finding, Source


def write(source: Source, root: Path) -> None:
    """Write the lists, and the images as `<split>/<key>`; the paths in the lists are the keys.

    Boxes keep their float32 values. Flags other than difficult, areas, ids and class numbers are not stored (classes
    are numbered from 1), nor is a split name in capitals.

    Raises:
        FormatError: `root` is not new, cannot be written, or a class or a split cannot be represented.
    """
    new_folder(root)
    if BACKGROUND in source.classes:
        raise FormatError(f"class {BACKGROUND!r}: is no class here, but label 0")
    paths: dict[str, list[str]] = {}
    objects: dict[str, list[bytes]] = {}
    for record in source.records:
        if isinstance(record, Finding):
            continue
        put_picture(record, root / record.split)
        paths.setdefault(record.split, []).append(inside(record.key) or "")
        entry = Objects(
            (record.boxes.astype(np.float64) - (0, 0, 1, 1)).tolist(),
            (record.labels + 1).tolist(),
            (record.flags & DIFFICULT != 0).astype(int).tolist(),
        )
        objects.setdefault(record.split, []).append(msgspec.json.encode(entry))
    for split in paths:
        start = split.upper() if split.upper().lower() == split else split
        put_text(root / (start + IMAGES), msgspec.json.encode(paths[split]))
        put_text(root / (start + OBJECTS), b"[" + b",\n".join(objects[split]) + b"]\n")
    numbers = {name: label + 1 for label, name in enumerate(source.classes)} | {BACKGROUND: 0}
    put_text(root / LABEL_MAP, msgspec.json.encode(numbers))
