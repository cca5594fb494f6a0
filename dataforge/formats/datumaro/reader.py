"""Reader of Datumaro JSON, format version 1.0 and older.

Fields: datumaro's `plugins/data_formats/datumaro/base.py`; CVAT adds `rotation` to the attributes of rotated boxes.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from dataforge.errors import FormatError
from dataforge.files import check_root, files_below
from dataforge.formats.annotated import NAN, Annotated, cxcywh, hull, source, xywh
from dataforge.formats.classes import unite
from dataforge.formats.datumaro import is_datumaro
from dataforge.formats.json_files import read_json
from dataforge.formats.masks import Rle, rle_hull
from dataforge.formats.pictures import as_size
from dataforge.formats.sniff import is_json
from dataforge.formats.splits import split_of
from dataforge.record import CROWD, DIFFICULT, TRUNCATED, Finding, Source

EXPECTED = "annotations/<subset>.json of Datumaro (categories, items), with images/<subset>/"
ABOUT_IMAGES = ("label", "caption", "hash_key", "feature_vector")
PLACES = ("images/default",)
FLAGS = {"is_crowd": CROWD, "difficult": DIFFICULT, "truncated": TRUNCATED}


class Annotation(msgspec.Struct, gc=False):
    type: str
    label_id: int | None = None
    bbox: tuple[float, float, float, float] | None = None
    points: list[float] | None = None
    rle: Rle | None = None
    attributes: dict[str, Any] | None = None


class Image(msgspec.Struct):
    path: str | None = None
    size: tuple[float, float] | None = None  # height, width


class Item(msgspec.Struct):
    id: str
    annotations: list[Annotation] = []
    image: Image | None = None
    media: Image | None = None  # since version 1.5


class Label(msgspec.Struct):
    name: str


class Labels(msgspec.Struct):
    labels: list[Label] = []


class Categories(msgspec.Struct):
    label: Labels = msgspec.field(default_factory=Labels)


class File(msgspec.Struct):
    categories: Categories
    items: list[Item]


def read(
    root: Path, *, split: tuple[str, ...] | None = None, images: Path | None = None, allow_outside: bool = False
) -> Source:
    """Read boxes and polygons; ellipses and masks become their boxes. Points and cuboids are refused.

    The name of a file is its subset; "default" is what its folders say, or "train". Classes are the labels in their
    order; the attributes is_crowd, difficult and truncated are flags.

    Args:
        root: a folder of files, or one file.
        split: read only these splits.
        images: the folder with the images; by default they are searched below `root`.
        allow_outside: allow names outside the folder: absolute, or with `..`.

    Raises:
        FormatError: no such files, or a file is not Datumaro's. ConfigError: no such split.
    """
    if not root.is_file():
        check_root(root, EXPECTED)
    paths = [root] if root.is_file() else files_below(root, lambda name: name.lower().endswith(".json"))
    files = {path: read_json(path, File, EXPECTED) for path in paths if is_datumaro(path) or not is_json(path)}
    if not files:
        raise FormatError(f"{root}: no such JSON file found; expected {EXPECTED}")
    parts: dict[str, list[Path]] = {}
    for path in files:
        parts.setdefault(split_of(path) if path.stem == "default" else path.stem, []).append(path)
    united, noted = unite({p: dict(enumerate(one.name for one in f.categories.label.labels)) for p, f in files.items()})

    def items(own: list[Path]) -> Iterator[Annotated | Finding]:
        yield from (finding for finding in noted if finding.file in map(str, own))
        for path in own:
            names = [one.name for one in files[path].categories.label.labels]
            yield from (_annotated(path, item, names) for item in files[path].items)

    splits = {name: items(own) for name, own in parts.items()}
    return source(root, splits, split, images, allow_outside, classes=united, files=files, places=PLACES)


def _annotated(path: Path, item: Item, names: list[str]) -> Annotated:
    picture = item.image or item.media or Image()
    annotated = Annotated(picture.path or f"{item.id}.jpg", path)
    if picture.size:
        annotated.height, annotated.width = map(as_size, picture.size)
    for one in item.annotations:
        attributes, points = one.attributes or {}, one.points or []
        rotation, ring = attributes.get("rotation"), None
        if one.type in ABOUT_IMAGES:
            continue
        if one.type == "bbox":
            edges = xywh(*one.bbox) if one.bbox else NAN
        elif one.type in ("polygon", "ellipse") and len(points) >= 4 and len(points) % 2 == 0:
            edges = hull(points[0::2], points[1::2])
            ring = points if one.type == "polygon" and len(points) >= 6 else None
        elif one.type == "rotated_bbox" and len(points) == 5:  # center, size, degrees
            edges, rotation = cxcywh(*points[:4]), points[4]
        elif one.type == "mask" and one.rle:
            try:
                edges = rle_hull(one.rle) or NAN
            except ValueError as error:
                annotated.refuse("box-missing", str(error), "expected a mask in COCO's run-length encoding")
                continue
        else:
            expected = "expected a bbox, a rotated_bbox, a polygon, an ellipse or a mask"
            annotated.refuse("shape-unknown", one.type, expected)
            continue
        name = names[one.label_id] if one.label_id is not None and 0 <= one.label_id < len(names) else None
        flag = sum(bit for key, bit in FLAGS.items() if attributes.get(key) in (True, 1, "True", "true", "1"))
        annotated.add(name, edges, flag, rotation=rotation, ring=ring)
    return annotated
