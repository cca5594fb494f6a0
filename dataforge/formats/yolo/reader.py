"""YOLO text labels: `class cx cy w h`, or `class x1 y1 x2 y2 x3 y3 ...`, as fractions of the upright image's size."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from dataforge.errors import FormatError, ImageError
from dataforge.files import check_root, exists, read_text
from dataforge.formats.boxes import as_xyxy
from dataforge.formats.classes import unique_ids, unite
from dataforge.formats.voc.files import find_unions, overlaps
from dataforge.formats.yolo.files import EXPECTED, YoloSet, find, images_of, key_of, label_folder, orphans
from dataforge.images.header import read_size
from dataforge.polygons import Polygons
from dataforge.record import Boxes, Finding, Record, Source, as_boxes, pick_splits


def read(root: Path, *, split: tuple[str, ...] | None = None, allow_outside: bool = False) -> Source:
    """Read a YOLO set, as Ultralytics, Darknet, CVAT, Roboflow and Label Studio lay it out.

    Of a box with keypoints (`kpt_shape` in the YAML) the box is kept.

    Args:
        root: the folder, the YAML file or Darknet's obj.data.
        split: read only these splits.
        allow_outside: allow paths in the YAML and its lists outside the YAML's folder.

    Raises:
        FormatError: no layout fits, or the YAML is wrong. ConfigError: no such split.
    """
    findings: list[Finding] = []
    if not root.is_file():
        check_root(root, EXPECTED)
    dataset = find(root, split, findings, allow_outside)
    numbers, noted = unite({dataset.origin: dict(sorted(dataset.names.items()))})
    findings += noted
    classes = tuple(numbers)
    label_of = {i: classes.index(name) for i, name in dataset.names.items()}
    chosen = pick_splits(split, dataset.splits)
    images = {name: images_of(dataset, name, split, findings, allow_outside) for name in chosen}
    images = {name: paths for name, paths in images.items() if paths}
    listed = all(path.is_file() for name in images for path in dataset.splits[name])
    unions = find_unions({name: set(map(str, paths)) for name, paths in images.items()}) if listed else {}
    images = {name: paths for name, paths in images.items() if name not in unions}
    findings += overlaps({name: set(map(str, paths)) for name, paths in images.items()}, dataset.origin)
    parents = {path.parent for paths in images.values() for path in paths}
    folders = {folder: label_folder(folder, dataset.base) for folder in sorted(parents)}
    if not any(next(folder.glob("*.txt"), None) for folder in set(folders.values())):
        looked = ", ".join(sorted({str(folder) for folder in folders.values()})[:3]) or "no image folder"
        refused = [finding for finding in findings if finding.action == "refused"]
        why = "".join(f"; {finding.file}: {finding.key}: {finding.reason}" for finding in refused)
        raise FormatError(f"{root}: no label files found (looked in {looked}){why}; expected {EXPECTED}")
    findings += orphans(folders)

    def records() -> Iterator[Record | Finding]:
        yield from findings
        for name, paths in images.items():
            for path in paths:
                yield from _record(name, path, folders[path.parent] / (path.stem + ".txt"), dataset, label_of)

    total = sum(map(len, images.values()))
    return Source(classes, records(), unique_ids(numbers), unions, total, dataset.files)


def _record(
    split: str, path: Path, labels: Path, dataset: YoloSet, label_of: dict[int, int]
) -> Iterator[Record | Finding]:
    key = key_of(path, dataset.base)
    height = width = 0
    numbers: list[int] = []
    boxes = np.zeros((0, 4), np.float32)
    rings: list[list[list[float]]] = []
    polygons = None
    try:
        height, width = read_size(path)
    except (OSError, ValueError, ImageError):
        pass  # ingest opens it too, and reports the error
    else:
        if exists(labels):
            try:
                text = read_text(labels)
            except FormatError as error:
                reason = str(error).removeprefix(f"{labels}: ")
                yield Finding("refused", "label-broken", str(labels), key, "", reason, "image")
                return
            cxcywh_unit: list[list[float]] = []
            lines = [(n, line) for n, line in enumerate(text.splitlines(), 1) if line.strip()]
            for box, (n, line) in enumerate(lines):
                value = f"line {n}: {line if len(line) <= 60 else line[:57] + '...'}"
                parsed = _line(line.split(), dataset.keypoints)
                if isinstance(parsed, str):
                    yield Finding("refused", "line-broken", str(labels), key, value, f"{parsed}; left out", box=box)
                elif parsed[0] not in label_of:
                    reason, xyxy = "the class is not in names; left out", as_xyxy(pixels([parsed[1]], height, width)[0])
                    yield Finding("refused", "unknown-class", str(labels), key, value, reason, box=box, xyxy=xyxy)
                else:
                    numbers.append(label_of[int(parsed[0])])
                    cxcywh_unit.append(parsed[1])
                    rings.append([parsed[2]] if parsed[2] else [])
            boxes = pixels(cxcywh_unit, height, width)
            if any(rings):
                polygons = Polygons.of(rings, (width, height))
                boxes = np.where(polygons.counts[:, None] > 0, polygons.hulls(), boxes)
        else:
            yield Finding("noted", "no-label", str(path), key, "", "no label file; taken as an empty image", "image")
    yield Record(
        key=key,
        split=split,
        image=path,
        height=height,
        width=width,
        boxes=boxes,
        labels=np.array(numbers, np.int32),
        flags=np.zeros(len(numbers), np.uint8),
        origin=str(labels if exists(labels) else path),
        polygons=polygons,
    )


def _line(fields: list[str], keypoints: tuple[int, int] | None) -> tuple[float, list[float], list[float]] | str:
    """Return a line's class number, its box as `cxcywh_unit` and its points, if any; or a description of the error.

    Args:
        keypoints: the number of keypoints that follow each box, and of numbers for each, if the set states them.
    """
    try:
        number, *values = (float(field) for field in fields)
    except ValueError:
        return "expected numbers only"
    if keypoints:
        count, each = keypoints
        if len(values) != 4 + count * each:
            return f"{len(fields)} numbers; expected class cx cy w h and {count} x {each}, as kpt_shape states"
        values = values[:4]
    if any(abs(value) > 2 for value in values):
        return "expected fractions of the image's size, 0..1"
    if len(values) == 4:
        return number, values, []
    if len(values) >= 10 and _has_visibilities(values):
        return "looks like a box and keypoints of x, y, visibility; expected kpt_shape in the YAML"
    if len(values) >= 6 and len(values) % 2 == 0:
        left, right, top, bottom = min(values[::2]), max(values[::2]), min(values[1::2]), max(values[1::2])
        return number, [(left + right) / 2, (top + bottom) / 2, right - left, bottom - top], values
    return f"{len(fields)} numbers; expected class cx cy w h, or class and at least 3 points"


def _has_visibilities(values: list[float]) -> bool:
    """Return True if numbers are a box and at least two keypoints with 0, 1 or 2 as the third number of each."""
    cx, cy, w, h, *points = values
    in_image = min(w, h) > 0 and w / 2 <= cx <= 1 - w / 2 and h / 2 <= cy <= 1 - h / 2
    return in_image and len(points) % 3 == 0 and all(seen in (0, 1, 2) for seen in points[2::3])


def pixels(cxcywh_unit: list[list[float]] | np.ndarray, height: int, width: int) -> Boxes:
    unit = np.asarray(cxcywh_unit, np.float64).reshape(-1, 4)
    with np.errstate(all="ignore"):
        corners = np.concatenate([unit[:, :2] - unit[:, 2:] / 2, unit[:, :2] + unit[:, 2:] / 2], 1)
        return as_boxes(corners * (width, height, width, height))
