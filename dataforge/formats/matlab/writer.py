"""Writer of ImageLabeler JSON."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np

from dataforge.errors import FormatError
from dataforge.files import new_folder, put_text
from dataforge.formats.matlab.reader import IMAGE_KEYS
from dataforge.formats.pictures import put_picture
from dataforge.record import Finding, Source


def write(source: Source, root: Path) -> None:
    """Write `<split>/labels.json` and the images as `<split>/<key>`.

    Boxes keep their float32 values and are read back in the order of their classes. Flags, areas, ids and class ids
    cannot be stored, nor can a class named like the image key, or the classes of a split without records.

    Raises:
        FormatError: `root` is not empty, cannot be written, or a class cannot be stored.
    """
    new_folder(root)
    for name in {*IMAGE_KEYS} & {*source.classes}:
        raise FormatError(f"class {name!r}: is what the image's path is called here")
    rows: dict[str, list[bytes]] = {}
    for record in source.records:
        if isinstance(record, Finding):
            continue
        put_picture(record, root / record.split)
        edges = record.boxes.astype(np.float64)
        xywh = np.concatenate([edges[:, :2] + 1, edges[:, 2:] - edges[:, :2]], 1)
        row = {name: xywh[record.labels == label].tolist() for label, name in enumerate(source.classes)}
        rows.setdefault(record.split, []).append(msgspec.json.encode({IMAGE_KEYS[0]: record.key, **row}))
    for split, lines in rows.items():
        put_text(root / split / "labels.json", b"[" + b",\n".join(lines) + b"]\n")
