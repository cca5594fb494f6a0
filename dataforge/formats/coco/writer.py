"""Write COCO JSON."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from dataforge.errors import FormatError
from dataforge.files import new_folder, writing
from dataforge.formats.decimals import decimals
from dataforge.formats.pictures import put_picture
from dataforge.polygons import Polygons
from dataforge.record import CROWD, DIFFICULT, TRUNCATED, Record, Source, object_areas, polygons_of

ROWS = 4096  # annotations that are Python objects at a time


def write(source: Source, root: Path) -> None:
    """Write `annotations/instances_<split>.json` and `<split>/<key>`.

    Boxes and polygons are restored bit for bit. An image without a number, or with a number that is taken in its
    split, gets one. `difficult` and `truncated` are extra keys, which other readers ignore. Unions of splits are not
    kept.

    Raises:
        FormatError: `root` is not empty, something cannot be written, or there are no images.
    """
    new_folder(root)
    splits: dict[str, list[Record]] = {}
    for item in source.records:
        if isinstance(item, Record):
            put_picture(item, root / item.split)
            splits.setdefault(item.split, []).append(replace(item, image=b""))  # numbers are assigned at the end
    if not splits:
        raise FormatError(f"{root}: there are no images to write")
    class_ids = source.class_ids or tuple(range(len(source.classes)))
    categories = [
        {"id": i, "name": name} | ({"frequency": source.frequencies[name]} if name in source.frequencies else {})
        for i, name in zip(class_ids, source.classes, strict=True)
    ]
    free = max((record.id for records in splits.values() for record in records), default=0) + 1
    free, number = max(free, 1), 1
    for split, records in splits.items():
        ids = []
        seen = set()
        for record in records:
            image_id = record.id
            if image_id < 0 or image_id in seen:
                image_id, free = free, free + 1
            seen.add(image_id)
            ids.append(image_id)
        path = root / "annotations" / f"instances_{split}.json"
        images = (
            {"id": i, "file_name": record.key, "width": record.width, "height": record.height}
            | _judged(record, class_ids)
            for i, record in zip(ids, records, strict=True)
        )
        _write_json(path, images, _annotations(records, ids, class_ids, number), categories)
        number += sum(len(record.boxes) for record in records)


def _judged(record: Record, class_ids: tuple[int, ...]) -> dict[str, list[int]]:
    """Return LVIS's fields of an image, {} if all classes were looked for."""
    if record.judged is None:
        return {}
    rows = [(class_ids[label], partial) for label, partial in record.judged.tolist()]
    names = ("neg_category_ids", "not_exhaustive_category_ids")
    return {name: [number for number, one in rows if one == partial] for partial, name in enumerate(names)}


def _annotations(records: list[Record], ids: list[int], class_ids: tuple[int, ...], number: int) -> Iterator[object]:
    boxes = np.concatenate([record.boxes for record in records])
    areas = np.concatenate([object_areas(record) for record in records])
    areas = decimals(areas.astype(np.float32))
    corner = decimals(boxes[:, :2])
    xywh = np.concatenate([corner, decimals(boxes[:, 2:], corner)], 1)
    labels = np.concatenate([record.labels for record in records])
    flags = np.concatenate([record.flags for record in records])
    shapes = Polygons.join(map(polygons_of, records))
    image_ids = np.repeat(ids, [len(record.boxes) for record in records])
    # slice by slice: a million Python numbers need more memory than a million numpy numbers
    for start in range(0, len(boxes), ROWS):
        columns = (column[start : start + ROWS] for column in (image_ids, xywh, areas, labels, flags))
        rows = zip(*(column.tolist() for column in columns), _rings(shapes, start), strict=True)
        for i, bbox, area, label, flag, rings in rows:
            made: dict[str, Any] = {
                "id": number,
                "image_id": i,
                "category_id": class_ids[label],
                "bbox": bbox,
                "area": area,
                "iscrowd": int(flag & CROWD > 0),
            }
            made |= {"segmentation": rings} if rings else {}
            made |= {"difficult": 1} if flag & DIFFICULT else {}
            made |= {"truncated": 1} if flag & TRUNCATED else {}
            number += 1
            yield made


def _rings(polygons: Polygons, start: int) -> list[list[list[float]]]:
    """Return x, y, x, y, ... of each ring of the `ROWS` boxes from `start`."""
    part = polygons.part(start, min(start + ROWS, len(polygons.boxes) - 1))
    numbers = decimals(part.points).reshape(-1).tolist()
    ends = (2 * part.rings).tolist()
    rings = [numbers[a:b] for a, b in pairwise(ends)]
    return [rings[a:b] for a, b in pairwise(part.boxes.tolist())]


def _write_json(path: Path, images: Iterable[object], annotations: Iterable[object], categories: list[Any]) -> None:
    """Write one row per line, each as soon as it is generated."""
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "xb") as file:
            for name, rows in (("images", images), ("annotations", annotations), ("categories", categories)):
                file.write(b"{" if name == "images" else b",\n")
                file.write(f'"{name}": ['.encode())
                for n, row in enumerate(rows):
                    file.write((b",\n" if n else b"\n") + msgspec.json.encode(row))
                file.write(b"]")
            file.write(b"}\n")
