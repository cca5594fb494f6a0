"""YOLO text labels: `class cx cy w h`, or `class x1 y1 x2 y2 x3 y3 ...`, as fractions of the upright image's size."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from dataforge.errors import FormatError, ImageError
from dataforge.files import check_root, exists, read_text
from dataforge.formats.yolo.files import EXPECTED, find, images_of, key_of, label_folder, orphans
from dataforge.images.header import read_size
from dataforge.record import Boxes, Finding, Record, Source, as_boxes, pick_splits


def read(root: Path, *, split: tuple[str, ...] | None = None, allow_outside: bool = False) -> Source:
    """Read a YOLO set.

    Args:
        root: its folder, or its YAML file.
        split: take these only.
        allow_outside: the YAML and its lists may lead out of the YAML's folder.

    Raises:
        FormatError: no layout fits, or the YAML is wrong. ConfigError: no such split.
    """
    found: list[Finding] = []
    if not root.is_file():
        check_root(root, EXPECTED)
    layout = find(root, split, found, allow_outside)
    classes = tuple(dict.fromkeys(layout.names[i] for i in sorted(layout.names)))
    if len(classes) < len(layout.names):
        reason = "a name is given to several ids; taken for one class"
        found.append(Finding("noted", "class-twice", str(layout.origin), "names", "", reason, "set"))
    label_of = {i: classes.index(name) for i, name in layout.names.items()}
    class_ids = tuple(min(i for i, label in label_of.items() if label == n) for n in range(len(classes)))
    chosen = pick_splits(split, layout.splits)
    images = {name: images_of(layout, name, found, allow_outside) for name in chosen}
    parents = {path.parent for paths in images.values() for path in paths}
    folders = {folder: label_folder(folder, layout.base) for folder in sorted(parents)}
    if not any(next(folder.glob("*.txt"), None) for folder in set(folders.values())):
        looked = ", ".join(sorted({str(folder) for folder in folders.values()})[:3]) or "no image folder"
        why = "".join(f"; {one.file}: {one.key}: {one.reason}" for one in found if one.action == "refused")
        raise FormatError(f"{root}: no label files found (looked in {looked}){why}; expected {EXPECTED}")
    found += orphans(folders)

    def records() -> Iterator[Record | Finding]:
        yield from found
        for name in chosen:
            for path in images[name]:
                yield from _record(name, path, folders[path.parent] / (path.stem + ".txt"), layout.base, label_of)

    return Source(classes, records(), class_ids, total=sum(map(len, images.values())))


def _record(split: str, path: Path, labels: Path, base: Path, label_of: dict[int, int]) -> Iterator[Record | Finding]:
    key = key_of(path, base)
    height = width = 0
    numbers: list[int] = []
    boxes = np.zeros((0, 4), np.float32)
    try:
        height, width = read_size(path)
    except (OSError, ValueError, ImageError):
        pass  # ingest opens it too, and says what is wrong
    else:
        if exists(labels):
            try:
                text = read_text(labels)
            except FormatError as error:
                reason = str(error).removeprefix(f"{labels}: ")
                yield Finding("refused", "label-broken", str(labels), key, "", reason, "image")
                return
            cxcywh_unit: list[list[float]] = []
            for n, line in enumerate(text.splitlines(), 1):
                fields = line.split()
                if not fields:
                    continue
                parsed = _line(fields, label_of)
                if isinstance(parsed, tuple):
                    numbers.append(parsed[0])
                    cxcywh_unit.append(parsed[1])
                else:
                    value = line if len(line) <= 60 else line[:57] + "..."
                    code = "unknown-class" if parsed.startswith("the class") else "line-broken"
                    yield Finding("refused", code, str(labels), f"{key} line {n}", value, parsed + "; left out")
            boxes = pixels(cxcywh_unit, height, width)
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
    )


def _line(fields: list[str], label_of: dict[int, int]) -> tuple[int, list[float]] | str:
    """A line's label and its box as `cxcywh_unit`, or what is wrong with it."""
    try:
        number, *values = (float(one) for one in fields)
    except ValueError:
        return "expected numbers only"
    if number not in label_of:
        return "the class is not in names"
    if any(abs(value) > 2 for value in values):
        return "expected fractions of the image's size, 0..1"
    if len(values) == 4:
        return label_of[int(number)], values
    if len(values) >= 6 and len(values) % 2 == 0:
        left, right, top, bottom = min(values[::2]), max(values[::2]), min(values[1::2]), max(values[1::2])
        return label_of[int(number)], [(left + right) / 2, (top + bottom) / 2, right - left, bottom - top]
    return f"{len(fields)} numbers; expected class cx cy w h, or class and at least 3 points"


def pixels(cxcywh_unit: list[list[float]] | np.ndarray, height: int, width: int) -> Boxes:
    unit = np.asarray(cxcywh_unit, np.float64).reshape(-1, 4)
    with np.errstate(all="ignore"):
        corners = np.concatenate([unit[:, :2] - unit[:, 2:] / 2, unit[:, :2] + unit[:, 2:] / 2], 1)
        return as_boxes(corners * (width, height, width, height))
