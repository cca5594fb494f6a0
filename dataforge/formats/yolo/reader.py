"""YOLO text labels: `class cx cy w h`, or `class x1 y1 x2 y2 x3 y3 ...`, as fractions of the upright image's size."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from dataforge.errors import FormatError
from dataforge.files import check_root, is_absent, read_text
from dataforge.formats.annotated import TOGETHER, Annotated, Edges, hull, records_of
from dataforge.formats.boxes import as_xyxy, edges
from dataforge.formats.classes import unique_ids, unite
from dataforge.formats.pictures import key_of
from dataforge.formats.voc.files import find_unions, overlaps
from dataforge.formats.yolo.files import EXPECTED, YoloSet, find, images_of
from dataforge.formats.yolo.labels import label_folder, labels_in, orphans, twin, twins
from dataforge.formats.yolo.plain import parse
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
        places = {
            str(folder): (folder, labels, twins(names_in[labels]), key_of(folder / "x", dataset.base)[:-1])
            for folder, labels in folders.items()
        }
        seen: dict[float, dict[Path, int]] = {}
        for name, paths in images.items():
            for start in range(0, len(paths), TOGETHER):
                read = []
                for path in paths[start : start + TOGETHER]:
                    above, picture = os.path.split(path)
                    folder, labels, others, below = places[above or "."]
                    file = labels / (picture[: picture.rindex(".")] + ".txt")
                    read.append((below + picture, folder / picture, *_read(picture, file, others)))
                yield from _items(name, read, dataset, seen)
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


def _read(picture: str, file: Path, others: dict[str, str]) -> tuple[Path, str | FormatError]:
    """Return the label file that a picture has and its text, or the error.

    Args:
        others: the `twins` in the folder of `file`, one of which is read if there is no such file.
    """
    try:
        return file, read_text(file)
    except FormatError as error:
        other = twin(picture, others)
        return _read(picture, file.with_name(other), {}) if other and is_absent(file) else (file, error)


def _items(
    split: str,
    read: list[tuple[str, Path, Path, str | FormatError]],
    dataset: YoloSet,
    seen: dict[float, dict[Path, int]],
) -> Iterator[Finding | tuple[str, str, Path, Annotated]]:
    """Yield images for `records_of`, or the findings why they are left out.

    Args:
        read: keys, images, and what `_read` returns of each.
        seen: the labels' class numbers are added to it, with a file and its line of two files of unknown ones.
    """
    texts = ["" if dataset.keypoints or isinstance(text, FormatError) else text for *_, text in read]
    plain, numbers = parse(texts, dataset.names)
    for number in numbers:
        seen.setdefault(number, {})
    for n, (key, path, file, text) in enumerate(read):
        item = Annotated(key, file, 0, 0, True, *plain.get(n, ()))
        if isinstance(text, str):
            if n not in plain:
                _add(item, file, text, dataset, seen)
        elif is_absent(file):
            yield Finding("noted", "no-label", str(path), key, "", "no label file; taken as an empty image", "image")
            item.origin = path
        else:
            reason = str(text).removeprefix(f"{file}: ")
            yield Finding("refused", "label-broken", str(file), key, "", reason, "image")
            continue
        yield split, key, path, item


def _add(item: Annotated, file: Path, text: str, dataset: YoloSet, seen: dict[float, dict[Path, int]]) -> None:
    """Add the boxes of a label file, and the findings about its other lines."""
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
                files.setdefault(file, n)
            code, reason, xyxy = "unknown-class", "the class is not in names", as_xyxy(parsed[1])
        value = f"line {n}: {line if len(line) <= 60 else line[:57] + '...'}"
        item.note("refused", code, value, reason, xyxy)


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
        return as_boxes(edges(unit, "cxcywh") * (width, height, width, height))
