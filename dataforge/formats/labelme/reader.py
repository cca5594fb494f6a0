"""LabelMe JSON (github.com/wkentaro/labelme): one file per image, with shapes as points on the upright image."""

from __future__ import annotations

import base64
import binascii
import os
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any

import msgspec
import numpy as np

from dataforge.errors import FormatError
from dataforge.files import check_root, exists, inside, read_text
from dataforge.formats.boxes import as_xyxy
from dataforge.formats.json_files import json_splits, read_json
from dataforge.formats.pictures import as_size, given, locate
from dataforge.polygons import Polygons
from dataforge.record import FLAGS, Finding, Record, Source, as_boxes, pick_splits

EXPECTED = "one JSON file a picture, in one folder or in <split>/, with shapes and imagePath"
NAMES = "labels.txt"
NO_CLASS = ("__ignore__", "_background_")  # the first lines of LabelMe's labels.txt


class _Shape(msgspec.Struct):
    label: str
    points: list[tuple[float, float]]
    shape_type: str | None = "polygon"
    group_id: int | str | float | None = None
    flags: dict[str, Any] | None = None


class _File(msgspec.Struct):
    shapes: list[_Shape]
    imagePath: str  # noqa: N815
    imageHeight: float | None = None  # noqa: N815
    imageWidth: float | None = None  # noqa: N815


class _Data(msgspec.Struct):
    imageData: str | None = None  # noqa: N815


@dataclass
class _Annotation:
    """A file's boxes without the embedded image, which is read again when needed, so that all files fit in memory."""

    name: str = ""
    height: int = 0
    width: int = 0
    names: list[str] = field(default_factory=list)
    boxes: list[list[float]] = field(default_factory=list)
    flags: list[int] = field(default_factory=list)
    rings: list[list[list[tuple[float, float]]]] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    broken: str = ""


