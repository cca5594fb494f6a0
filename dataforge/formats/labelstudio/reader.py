"""Reader of Label Studio's exports.

The fields of results are those of labelstud.io/guide/task_format and labelstud.io/tags/rectanglelabels: x, y, width and
height in percent, `rotation` clockwise around the corner, sizes as `original_width` and `original_height`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import msgspec

from dataforge.errors import FormatError, counted
from dataforge.files import files_below
from dataforge.formats.annotated import Annotated, Numbers, files_of, hull, source, xywh
from dataforge.formats.boxes import rotated
from dataforge.formats.json_files import decode, entry, read_json
from dataforge.formats.labelstudio import is_tasks
from dataforge.formats.pictures import as_size, base_of, is_picture, path_of
from dataforge.formats.sniff import outline
from dataforge.record import Finding, Source

EXPECTED = "Label Studio's JSON or JSON-min: a list of tasks with data and annotations"


class Value(msgspec.Struct, gc=False):
    """A region in percent of the image's size. Rows of JSON-min hold the image's size too."""

    x: float | None = None
    y: float | None = None
    width: float | None = None
    height: float | None = None
    rotation: float | None = None
    points: list[tuple[float, float]] | None = None
    radiusX: float | None = None  # noqa: N815
    radiusY: float | None = None  # noqa: N815
    labels: list[str] | None = None
    rectanglelabels: list[str] | None = None
    polygonlabels: list[str] | None = None
    ellipselabels: list[str] | None = None
    brushlabels: list[str] | None = None
    keypointlabels: list[str] | None = None
    original_width: float | None = None
    original_height: float | None = None

    @property
    def names(self) -> list[str]:
        kinds = (self.rectanglelabels, self.polygonlabels, self.ellipselabels, self.brushlabels, self.keypointlabels)
        return next(filter(None, (*kinds, self.labels)), [])


class Result(msgspec.Struct, gc=False):
    value: Value | None = None  # relations have none
    type: str = ""
    id: str | int | None = None
    original_width: float | None = None
    original_height: float | None = None
    image_rotation: float | None = None


class Annotation(msgspec.Struct):
    result: list[Result]
    was_cancelled: bool | None = False
    skipped: bool | None = False  # of older files
    ground_truth: bool | None = False
    updated_at: str | int | None = ""
    created_at: str | int | None = ""


class Task(msgspec.Struct):
    data: dict[str, Any]
    annotations: list[Annotation] | None = None
    completions: list[Annotation] | None = None  # of older files


def read(
    root: Path, *, split: tuple[str, ...] | None = None, images: Path | None = None, allow_outside: bool = False
) -> Source:
    """Read tasks: rectangles, polygons and upright ellipses, which become boxes; predictions are not read.

    Of several annotations of a task, that marked as ground truth is read, else the one updated last. Tasks that are not
    annotated are left out. A region of several labels becomes a box for each. Classes are the sorted names in use.
    Images named by URLs are searched by the ends of their paths, also without the 8 characters that an upload adds, and
    without the percent signs of its URL.

    Args:
        root: a folder of files, or one file.
        split: read only these splits.
        images: the folder with the images; by default they are searched below `root`.
        allow_outside: allow names outside the folder: absolute, or with `..`.

    Raises:
        FormatError: no such files, or a file is not Label Studio's. ConfigError: no such split.
    """
    splits = files_of(root, is_tasks, EXPECTED)
    below = images or base_of(root)
    known = {path.name for path in files_below(below, is_picture)}
    parts = {name: (item for path in paths for item in _tasks(path, known)) for name, paths in splits.items()}
    files = [path for paths in splits.values() for path in paths]
    return source(root, parts, split, images, allow_outside, files=files)


def _tasks(path: Path, known: set[str]) -> Iterator[Annotated | Finding]:
    if "data" not in outline(path)[1]:
        yield from _minimal(path, known)
        return
    unlabeled = 0
    for n, task in enumerate(read_json(path, list[Task], EXPECTED)):
        where = f"{path}: {entry('', n)}"
        item = Annotated(_name(task.data, where, known), path, unit=True)
        done = [one for one in task.annotations or task.completions or [] if not (one.was_cancelled or one.skipped)]
        if not done:
            unlabeled += 1
            continue
        if len(done) > 1:
            reason = "several annotations of one task; the ground truth, or the last one, is read"
            yield Finding("noted", "annotations-several", str(path), item.name, f"{len(done)}", reason, "image")
        chosen = max(done, key=lambda one: (bool(one.ground_truth), str(one.updated_at or one.created_at or "")))
        labeled = {one.id for one in chosen.result if one.value and one.value.names}
        for one in chosen.result:
            if one.value is None:
                if one.type != "relation":
                    item.refuse("box-missing", one.type, "no value")
                continue
            if (
                one.value.names or one.id is None or one.id not in labeled
            ):  # else a rectangle whose labels are another result
                size = as_size(one.original_width), as_size(one.original_height)
                _add(item, one.value, one.type, size, one.image_rotation)
            item.width = item.width or as_size(one.original_width)
            item.height = item.height or as_size(one.original_height)
        yield item
    if unlabeled:
        reason = "no annotation, or only skipped ones (predictions are not read); left out"
        yield Finding("noted", "not-annotated", str(path), "", counted(unlabeled, "task"), reason, "set")


def _minimal(path: Path, known: set[str]) -> Iterator[Annotated]:
    """Read rows of JSON-min: the task's data and, by the names of the labeling tags, lists of values."""
    for n, row in enumerate(read_json(path, list[dict[str, msgspec.Raw]], EXPECTED)):
        where = f"{path}: {entry('', n)}"
        texts = {name: msgspec.json.decode(raw) for name, raw in row.items() if bytes(memoryview(raw)[:1]) == b'"'}
        item = Annotated(_name(texts, where, known), path, unit=True)
        for raw in map(bytes, row.values()):
            if re.match(rb"\[\s*\{", raw):
                for value in decode(raw, msgspec.json.Decoder(list[Value]), where, EXPECTED):
                    _add(item, value, "", (as_size(value.original_width), as_size(value.original_height)))
                    item.width = item.width or as_size(value.original_width)
                    item.height = item.height or as_size(value.original_height)
        yield item


