"""Writer of Datumaro JSON."""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from typing import Any

import msgspec

from dataforge.files import put_text
from dataforge.formats.datumaro.reader import FLAGS
from dataforge.formats.written import put_rows, single_rings, xywh_of
from dataforge.record import Record, Source


def write(source: Source, root: Path) -> None:
    """Write `annotations/<split>.json` and the images as `images/<split>/<key>`.

    Boxes and polygons of one ring keep their float32 values; flags are written as attributes. Areas and ids are not
    stored. A split named
    "default" is read back as "train".

    Raises:
        FormatError: `root` is not empty, or something cannot be read or written.
    """

    def item(record: Record) -> dict[str, Any]:
        polygons = single_rings(record)
        rows = zip(record.labels.tolist(), record.flags.tolist(), xywh_of(record.boxes), polygons, strict=True)
        annotations = [
            {
                "id": n,
                "type": "bbox" if ring is None else "polygon",
                "attributes": {name: True for name, bit in FLAGS.items() if flag & bit},
                "group": 0,
                "label_id": label,
                "z_order": 0,
                **({"bbox": box} if ring is None else {"points": ring}),
            }
            for n, (label, flag, box, ring) in enumerate(rows)
        ]
        image = {"path": record.key, "size": [record.height, record.width]}
        name = str(PurePosixPath(record.key).with_suffix(""))
        return {"id": name, "annotations": annotations, "attr": {}, "image": image}

    labels = [{"name": name, "parent": "", "attributes": []} for name in source.classes]
    about = {"dm_format_version": "1.0", "media_type": 2, "infos": {}}
    about["categories"] = {"label": {"label_groups": [], "labels": labels, "attributes": []}}
    for split, items in put_rows(source, root, item, "images/{}").items():
        put_text(root / "annotations" / f"{split}.json", msgspec.json.encode({**about, "items": items}))
