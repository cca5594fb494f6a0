"""Mapping of columns to fields, for `table`. A path such as "objects.bbox" names a nested column."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from dataforge.errors import ConfigError, FormatError
from dataforge.files import read_text
from dataforge.formats.boxes import FORMS, UNITS, check_form, edges, include_last
from dataforge.formats.table.cells import is_list
from dataforge.record import FLAGS

CORNERS = {
    "xyxy": ("xmin", "ymin", "xmax", "ymax"),
    "xywh": ("x", "y", "w", "h"),
    "cxcywh": ("cx", "cy", "w", "h"),
}
BOX_FIELDS = ("box", *dict.fromkeys(name for names in CORNERS.values() for name in names))
FIELDS = ("file", "image", "label", *BOX_FIELDS, "width", "height", "id", "split", *FLAGS, "flags", "area")

FILES = "filename|file|file_name|path|image_path"
LABELS = "class|label|class_name|category"
HUGGING_FACE = {
    "box": "objects.bbox|objects.bboxes|objects.boxes|annotations.bbox",
    "label": "objects.category|objects.categories|objects.label|objects.labels|"
    "annotations.category|annotations.category_name|annotations.label|annotations.category_id",
}
TENSORFLOW = {
    "image": "image/encoded",
    "file": "image/filename|image/source_id",
    "label": "image/object/class/text|image/object/class/label",
    **{name: f"image/object/bbox/{name}" for name in CORNERS["xyxy"]},
}
# Known headers: each field must have one of its columns. Then the box convention, the unit and the file suffix.
KNOWN: tuple[tuple[dict[str, str], str, str, str], ...] = (
    ({"image": "image.bytes", "file": "image.path", **HUGGING_FACE}, "xywh", "pixel", ""),
    ({"file": FILES, **HUGGING_FACE}, "xywh", "pixel", ""),
    (TENSORFLOW, "xyxy", "unit", ""),
    (
        {"file": "ImageID", "label": "LabelName", "xmin": "XMin", "ymin": "YMin", "xmax": "XMax", "ymax": "YMax"},
        "xyxy",
        "unit",
        ".jpg",
    ),
    (
        {"file": FILES, "label": LABELS, "xmin": "xmin|x1", "ymin": "ymin|y1", "xmax": "xmax|x2", "ymax": "ymax|y2"},
        "xyxy",
        "pixel",
        "",
    ),
    (  # VoTT
        {"file": "image", "label": "label", "xmin": "xmin", "ymin": "ymin", "xmax": "xmax", "ymax": "ymax"},
        "xyxy",
        "pixel",
        "",
    ),
    ({"file": FILES, "label": LABELS, "x": "x", "y": "y", "w": "w", "h": "h"}, "xywh", "pixel", ""),
    ({"file": FILES, "label": LABELS, "cx": "cx", "cy": "cy", "w": "w", "h": "h"}, "cxcywh", "pixel", ""),
)
OPTIONAL = {
    "width": "width|image/width",
    "height": "height|image/height",
    "id": "image_id|image/source_id",
    "split": "split|subset|partition|data_split",
    "crowd": "crowd|iscrowd|is_crowd|IsGroupOf|objects.iscrowd|objects.is_crowd|objects.crowd|annotations.iscrowd|"
    "image/object/is_crowd|image/object/group_of",
    "difficult": "difficult|objects.difficult|image/object/difficult",
    "truncated": "truncated|IsTruncated|objects.truncated|image/object/truncated",
    "flags": "objects.flags",
    "area": "area|objects.area|annotations.area|image/object/area",
}
EXPECTED = (
    "TensorFlow's filename, class, xmin, ymin, xmax, ymax; keras-retinanet's six columns without a header; OpenImages' "
    "ImageID, LabelName, XMin, XMax, YMin, YMax; Hugging Face's image{bytes, path} and objects{bbox, category}; or "
    "--map file=COLUMN,label=COLUMN,... with --boxes xyxy (xmin, ymin, xmax, ymax), xywh (x, y, w, h) or cxcywh "
    "(cx, cy, w, h), or box=COLUMN for a list of four numbers"
)


@dataclass(frozen=True)
class ColumnMap:
    """Attributes:
    columns: field -> path of its column.
    boxes: "xyxy", "xywh" or "cxcywh"; unit: coordinates are fractions of the image size, not pixels.
    inclusive: xmax and ymax are the indices of the last pixels.
    forms, units: what `boxes` and `unit` may be; one, if the user or the file says so.
    suffix: the suffix to append to file names without one.
    per_image: one row per image, with lists of boxes; else one row per box.
    """

    columns: dict[str, str]
    boxes: str
    unit: bool
    inclusive: bool
    suffix: str
    per_image: bool
    forms: tuple[str, ...]
    units: tuple[str, ...]

    @property
    def numbers(self) -> tuple[str, ...]:
        """Return the fields of the four box coordinates, or the single field that contains all four."""
        return ("box",) if "box" in self.columns else CORNERS[self.boxes]


def parse_map(text: str | None) -> dict[str, str]:
    """Parse `file=filename,xmin=x1`, or a TOML file of such lines given by its path, to field -> column.

    Raises:
        ConfigError: invalid syntax, or an unknown field. FormatError: the file cannot be read.
    """
    if not text:
        return {}
    columns: Mapping[str, Any]
    if text.lower().endswith(".toml"):
        try:
            columns = tomllib.loads(read_text(Path(text)))
        except tomllib.TOMLDecodeError as error:
            raise ConfigError(f"{text}: not TOML: {error}") from None
    else:
        pairs = [pair.partition("=") for pair in text.split(",") if pair.strip()]
        columns = {field.strip(): column.strip() for field, _, column in pairs}
    for field, column in columns.items():
        if field not in FIELDS or not isinstance(column, str) or not column:
            known = ", ".join(FIELDS)
            raise ConfigError(f"--map {field}={column}: expected FIELD=COLUMN; the fields are {known}")
    return dict(columns)


def paths(schema: pa.Schema) -> dict[str, pa.DataType]:
    """Return column types by path, including fields of structs and of lists of structs; the latter have list types."""
    types: dict[str, pa.DataType] = {}

    def add(path: str, kind: pa.DataType, listed: bool) -> None:
        if pa.types.is_dictionary(kind):
            kind = kind.value_type
        inner = kind.value_type if is_list(kind) and not listed else kind
        if pa.types.is_struct(inner):
            for part in inner:
                add(f"{path}.{part.name}", part.type, listed or inner is not kind)
        else:
            types.setdefault(path, pa.list_(kind) if listed else kind)

    for field in schema:
        add(field.name, field.type, False)
    return types


def recognise(
    path: Path, schema: pa.Schema, mapped: dict[str, str], boxes: str | None, unit: str | None, inclusive: bool
) -> ColumnMap:
    """Determine the columns. The user's options take precedence over the known headers.

    Raises:
        FormatError: columns are missing. ConfigError: invalid or incompatible options.
    """
    check_form(boxes, unit)
    present = paths(schema)
    listed = f"columns found: {', '.join(present)}"
    for field, column in mapped.items():
        if column not in present:
            raise FormatError(f"{path}: --map {field}={column}: no such column; {listed}")

    cased = {name.lower(): name for name in present}

    def pick(names: str) -> str:
        return next((cased.get(name.lower(), "") for name in names.split("|") if name.lower() in cased), "")

    columns = {field: pick(names) for field, names in OPTIONAL.items()}
    form, measure, suffix = "", "pixel", ""
    for known, *rest in KNOWN:
        here = {field: mapped.get(field) or pick(names) for field, names in known.items()}
        if all(here.values()) and (boxes in (None, rest[0]) or "box" in here):
            columns |= here
            form, measure, suffix = rest
            measure = str(stated(schema).get("unit", measure))
            break
    else:  # fall back to columns named like the fields
        columns |= {field: field for field in FIELDS if field in present}
        columns |= {
            "file": pick("image.path|file|" + FILES),
            "label": pick("label|" + LABELS),
            "image": pick("image.bytes"),
        }
    columns = {field: column for field, column in (columns | mapped).items() if column}
    given = [name for name, corners in CORNERS.items() if all(corner in columns for corner in corners)]
    form = boxes or form or (given[0] if len(given) == 1 else "")
    if "box" in mapped and not boxes:
        raise ConfigError(f"--map box={mapped['box']}: say with --boxes {'|'.join(CORNERS)} what its numbers are")
    missing = [field for field in ("label",) if field not in columns]
    if not {"file", "image"} & columns.keys():
        missing.insert(0, "file")
    if "box" not in columns:
        missing += [corner for corner in CORNERS[form or "xyxy"] if corner not in columns]
    if missing:
        raise FormatError(f"{path}: no column for {', '.join(missing)}; {listed}; expected {EXPECTED}")
    if not form:
        raise ConfigError(f"{path}: say with --boxes {'|'.join(CORNERS)} what the boxes' numbers are; {listed}")
    is_unit = (unit or measure) == "unit"
    if inclusive and (form != "xyxy" or is_unit):
        raise ConfigError("--inclusive: is for corners in pixels alone, --boxes xyxy --unit pixel")
    numbers = ("box",) if "box" in columns else CORNERS[form]
    depth = [
        _depth(present[columns[field]]) - (field == "box" and is_list(present[columns[field]])) for field in numbers
    ]
    per_image = depth[0] > 0
    if len({*depth, _depth(present[columns["label"]])}) > 1 or depth[0] > 1:
        kinds = ", ".join(f"{columns[field]} {present[columns[field]]}" for field in (*numbers, "label"))
        raise FormatError(f"{path}: {kinds}: expected single values, a row a box, or lists, a row an image")
    for field in {*FLAGS, "flags", "area"} & columns.keys():
        if _depth(present[columns[field]]) != depth[0]:  # such as an area per image
            if field in mapped:
                kind = present[columns[field]]
                raise FormatError(
                    f"{path}: --map {field}={columns[field]}: is {kind}; expected at least one per rank box"
                )
            del columns[field]
    if "image" in columns and not per_image:
        raise FormatError(f"{path}: images are embedded, but a row is a box; expected a row an image, with lists")
    by_user = boxes or {*CORNERS[form]} <= mapped.keys()
    ours = stated(schema).get("boxes") == form  # written by `write`
    forms = (form,) if by_user or ours else tuple(FORMS)
    units = (unit or measure,) if unit or ours else tuple(UNITS)
    return ColumnMap(columns, form, is_unit, inclusive, suffix, per_image, forms, units)


def stated(schema: pa.Schema) -> dict[str, Any]:
    """Return what `write` noted in the file."""
    try:
        facts = json.loads((schema.metadata or {})[b"dataforge"])
    except (KeyError, TypeError, ValueError):
        return {}
    return facts if isinstance(facts, dict) else {}


def _depth(kind: pa.DataType) -> int:
    return 1 + _depth(kind.value_type) if is_list(kind) else 0


def class_names(schema: pa.Schema, path: str) -> list[str] | None:
    """Return the names of a ClassLabel column, from the schema metadata written by Hugging Face's datasets."""
    try:
        node: Any = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        for part in path.split("."):
            while part not in node:
                node = node["feature"]  # a list of this feature
            node = node[part]
        while "names" not in node:
            node = node["feature"]
        names = node["names"]
    except (KeyError, TypeError, ValueError):
        return None
    return [str(name) for name in names] if isinstance(names, list) else None


def as_edges(numbers: NDArray[np.float64], mapping: ColumnMap) -> NDArray[np.float64]:
    """Convert boxes (n, 4) from the table's convention to x1, y1, x2, y2 in edge coordinates, in the same unit."""
    return include_last(numbers, 0, 1) if mapping.inclusive else edges(numbers, mapping.boxes)
