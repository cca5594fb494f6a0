"""YOLO text labels: `class cx cy w h`, or `class x1 y1 x2 y2 x3 y3 ...`, as fractions of the upright image's size."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import yaml

from dataforge.errors import FormatError, ImageError
from dataforge.files import check_root, exists, inside, new_folder, put_text, read_text
from dataforge.formats.pictures import is_picture, picture_name, put_picture
from dataforge.formats.yolo.files import EXPECTED, SPLITS, find, images_of, key_of, label_folder, orphans
from dataforge.images.header import read_size
from dataforge.record import Boxes, Finding, Record, Source, as_boxes, pick_splits

HOLDS = frozenset({"splits", "classes"})
PLACES = range(6, 16)  # decimal places tried, from what most tools write


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
            boxes = _pixels(cxcywh_unit, height, width)
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


def _pixels(cxcywh_unit: list[list[float]] | np.ndarray, height: int, width: int) -> Boxes:
    unit = np.asarray(cxcywh_unit, np.float64).reshape(-1, 4)
    with np.errstate(all="ignore"):
        corners = np.concatenate([unit[:, :2] - unit[:, 2:] / 2, unit[:, :2] + unit[:, 2:] / 2], 1)
        return as_boxes(corners * (width, height, width, height))


def write(source: Source, root: Path) -> None:
    """Write `images/<split>/<key>`, `labels/<split>/*.txt` and `data.yaml`.

    Boxes come back bit for bit (but for corners nearer to the edge than 1e-6 pixels, which are kept to 1e-9). Of two
    pictures that differ in their suffix alone, the second one gets its suffix twice, since labels go by the name before
    the suffix; a key without a picture's suffix gets one. No flags, areas, image or class numbers can be held. Splits
    that are not called train, val or test are named below `splits` in `data.yaml`; the first one whose name starts with
    one of these three stands for it too.

    Raises:
        FormatError: `root` is not empty, something cannot be written, there are no images, or one has no size.
    """
    new_folder(root)
    splits: dict[str, str] = {}
    taken: set[str] = set()
    for item in source.records:
        if isinstance(item, Finding):
            continue
        name = picture_name(item)
        if not is_picture(name) or min(item.height, item.width) <= 0:
            size = f"{item.width}x{item.height}"
            raise FormatError(f"{item.key!r} ({size}): YOLO cannot hold it; expected a picture's name and its size")
        name = (inside(name) or name).removeprefix("images/").removeprefix(f"{item.split}/")
        folder = f"images/{item.split}"
        while _label_path(f"{folder}/{name}") in taken:
            name += PurePosixPath(name).suffix
        put_picture(replace(item, key=name), root / folder)
        labels = _label_path(f"{folder}/{name}")
        taken.add(labels)
        splits[item.split] = folder
        rows = zip(item.labels.tolist(), _unit(item.boxes, item.height, item.width).tolist(), strict=True)
        lines = [" ".join([str(label), *map(repr, cxcywh_unit)]) + "\n" for label, cxcywh_unit in rows]
        put_text(root / labels, "".join(lines).encode())
    if not splits:
        raise FormatError(f"{root}: there are no images to write")
    facts: dict[str, Any] = {}
    for name in SPLITS:
        fitting = [folder for split, folder in splits.items() if split.startswith(name)]
        if fitting:
            facts[name] = splits.get(name, fitting[0])
    if not splits.keys() <= set(SPLITS):
        facts["splits"] = splits
    facts["names"] = dict(enumerate(source.classes))
    text = yaml.safe_dump(facts, sort_keys=False, allow_unicode=True)
    put_text(root / "data.yaml", text.encode())


def _label_path(picture: str) -> str:
    """Where the labels of `images/...` are looked for: the last folder called `images` becomes `labels`."""
    *folders, name = picture.split("/")
    last = len(folders) - 1 - folders[::-1].index("images")
    folders[last] = "labels"
    return "/".join([*folders, str(PurePosixPath(name).with_suffix(".txt"))])


def _unit(boxes: Boxes, height: int, width: int) -> np.ndarray:
    """(n, 4) `cxcywh_unit`, with as few places as `_pixels` needs to give the boxes back."""
    size = np.array([width, height], np.float64)
    low, span = boxes[:, :2] / size, (boxes[:, 2:].astype(np.float64) - boxes[:, :2]) / size
    found = np.concatenate([low + span / 2, span], 1)
    open_ = np.ones(low.shape, bool)
    for places in PLACES:
        if not open_.any():
            break
        short = np.round(span, places)
        unit = np.concatenate([np.round(low + short / 2, places), short], 1)
        fits = open_ & (_pixels(unit, height, width) == boxes).reshape(-1, 2, 2).all(1)
        found[np.tile(fits, 2)] = unit[np.tile(fits, 2)]
        open_ &= ~fits
    return found
