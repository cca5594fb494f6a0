"""JSON lists, as a PyTorch SSD tutorial creates them from VOC: TRAIN_images.json, TRAIN_objects.json, label_map.json.

Boxes are `[xmin, ymin, xmax, ymax]`, 0-based and inclusive: VOC's numbers minus one. Label 0 is the background.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np

from dataforge.errors import FormatError
from dataforge.files import check_root, globbed
from dataforge.formats.boxes import as_xyxy, include_last
from dataforge.formats.json_files import read_json
from dataforge.formats.pictures import given, locate, picture_folders
from dataforge.record import DIFFICULT, Boxes, Finding, Record, Source, as_boxes, pick_splits

EXPECTED = "TRAIN_images.json (paths), TRAIN_objects.json (boxes, labels, difficulties), TEST_... and label_map.json"
IMAGES, OBJECTS, LABEL_MAP = "_images.json", "_objects.json", "label_map.json"
BACKGROUND = "background"


class Objects(msgspec.Struct, gc=False):
    boxes: list[list[float | None]]
    labels: list[int]
    difficulties: list[int] | None = None


def read(
    root: Path, *, split: tuple[str, ...] | None = None, images: Path | None = None, allow_outside: bool = False
) -> Source:
    """Read a folder of lists. The split is the part before `_images.json`, in lower case if it is in capitals.

    Args:
        split: read only these splits.
        images: the folder with the images; by default they are searched below `root`. The lists often contain
            absolute paths of another machine: such images are found by their names.
        allow_outside: allow names outside the folder: absolute, or with `..`.

    Raises:
        FormatError: no such files, or they are inconsistent. ConfigError: no such split.
    """
    check_root(root, EXPECTED)
    images = given(root, images, "--images")
    starts = [path.name[: -len(IMAGES)] for path in globbed(root, f"?*{IMAGES}")]
    if not starts:
        raise FormatError(f"{root}: no *{IMAGES} found; expected {EXPECTED}")
    splits = {start.lower() if start.isupper() else start: start for start in starts}
    chosen = pick_splits(split, splits)
    classes, class_ids = _classes(root / LABEL_MAP)
    label_of = {number: label for label, number in enumerate(class_ids)}
    paths: dict[str, list[str]] = {}
    objects: dict[str, list[Objects]] = {}
    for name in chosen:
        file, other = root / (splits[name] + IMAGES), root / (splits[name] + OBJECTS)
        paths[name] = read_json(file, list[str], "a list of paths")
        objects[name] = read_json(other, list[Objects], "a list of {boxes, labels, difficulties}")
        if len(paths[name]) != len(objects[name]):
            raise FormatError(f"{other}: {len(objects[name])} entries; expected {len(paths[name])}, as {file.name} has")

    def records() -> Iterator[Record | Finding]:
        for name in chosen:
            origin = root / (splits[name] + IMAGES)
            folders = picture_folders(root, name, origin, images)
            pictures, findings = locate(paths[name], folders, images or root, origin, allow_outside=allow_outside)
            yield from findings
            origin = root / (splits[name] + OBJECTS)
            for path, entry in zip(paths[name], objects.pop(name), strict=True):
                if path in pictures:
                    yield from _record(name, *pictures[path], entry, label_of, origin)

    files = [root / LABEL_MAP, *(root / (splits[name] + end) for name in chosen for end in (IMAGES, OBJECTS))]
    return Source(classes, records(), class_ids, total=sum(map(len, paths.values())), files=files)


def _classes(path: Path) -> tuple[tuple[str, ...], tuple[int, ...]]:
    numbers = read_json(path, dict[str, int], f'class names and numbers, with "{BACKGROUND}": 0')
    by_number = {number: name for name, number in numbers.items()}
    if len(by_number) < len(numbers):
        twice = next(name for name, number in numbers.items() if by_number[number] != name)
        raise FormatError(f"{path}: {twice!r} and {by_number[numbers[twice]]!r} have one number, {numbers[twice]}")
    if by_number.pop(0, BACKGROUND) != BACKGROUND or BACKGROUND in by_number.values():
        raise FormatError(f'{path}: expected 0 to be the number of "{BACKGROUND}", and of no class')
    ids = tuple(sorted(by_number))
    return tuple(by_number[number] for number in ids), ids


def _record(
    split: str, key: str, image: Path, entry: Objects, label_of: dict[int, int], origin: Path
) -> Iterator[Record | Finding]:
    difficulties = [0] * len(entry.labels) if entry.difficulties is None else entry.difficulties
    counts = (len(entry.boxes), len(entry.labels), len(difficulties))
    if len(set(counts)) > 1:
        value = "{} boxes, {} labels, {} difficulties".format(*counts)
        reason = "expected as many of each; left out"
        yield Finding("refused", "lists-differ", str(origin), key, value, reason, "image")
        return
    kept = []
    for n, (box, label) in enumerate(zip(entry.boxes, entry.labels, strict=True)):
        if len(box) != 4:
            reason = "expected [xmin, ymin, xmax, ymax]; left out"
            yield Finding("refused", "box-missing", str(origin), key, str(box)[:60], reason, box=n)
        elif label not in label_of:
            reason = f"expected a class's number from {LABEL_MAP}, where 0 is the background; left out"
            xyxy = as_xyxy(_edges([box])[0])
            yield Finding("refused", "unknown-class", str(origin), key, f"label {label}", reason, box=n, xyxy=xyxy)
        else:
            kept.append(n)
    yield Record(
        key=key,
        split=split,
        image=image,
        height=0,
        width=0,
        boxes=_edges([entry.boxes[n] for n in kept]),
        labels=np.array([label_of[entry.labels[n]] for n in kept], np.int32),
        flags=np.array([DIFFICULT if difficulties[n] else 0 for n in kept], np.uint8),
        origin=str(origin),
    )


def _edges(inclusive: list[list[float | None]]) -> Boxes:
    return as_boxes(include_last(np.array(inclusive, np.float64).reshape(-1, 4), 0, 1))
