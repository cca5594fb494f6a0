"""LabelMe JSON (github.com/wkentaro/labelme): one file per image, with shapes as points on the upright image."""

from __future__ import annotations

import base64
import binascii
import functools
import math
import os
from array import array
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import msgspec
import numpy as np

from dataforge.errors import FormatError
from dataforge.files import check_root, exists, inside, read_text
from dataforge.formats.annotated import Annotated, Edges, hull, records_of
from dataforge.formats.json_files import json_splits, read_json, uncollected
from dataforge.formats.pictures import as_size, given, locate
from dataforge.record import DIFFICULT, FLAGS, Finding, Source, pick_splits

EXPECTED = "one JSON file a picture, in one folder or in <split>/, with shapes and imagePath"
NAMES = "labels.txt"
POINTS = {
    "rectangle": (2, 4),
    "circle": (2,),
    "polygon": (),
    "rotation": (4,),
    "oriented_rectangle": (4,),
    "mask": (2,),
}
RINGS = ("polygon", "rotation", "oriented_rectangle", "", None)  # of `POINTS`, the numbers of points; (): 3 or more
NO_CLASS = ("__ignore__", "_background_")  # the first lines of LabelMe's labels.txt


class _Shape(msgspec.Struct):
    label: str
    points: list[tuple[float, float]]
    shape_type: str | None = "polygon"
    group_id: int | str | float | None = None
    flags: dict[str, Any] | None = None
    difficult: bool | None = False  # X-AnyLabeling's


class _File(msgspec.Struct):
    shapes: list[_Shape]
    imagePath: str  # noqa: N815
    imageHeight: float | None = None  # noqa: N815
    imageWidth: float | None = None  # noqa: N815


class _Data(msgspec.Struct):
    imageData: str | None = None  # noqa: N815


def read(
    root: Path, *, split: tuple[str, ...] | None = None, images: Path | None = None, allow_outside: bool = False
) -> Source:
    """Read LabelMe files: rectangles, polygons, oriented rectangles and X-AnyLabeling's rotations (of 4 corners), and
    circles and masks as boxes.

    Shapes with the same label and `group_id` are parts of one object, as in LabelMe's own conversions. Shape flags
    named crowd, difficult and truncated are kept. The embedded image is used if the file of `imagePath` is missing.
    Classes are those of `labels.txt` in its order, if it exists, then the others sorted by name.

    Args:
        root: the folder, or one JSON file.
        split: read only these splits.
        images: the folder with the images; by default `imagePath` locates them, below `root`.
        allow_outside: allow names outside the folder: absolute, or with `..`.

    Raises:
        FormatError: no such files. ConfigError: no such split.
    """
    if not root.is_file():
        check_root(root, EXPECTED)
    images = given(root, images, "--images")
    splits = json_splits(root)
    root = root.parent if root.is_file() else root
    chosen = pick_splits(split, splits)
    broken: dict[str, str] = {}
    with uncollected():
        parsed = {name: [_parse(path, broken) for path in paths] for name, paths in splits.items()}
    if len(broken) == sum(map(len, parsed.values())):
        raise FormatError(next(iter(broken.values()), f"{root}: no JSON found; expected {EXPECTED}"))
    listed = read_text(root / NAMES).splitlines() if exists(root / NAMES) else []
    listed = [name for name in listed if name.strip() and name not in NO_CLASS]
    used = {name for items in parsed.values() for item in items for name in item.names}
    classes = tuple(dict.fromkeys([*listed, *sorted(used)]))
    label_of = {name: label for label, name in enumerate(classes)}

    def items() -> Iterator[Finding | tuple[str, str, Path | bytes, Annotated]]:
        wanted = [_picture(item.name, str(item.origin), root) for name in chosen for item in parsed[name]]
        below = images or root
        named, anywhere = filter(None, wanted), images is not None
        pictures, findings = locate(named, [below], below, root, anywhere=anywhere, allow_outside=allow_outside)
        yield from (finding for finding in findings if finding.action != "refused")
        refused = {finding.key: finding for finding in findings}
        each = iter(wanted)
        for name in chosen:
            for item in parsed[name]:
                file, picture = str(item.origin), next(each)
                image: Path | bytes
                if broken and file in broken:
                    reason = broken[file].removeprefix(f"{file}: ")
                    yield Finding("refused", "annotation-broken", file, "", "", reason, "image")
                    continue
                if picture in pictures:
                    key, image = pictures[picture]
                else:
                    path = type(root)(file)
                    embedded = _embedded(path)
                    if embedded is None:
                        code, reason = (
                            (refused[picture].code, refused[picture].reason) if picture else ("image-path", "empty")
                        )
                        yield Finding("refused", code, file, picture, item.name, reason, "image")
                        continue
                    same = path.relative_to(root).with_suffix(PurePosixPath(picture).suffix).as_posix()
                    key, image = inside(picture) or same, embedded
                yield name, key if images else key.removeprefix(f"{name}/"), image, item

    total = sum(len(parsed[name]) for name in chosen)
    return Source(classes, records_of(items(), label_of), total=total, files=[root / NAMES])


