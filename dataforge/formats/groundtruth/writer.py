"""Writer of SageMaker Ground Truth's manifests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from dataforge.files import put_text
from dataforge.formats.groundtruth.reader import TYPE
from dataforge.formats.written import put_rows, xywh_of
from dataforge.record import Record, Source


def write(source: Source, root: Path) -> None:
    """Write `<split>/output.manifest` and the images as `<split>/<key>`, which `source-ref` names without a bucket.

    Boxes keep their float32 values. Flags, areas, ids and unused classes cannot be stored.

    Raises:
        FormatError: `root` is not empty, or something cannot be read or written.
    """

    def line(record: Record) -> dict[str, Any]:
        rows = zip(record.labels.tolist(), xywh_of(record.boxes), strict=True)
        boxes = [{"class_id": n, **dict(zip(("left", "top", "width", "height"), box, strict=True))} for n, box in rows]
        size = [{"width": record.width, "height": record.height, "depth": 3}]
        names = {str(n): source.classes[n] for n in sorted({*record.labels.tolist()})}
        objects = [{"confidence": 1}] * len(boxes)
        return {
            "source-ref": record.key,
            "bounding-box": {"image_size": size, "annotations": boxes},
            "bounding-box-metadata": {"objects": objects, "class-map": names, "type": TYPE, "human-annotated": "yes"},
        }

    for split, lines in put_rows(source, root, line).items():
        put_text(root / split / "output.manifest", b"".join(msgspec.json.encode(one) + b"\n" for one in lines))
