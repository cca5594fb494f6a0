"""Reader of VGG Image Annotator's JSON and CSV.

Shapes are those of VIA's documentation: rect, polygon, circle and ellipse in pixels; polylines and points have no box.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec

from dataforge.errors import ConfigError, FormatError
from dataforge.files import read_text
from dataforge.formats.annotated import NAN, Annotated, Numbers, files_of, hull, ring_of, source, xywh
from dataforge.formats.json_files import decode, read_json
from dataforge.formats.via import is_via
from dataforge.record import Finding, Source

EXPECTED = "VGG Image Annotator's JSON (filename, regions) or CSV (filename, region_shape_attributes)"
COLUMNS = ("filename", "region_shape_attributes", "region_attributes")
USUAL = ("class", "label", "name", "type", "category")  # attributes that hold classes where there are others, too
UNSTATED = "object"


class Shape(msgspec.Struct, gc=False):
    name: str | None = None
    x: float | None = None
    y: float | None = None
    width: float | None = None
    height: float | None = None
    cx: float | None = None
    cy: float | None = None
    r: float | None = None
    rx: float | None = None
    ry: float | None = None
    theta: float | None = None
    all_points_x: list[float] | None = None
    all_points_y: list[float] | None = None


Attributes = dict[str, Any] | None


class Region(msgspec.Struct, gc=False):
    shape_attributes: Shape
    region_attributes: Attributes = None


class Entry(msgspec.Struct):
    filename: str
    regions: list[Region] | dict[str, Region]  # version 1 has them by number


class Project(msgspec.Struct):
    metadata: dict[str, Entry] = msgspec.field(name="_via_img_metadata")


def read(
    root: Path,
    *,
    split: tuple[str, ...] | None = None,
    images: Path | None = None,
    attribute: str | None = None,
    allow_outside: bool = False,
) -> Source:
    """Read regions. Circles and ellipses become their boxes. Classes are the sorted names in use.

    Args:
        root: a folder of files, or one file.
        split: read only these splits.
        images: the folder with the images; by default they are searched below `root`.
        attribute: the attribute of regions that holds their class: text, or the options that are checked, each a box.
            By default the only one, or the only one of "class", "label", "name", "type" and "category". If no region
            has any attribute, all are of the class "object".
        allow_outside: allow names outside the folder: absolute, or with `..`.

    Raises:
        FormatError: no such files, or a file is not VIA's. ConfigError: no such split, or no telling the attribute.
    """
    splits = files_of(root, is_via, EXPECTED, ".json", ".csv")
    files = [path for paths in splits.values() for path in paths]
    entries = {path: _entries(path) for path in files}
    known = {name for file in entries.values() for one in file for _, own in one.regions for name in own or ()}
    chosen = attribute or _choose(known, files[0])
    if attribute and attribute not in known:
        raise ConfigError(
            f"--attribute {attribute}: no region has it; attributes: {', '.join(sorted(known)) or 'none'}"
        )

    def items(paths: Sequence[Path]) -> Iterator[Annotated | Finding]:
        for path in paths:
            yield from (_annotated(path, one, chosen) for one in entries[path])
        if not chosen and any(one.regions for path in paths for one in entries[path]):
            reason = f"no region has an attribute; all are read as {UNSTATED!r}"
            yield Finding("noted", "class-unstated", str(paths[0]), "", "", reason, "set")

    parts = {name: items(paths) for name, paths in splits.items()}
    return source(root, parts, split, images, allow_outside, files=files)


class _Image(msgspec.Struct):
    name: str
    regions: list[tuple[Shape, Attributes]]


def _entries(path: Path) -> list[_Image]:
    if path.suffix.lower() == ".csv":
        return _rows(path)
    top = read_json(path, dict[str, msgspec.Raw], EXPECTED)
    kind: Any = Project if "_via_img_metadata" in top else dict[str, Entry]
    file = read_json(path, kind, EXPECTED)
    images = []
    for entry in (file.metadata if isinstance(file, Project) else file).values():
        regions = entry.regions if isinstance(entry.regions, list) else entry.regions.values()
        images.append(_Image(entry.filename, [(one.shape_attributes, one.region_attributes) for one in regions]))
    return images


def _rows(path: Path) -> list[_Image]:
    """Read a CSV export: a row a region; images without regions have a row with an empty shape."""
    images: dict[str, _Image] = {}
    shapes, others = msgspec.json.Decoder(Shape), msgspec.json.Decoder(dict[str, Any])
    try:
        rows = csv.DictReader(read_text(path).removeprefix("#").splitlines(), strict=True)
        if not {*COLUMNS} <= {*(rows.fieldnames or ())}:
            raise FormatError(f"{path}: columns {', '.join(rows.fieldnames or ())}; expected {', '.join(COLUMNS)}")
        for row in rows:
            name, shape, attributes = (row[column] for column in COLUMNS)
            where = f"{path}: line {rows.line_num}"
            if not name or shape is None or attributes is None:
                raise FormatError(f"{where}: {name!r}: fewer columns than the header; expected {EXPECTED}")
            image = images.setdefault(name, _Image(name, []))
            if shape.strip() not in ("", "{}"):
                own = decode(attributes.encode() or b"{}", others, where, EXPECTED)
                image.regions.append((decode(shape.encode(), shapes, where, EXPECTED), own))
    except csv.Error as error:
        raise FormatError(f"{path}: cannot be read as CSV: {error}; expected {EXPECTED}") from None
    return list(images.values())


def _choose(known: set[str], path: Path) -> str:
    """Return the attribute that holds the class; "" if there is none."""
    fitting = [name for name in sorted(known) if len(known) == 1 or name.lower() in USUAL]
    if known and len(fitting) != 1:
        raise ConfigError(
            f"{path}: several attributes ({', '.join(sorted(known))}); say with --attribute which is the class"
        )
    return fitting[0] if fitting else ""


def _annotated(path: Path, image: _Image, attribute: str) -> Annotated:
    item = Annotated(image.name, path)
    for shape, attributes in image.regions:
        edges = _edges(shape)
        value = (attributes or {}).get(attribute) if attribute else UNSTATED
        names = [name for name, is_on in value.items() if is_on is True] if isinstance(value, dict) else [value]
        if edges is None:
            item.refuse("shape-unknown", str(shape.name), "expected a rect, a polygon, a circle or an ellipse")
            continue
        xs, ys = shape.all_points_x or [], shape.all_points_y or []
        ring = ring_of(xs, ys) if shape.name == "polygon" and len(xs) == len(ys) > 2 else None
        for name in names or [None]:
            item.add(str(name).strip() if name is not None else None, edges, ring=ring)
    return item


def _edges(shape: Shape) -> Numbers | None:
    """Return the box of a shape, None for a kind that has none."""
    if shape.name == "rect":
        return xywh(shape.x, shape.y, shape.width, shape.height)
    if shape.name in ("polygon", "polyline") and shape.all_points_x and shape.all_points_y:
        return hull(shape.all_points_x, shape.all_points_y) if shape.name == "polygon" else None
    if shape.name not in ("circle", "ellipse") or shape.cx is None or shape.cy is None:
        return None
    rx, ry = (shape.r, shape.r) if shape.name == "circle" else (shape.rx, shape.ry)
    if rx is None or ry is None:
        return None
    theta = shape.theta or 0.0
    if not math.isfinite(theta):
        return NAN
    sine, cosine = math.sin(theta), math.cos(theta)
    wide, high = math.hypot(rx * cosine, ry * sine), math.hypot(rx * sine, ry * cosine)
    return shape.cx - wide, shape.cy - high, shape.cx + wide, shape.cy + high