def _picture(name: str, file: str, root: Path) -> str:
    """Resolve `imagePath`, which is relative to its file, to a path from the root; absolute paths are unchanged."""
    name = name.replace("\\", "/")
    absolute = name.startswith("/") or name[1:3] == ":/"
    return name if absolute or not name else os.path.normpath(_below(os.path.split(file)[0], root) + name)


@functools.lru_cache(1024)
def _below(folder: str, root: Path) -> str:
    return Path(folder).relative_to(root).as_posix() + "/"


def _embedded(path: Path) -> bytes | None:
    """Return the image embedded in the file; a damaged one is returned empty, which ingest refuses."""
    text = read_json(path, _Data, EXPECTED).imageData
    try:
        return base64.b64decode("".join(text.split()), validate=True) if text else None  # Python 2 wrapped its lines
    except (binascii.Error, ValueError):
        return b""


def _parse(path: Path, broken: dict[str, str]) -> Annotated:
    """Read one file. An error that makes the whole file unusable is added to `broken`."""
    try:
        file = read_json(path, _File, EXPECTED)
    except FormatError as error:
        broken[str(path)] = str(error)
        return Annotated("", str(path)).close()
    item = Annotated(file.imagePath, str(path), as_size(file.imageWidth), as_size(file.imageHeight))
    groups: dict[tuple[str, int | str | float], int] = {}
    for shape in file.shapes:
        box = _box(shape)
        if isinstance(box, str):
            item.note("refused", "shape-unknown" if box.startswith("is a") else "box-missing", shape.label, box)
            continue
        if shape.label in ("", *NO_CLASS):
            item.note("refused", "unknown-class", repr(shape.label), "expected a class's name", box)
            continue
        flag = sum(bit for name, bit in FLAGS.items() if shape.flags.get(name) in (True, 1)) if shape.flags else 0
        flag |= DIFFICULT if shape.difficult else 0
        ring = shape.points if shape.shape_type in RINGS else None
        row = len(item.names)
        if shape.group_id is not None:
            row = groups.setdefault((shape.label, shape.group_id), row)
        if row == len(item.names):
            item.add(shape.label, box, flag, ring=ring)
            continue
        both = np.array([item.boxes[4 * row : 4 * row + 4], box])
        item.boxes[4 * row : 4 * row + 4] = array("d", [*both[:, :2].min(0), *both[:, 2:].max(0)])
        item.flags[row] |= flag
        # a part that is no polygon would be missing from the polygon of the whole
        item.rings[row] = (*item.rings[row], ring) if ring and item.rings[row] else ()
        reason = "is of the same label and group as an earlier shape; taken for parts of one object"
        item.note("noted", "shapes-joined", f"{shape.label} group {shape.group_id}", reason, box)
        item.count += 1
    return item.close()


def _box(shape: _Shape) -> Edges | str:
    """Return the bounding box of a shape, or a description of the error."""
    kind, points = shape.shape_type or "polygon", shape.points
    if kind == "rectangle" and len(points) == 2:  # nearly all, so it is worth a line of its own
        (x1, y1), (x2, y2) = points
        if math.isfinite(x1 + x2) and math.isfinite(y1 + y2):
            return x1 if x1 < x2 else x2, y1 if y1 < y2 else y2, x2 if x1 < x2 else x1, y2 if y1 < y2 else y1
    needed = POINTS.get(kind)
    if needed is None:
        return f"is a {kind}; expected a rectangle, a polygon, a circle or a mask"
    if len(points) not in needed if needed else len(points) < 3:
        return f"{len(points)} points do not make a {kind}"
    if kind == "circle":  # its centre and a point on the circle
        (x, y), other = points
        radius = math.dist((x, y), other)
        return x - radius, y - radius, x + radius, y + radius
    if kind == "mask":  # its first and last pixels
        (x1, y1), (x2, y2) = points
        return x1, y1, x2 + 1, y2 + 1
    return hull(*zip(*points, strict=True))
