"""YOLO text labels: `class cx cy w h`, or `class x1 y1 x2 y2 x3 y3 ...`, as fractions of the upright image's size."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from dataforge.errors import FormatError
from dataforge.files import check_root, is_absent, read_text
from dataforge.formats.annotated import Annotated, Edges, hull, records_of
from dataforge.formats.boxes import as_xyxy
from dataforge.formats.classes import unique_ids, unite
from dataforge.formats.pictures import key_of
from dataforge.formats.voc.files import find_unions, overlaps
from dataforge.formats.yolo.files import (
    EXPECTED,
    YoloSet,
    find,
    images_of,
    label_folder,
    labels_in,
    orphans,
    twin,
    twins,
)
from dataforge.record import Boxes, Finding, Source, as_boxes, pick_splits


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
    label_of = {name: label for label, name in enumerate(classes)}
    chosen = pick_splits(split, dataset.splits)
    images = {name: images_of(dataset, name, split, findings, allow_outside) for name in chosen}
    images = {name: paths for name, paths in images.items() if paths}
    by_lists = all(path.is_file() for name in images for path in dataset.splits[name])
    unions = find_unions({name: set(paths) for name, paths in images.items()}) if by_lists else {}
    images = {name: paths for name, paths in images.items() if name not in unions}
    findings += overlaps({name: set(paths) for name, paths in images.items()}, dataset.origin)
    parents = {os.path.split(path)[0] for paths in images.values() for path in paths}
    folders = {folder: label_folder(folder, dataset.base) for folder in sorted(map(type(dataset.base), parents))}
    names_in = {labels: labels_in(labels) for labels in folders.values()}
    if not any(names_in.values()):
        looked = ", ".join(sorted({str(folder) for folder in folders.values()})[:3]) or "no image folder"
        refused = [finding for finding in findings if finding.action == "refused"]
        why = "".join(f"; {finding.file}: {finding.key}: {finding.reason}" for finding in refused)
        raise FormatError(f"{root}: no label files found (looked in {looked}){why}; expected {EXPECTED}")
    findings += orphans(folders, names_in)

    def items() -> Iterator[Finding | tuple[str, str, Path, Annotated]]:
        yield from findings
        places = {str(folder): (folder, labels, twins(names_in[labels])) for folder, labels in folders.items()}
        seen: dict[float, dict[Path, int]] = {}
        for name, paths in images.items():
            for path in paths:
                above, picture = os.path.split(path)
                folder, labels, others = places[above or "."]
                file = labels / (picture[: picture.rindex(".")] + ".txt")
                yield from _item(name, folder / picture, file, others, dataset, seen)
        count = len(dataset.names)
        if seen and (min(seen), max(seen)) == (1, count) and dataset.names.keys() == {*range(count)}:
            (file, line), *more = seen[count].items()
            if more:  # a single file may be a slip
                raise FormatError(
                    f"{file}: line {line}: class {count}: the labels' class numbers run from 1 to {count}; "
                    f"expected 0 to {count - 1}, as the names are counted in {dataset.origin}"
                )

    total = sum(map(len, images.values()))
    return Source(classes, records_of(items(), label_of), unique_ids(numbers), unions, total, dataset.files)


def _item(
    split: str, path: Path, labels: Path, others: dict[str, str], dataset: YoloSet, seen: dict[float, dict[Path, int]]
) -> Iterator[Finding | tuple[str, str, Path, Annotated]]:
    """Yield an image for `records_of`, or the finding why it is left out.

    Args:
        others: the `twins` in the folder of `labels`, one of which is read if there is no such file.
        seen: the labels' class numbers are added to it, with a file and its line of two files of unknown ones.
    """
    key = key_of(path, dataset.base)
    try:
        text = read_text(labels)
    except FormatError as error:
        other = twin(path.name, others)
        if other and is_absent(labels):
            yield from _item(split, path, labels.with_name(other), {}, dataset, seen)
            return
        if is_absent(labels):
            yield Finding("noted", "no-label", str(path), key, "", "no label file; taken as an empty image", "image")
            yield split, key, path, Annotated(key, path, unit=True)
            return
        reason = str(error).removeprefix(f"{labels}: ")
        yield Finding("refused", "label-broken", str(labels), key, "", reason, "image")
        return
    item = Annotated(key, labels, unit=True)
    for n, line in enumerate(text.splitlines(), 1):
        if not (fields := line.split()):
            continue
        parsed = _line(fields, dataset.keypoints)
        if isinstance(parsed, str):
            code, reason, xyxy = "line-broken", parsed, None
        else:
            files = seen.setdefault(parsed[0], {})
            if parsed[0] in dataset.names:
                item.add(dataset.names[int(parsed[0])], parsed[1], ring=parsed[2])
                continue
            if len(files) < 2:
                files.setdefault(labels, n)
            code, reason, xyxy = "unknown-class", "the class is not in names", as_xyxy(parsed[1])
        value = f"line {n}: {line if len(line) <= 60 else line[:57] + '...'}"
        item.note("refused", code, value, reason, xyxy)
    yield split, key, path, item


def _line(fields: list[str], keypoints: tuple[int, int] | None) -> tuple[float, Edges, list[float] | None] | str:
    """Return a line's class number, its box as edges in fractions and its points; or a description of the error.

    Args:
        keypoints: the number of keypoints that follow each box, and of numbers for each, if the set states them.
    """
    try:
        number, *values = map(float, fields)
    except ValueError:
        return "expected numbers only"
    if keypoints:
        count, each = keypoints
        if len(values) != 4 + count * each:
            return f"{len(fields)} numbers; expected class cx cy w h and {count} x {each}, as kpt_shape states"
        values = values[:4]
    if any([abs(value) > 2 for value in values]):  # noqa: C419  (a list takes half the time)
        return "expected fractions of the image's size, 0..1"
    if len(values) == 4:
        cx, cy, w, h = values
        return number, (cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2), None
    if len(values) >= 10 and _has_visibilities(values):
        return "looks like a box and keypoints of x, y, visibility; expected kpt_shape in the YAML"
    if len(values) >= 6 and len(values) % 2 == 0:
        return number, hull(values[0::2], values[1::2]), values
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