def _add(item: Annotated, value: Value, kind: str, size: tuple[int, int], image_rotation: float | None = None) -> None:
    edges: Numbers | None = None
    ring: list[float] | None = None
    if value.points:
        edges = hull(*zip(*value.points, strict=True))
        ring = [number / 100 for point in value.points for number in point]
    elif value.radiusX is not None and value.radiusY is not None and value.x is not None and value.y is not None:
        edges = xywh(value.x - value.radiusX, value.y - value.radiusY, 2 * value.radiusX, 2 * value.radiusY)
    elif value.height is not None:
        edges = xywh(value.x, value.y, value.width, value.height)
    if edges is None:
        if value.names:
            item.refuse("shape-unknown", kind or value.names[0], "expected a rectangle, a polygon or an ellipse")
        return  # without labels: a choice or a text about the image
    unit: Numbers = [None if number is None else number / 100 for number in edges]
    degrees = value.rotation or 0.0
    whole = value.height is not None and all(size) and not image_rotation and math.isfinite(degrees)
    if degrees and whole and None not in unit:
        x1, y1, x2, y2 = (number * side for number, side in zip(unit, size * 2, strict=True) if number is not None)
        corners = rotated((x1, y1, x2, y2), degrees, (x1, y1))
        if corners:
            ring = [number / side for number, side in zip(corners, size * 4, strict=True)]
            unit = hull(ring[0::2], ring[1::2])
    elif degrees or image_rotation:
        reason = (
            "a rotated ellipse, an image that is rotated, no original_width and original_height, or no finite angle"
        )
        item.refuse("box-rotated", kind or value.names[0], reason, unit)
        return
    for name in value.names or [""]:
        item.add(name, unit, ring=ring)


def _name(data: dict[str, Any], where: str, known: set[str]) -> str:
    """Return the image's path from a task's data."""
    texts = [text for text in (data.get("image"), *data.values()) if isinstance(text, str)]
    likely = [text for text in texts if is_picture(path_of(text))] or [text for text in texts if "://" in text]
    url = next(iter(likely), "") or (data["image"] if isinstance(data.get("image"), str) else "")
    if not url:
        raise FormatError(f"{where}: data: no image; expected its path or URL as text; expected {EXPECTED}")
    path = path_of(url)
    folder, slash, name = path.rpartition("/")
    spelled = [one for text in (name, unquote(name)) for one in (text, re.sub(r"^[0-9a-f]{8}-", "", text))]
    return f"{folder}{slash}{next((one for one in spelled if one in known), name)}"