def read(
    root: Path, *, split: tuple[str, ...] | None = None, images: Path | None = None, allow_outside: bool = False
) -> Source:
    """Read LabelMe files: rectangles, polygons, X-AnyLabeling's rotations (boxes of 4 corners), and circles as boxes.

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
    parsed = {path: _parse(path) for paths in splits.values() for path in paths}
    if all(annotation.broken for annotation in parsed.values()):
        raise FormatError(
            next((annotation.broken for annotation in parsed.values()), f"{root}: no JSON found; expected {EXPECTED}")
        )
    listed = read_text(root / NAMES).splitlines() if exists(root / NAMES) else []
    listed = [name for name in listed if name.strip() and name not in NO_CLASS]
    classes = tuple(
        dict.fromkeys([*listed, *sorted({name for annotation in parsed.values() for name in annotation.names})])
    )

    def records() -> Iterator[Record | Finding]:
        wanted = {path: _picture(parsed[path].name, path, root) for name in chosen for path in splits[name]}
        below = images or root
        named, anywhere = filter(None, wanted.values()), images is not None
        pictures, findings = locate(named, [below], below, root, anywhere=anywhere, allow_outside=allow_outside)
        yield from (finding for finding in findings if finding.action != "refused")
        refused = {finding.key: finding for finding in findings}
        for name in chosen:
            for path in splits[name]:
                annotation, picture = parsed[path], wanted[path]
                image: Path | bytes
                if annotation.broken:
                    reason = annotation.broken.removeprefix(f"{path}: ")
                    yield Finding("refused", "annotation-broken", str(path), "", "", reason, "image")
                    continue
                if picture in pictures:
                    key, image = pictures[picture]
                else:
                    embedded = _embedded(path)
                    if embedded is None:
                        code, reason = (
                            (refused[picture].code, refused[picture].reason) if picture else ("image-path", "empty")
                        )
                        yield Finding("refused", code, str(path), picture, annotation.name, reason, "image")
                        continue
                    same = path.relative_to(root).with_suffix(PurePosixPath(picture).suffix).as_posix()
                    key, image = inside(picture) or same, embedded
                key = key if images else key.removeprefix(f"{name}/")
                yield from (replace(finding, key=key) for finding in annotation.findings)
                yield Record(
                    key=key,
                    split=name,
                    image=image,
                    height=annotation.height,
                    width=annotation.width,
                    boxes=as_boxes(annotation.boxes),
                    labels=np.array([classes.index(label) for label in annotation.names], np.int32),
                    flags=np.array(annotation.flags, np.uint8),
                    origin=str(path),
                    polygons=Polygons.of(annotation.rings) if any(annotation.rings) else None,
                )

    total = sum(len(splits[name]) for name in chosen)
    return Source(classes, records(), total=total, files=[root / NAMES])


def _picture(name: str, path: Path, root: Path) -> str:
    """Resolve `imagePath`, which is relative to its file, to a path from the root; absolute paths are unchanged."""
    name = name.replace("\\", "/")
    absolute = name.startswith("/") or name[1:3] == ":/"
    return name if absolute or not name else os.path.normpath(path.relative_to(root).parent / name)


def _embedded(path: Path) -> bytes | None:
    """Return the image embedded in the file; a damaged one is returned empty, which ingest refuses."""
    text = read_json(path, _Data, EXPECTED).imageData
    try:
        return base64.b64decode("".join(text.split()), validate=True) if text else None  # Python 2 wrapped its lines
    except (binascii.Error, ValueError):
        return b""


def _parse(path: Path) -> _Annotation:
    """Read one file. An error that makes the whole file unusable is stored in `broken`."""
    try:
        file = read_json(path, _File, EXPECTED)
    except FormatError as error:
        return _Annotation(broken=str(error))
    read = _Annotation(file.imagePath, as_size(file.imageHeight), as_size(file.imageWidth))
    groups: dict[tuple[str, int | str | float], int] = {}
    for n, shape in enumerate(file.shapes):
        box = _box(shape)
        if isinstance(box, str):
            code = "shape-unknown" if box.startswith("is a") else "box-missing"
            read.findings.append(Finding("refused", code, str(path), "", shape.label, f"{box}; left out", box=n))
            continue
        xyxy = as_xyxy(box)
        if shape.label in ("", *NO_CLASS):
            reason = "expected a class's name; left out"
            read.findings.append(
                Finding("refused", "unknown-class", str(path), "", repr(shape.label), reason, box=n, xyxy=xyxy)
            )
            continue
        flag = sum(bit for name, bit in FLAGS.items() if (shape.flags or {}).get(name) in (True, 1))
        rings = [shape.points] if shape.shape_type in ("polygon", "rotation", "", None) else []
        row = len(read.names)
        if shape.group_id is not None:
            row = groups.setdefault((shape.label, shape.group_id), row)
        if row < len(read.names):
            both = np.array([read.boxes[row], box])
            read.boxes[row] = [*both[:, :2].min(0).tolist(), *both[:, 2:].max(0).tolist()]
            read.flags[row] |= flag
            # a part that is no polygon would be missing from the polygon of the whole
            read.rings[row] = read.rings[row] + rings if rings and read.rings[row] else []
            reason = "is of the same label and group as an earlier shape; taken for parts of one object"
            value = f"{shape.label} group {shape.group_id}"
            read.findings.append(Finding("noted", "shapes-joined", str(path), "", value, reason, box=n, xyxy=xyxy))
            continue
        read.names.append(shape.label)
        read.boxes.append(box)
        read.rings.append(rings)
        read.flags.append(flag)
    return read


def _box(shape: _Shape) -> list[float] | str:
    """Return the bounding box of a shape, or a description of the error."""
    kind = shape.shape_type or "polygon"
    needed = {"rectangle": (2, 4), "circle": (2,), "polygon": (), "rotation": (4,)}.get(kind)
    if needed is None:
        return f"is a {kind}; expected a rectangle, a rotation, a polygon or a circle"
    count = len(shape.points)
    if count not in needed if needed else count < 3:
        return f"{count} points do not make a {kind}"
    points = np.array(shape.points)  # numpy's min propagates NaN, Python's does not
    if kind == "circle":  # its centre and a point on the circle
        with np.errstate(all="ignore"):
            radius = np.hypot(*(points[0] - points[1]))
            points = np.stack([points[0] - radius, points[0] + radius])
    return [*points.min(0).tolist(), *points.max(0).tolist()]
