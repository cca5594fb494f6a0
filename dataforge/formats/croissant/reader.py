"""Reader of Croissant metadata of local tables: https://docs.mlcommons.org/croissant/docs/croissant-spec.html."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dataforge.archives.path import opened
from dataforge.errors import FormatError
from dataforge.files import exists, inside, reading
from dataforge.formats.croissant.metadata import metadata
from dataforge.formats.json_files import read_json
from dataforge.formats.table.reader import read_files, split_of
from dataforge.record import Source

EXPECTED = "Croissant's metadata: a JSON object with distribution and recordSet"
# https://keras.io/api/keras_cv/bounding_box/formats, which Croissant's specification refers to
BOXES = {
    "XYXY": ("xyxy", "pixel"),
    "XYWH": ("xywh", "pixel"),
    "CENTER_XYWH": ("cxcywh", "pixel"),
    "REL_XYXY": ("xyxy", "unit"),
    "REL_XYWH": ("xywh", "unit"),
}
Json = dict[str, Any]


def read(root: Path, *, split: tuple[str, ...] | None = None, allow_outside: bool = False) -> Source:
    """Read the record sets that have a field of type `cr:BoundingBox`, from columns of files below `root`.

    Their fields of type `sc:ImageObject`, or named as a file, are the images, a field that refers to another record set
    or is named as a class, the classes. Checksums of files are compared.

    Args:
        root: a folder with one Croissant file, or that file.
        split: read only these splits. A file's name tells its split.
        allow_outside: allow names of images outside the folder: absolute paths, or paths with `..`.

    Raises:
        FormatError: there is no such file, it does not describe boxes, or a file is missing or has another checksum.
        ConfigError: no such split.
    """
    path = metadata(root)
    if path is None:
        raise FormatError(f"{root}: no Croissant file found; expected {EXPECTED}")
    facts = read_json(path, dict[str, Any], EXPECTED)
    nodes = {str(node.get("@id")): node for node in _list(facts.get("distribution")) if isinstance(node, dict)}
    files: dict[Path, tuple[str, str, str]] = {}  # -> --map, --boxes, --unit
    for record_set in _list(facts.get("recordSet")):
        fields = [field for field in _list(record_set.get("field")) if isinstance(field, dict) and "source" in field]
        box = next((field for field in fields if "BoundingBox" in _types(field)), None)
        if box is None:
            continue
        form, unit = _form(path, box)
        columns = {"box": _column(path, box), **_others(path, fields, box)}
        for file in _files(path, nodes, box):
            files[file] = (",".join(f"{field}={column}" for field, column in columns.items()), form, unit)
    if not files:
        raise FormatError(f"{path}: recordSet: no field has the type cr:BoundingBox and a source; expected one")
    if len(set(files.values())) > 1:
        raise FormatError(f"{path}: recordSet: the record sets of boxes have different columns; expected the same")
    ((mapped, form, unit),) = set(files.values())
    named = [(split_of(file, len(files) == 1), file) for file in sorted(files)]
    how: dict[str, Any] = {"map": mapped, "boxes": form, "unit": unit or None}
    source = read_files(named, path.parent, split=split, allow_outside=allow_outside, **how)
    return Source(**{**vars(source), "files": [*source.files, path]})


def _others(path: Path, fields: list[Json], box: Json) -> dict[str, str]:
    """Return the columns of images, names and classes, by field of `table`."""
    found: dict[str, str] = {}
    for field in fields:
        name = str(field.get("name", "")).rpartition("/")[2].lower()
        if "ImageObject" in _types(field):
            found.setdefault("image", _column(path, field))
        elif field is not box and ("references" in field or name in ("category", "label", "class")):
            found.setdefault("label", _column(path, field))
        elif name in ("file_name", "filename", "path"):
            found.setdefault("file", _column(path, field))
    if "label" not in found or not {"image", "file"} & found.keys():
        raise FormatError(f"{path}: recordSet: the boxes of {box.get('@id')} have no field of classes or images beside")
    return found


def _form(path: Path, box: Json) -> tuple[str, str]:
    """Return the convention that a field states; "" if none, so that `table` checks its own guess."""
    stated = str(box["source"].get("format", "")).upper()
    if stated and stated not in BOXES:
        raise FormatError(f"{path}: {box.get('@id')}: format {stated!r}; expected one of {', '.join(BOXES)}")
    return BOXES.get(stated, ("xywh", ""))


def _column(path: Path, field: Json) -> str:
    """Return a field's column, with the path in it."""
    source = field["source"]
    column = (source.get("extract") or {}).get("column")
    if not isinstance(column, str):
        raise FormatError(f"{path}: {field.get('@id')}: source: expected extract with a column")
    inner = [step["jsonPath"] for step in _list(source.get("transform")) if isinstance(step.get("jsonPath"), str)]
    return ".".join([column, *(step.removeprefix("$.").replace("[*]", "") for step in inner)])


def _files(path: Path, nodes: dict[str, Json], box: Json) -> Iterator[Path]:
    source = box["source"]
    reference = source.get("fileObject") or source.get("fileSet")
    node = nodes.get(str(reference.get("@id") if isinstance(reference, dict) else reference))
    if node is None:
        raise FormatError(f"{path}: {box.get('@id')}: source: {reference}; expected a file of the distribution")
    if "includes" not in node:
        yield _file(path, node)
        return
    homes = [nodes.get(str(home.get("@id"))) for home in _list(node.get("containedIn"))]
    places = [opened(_file(path, home)) for home in homes if home] or [path.parent]
    found = [file for place in places for pattern in _list(node["includes"]) for file in sorted(place.glob(pattern))]
    if not found:
        raise FormatError(f"{path}: {node.get('@id')}: includes {node['includes']}: no such file in {places[0]}")
    yield from found


def _file(path: Path, node: Json) -> Path:
    """Return the file of a FileObject, with its checksum compared."""
    address = str(node.get("contentUrl", ""))
    name = inside(address)
    if "://" in address or name is None or not exists(path.parent / name):
        raise FormatError(f"{path}: {node.get('@id')}: contentUrl {address!r}; expected a file below {path.parent}")
    file = path.parent / name
    if "sha256" in node:
        digest = hashlib.sha256()
        with reading(file), file.open("rb") as data:
            while chunk := data.read(1 << 20):
                digest.update(chunk)
        if digest.hexdigest() != str(node["sha256"]).lower():
            raise FormatError(f"{file}: its SHA-256 is {digest.hexdigest()}; {path.name} states {node['sha256']}")
    return file


def _types(field: Json) -> set[str]:
    return {str(kind).rpartition(":")[2].rpartition("/")[2] for kind in _list(field.get("dataType"))}


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [] if value is None else [value]
