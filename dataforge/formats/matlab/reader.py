"""Reader of MATLAB ImageLabeler's JSON: `jsonencode` of a ground truth table, one row per image, one key per class."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from dataforge.errors import FormatError, unknown
from dataforge.files import check_root
from dataforge.formats.boxes import as_xyxy
from dataforge.formats.json_files import json_splits, read_json
from dataforge.formats.pictures import given, locate, picture_folders
from dataforge.record import Boxes, Finding, Record, Source, as_boxes, pick_splits

EXPECTED = "a JSON file, or several in one folder or in <split>/: rows of an image path (Var1) and a key for each class"
IMAGE_KEYS = ("Var1", "imageFilename")  # the key from `jsonencode` of a table without names, and MATLAB's own name
CORNERS = ("matlab", "converter")

NAN = float("nan")  # MATLAB writes NaN as null

Row = dict[str, Any]
_Four = tuple[float | None, float | None, float | None, float | None]


def read(
    root: Path,
    *,
    split: tuple[str, ...] | None = None,
    images: Path | None = None,
    corners: str = "matlab",
    allow_outside: bool = False,
) -> Source:
    """Read ImageLabeler files. Rows of the same image are merged, across all files of the split.

    Args:
        root: a folder of files, or one file.
        split: read only these splits.
        images: the folder that contains the images; by default they are searched for below `root`.
        corners: "matlab" for its own 1-based `[x, y, w, h]`, whose box over a whole image is `[1, 1, width, height]`;
            "converter" for an old converter's `[x, y + h, x + w, y]` of the same numbers.
        allow_outside: allow names that point outside the folder: absolute paths, or paths with `..`.

    Raises:
        FormatError: no such files, or a file is not ImageLabeler JSON. ConfigError: no such split or corners.
    """
    if corners not in CORNERS:
        raise unknown("corners", corners, CORNERS)
    if not root.is_file():
        check_root(root, EXPECTED)
    images = given(root, images, "--images")
    splits = json_splits(root)
    if not splits:
        raise FormatError(f"{root}: no JSON file found; expected {EXPECTED}")
    chosen = pick_splits(split, splits)
    rows = {name: [(path, row) for path in splits[name] for row in _rows(path)] for name in chosen}
    classes = tuple(dict.fromkeys(key for part in rows.values() for _, row in part for key in row))
    classes = tuple(name for name in classes if name not in IMAGE_KEYS)
    folder = root.parent if root.is_file() else root
    by_image = {name: _by_image(part) for name, part in rows.items()}

    def records() -> Iterator[Record | Finding]:
        for name in chosen:
            origin = splits[name][0]
            folders = picture_folders(folder, name, origin, images)
            pictures, findings = locate(by_image[name], folders, images or folder, origin, allow_outside=allow_outside)
            yield from findings
            for image, own_rows in by_image[name].items():
                if image in pictures:
                    key, path = pictures[image]
                    yield from _record(name, key, path, own_rows, classes, corners)

    files = [path for name in chosen for path in splits[name]]
    return Source(classes, records(), total=sum(map(len, by_image.values())), files=files)


def _rows(path: Path) -> list[Row]:
    data: Any = read_json(path, Row | list[Row], EXPECTED)  # type: ignore[arg-type]
    rows: list[Row] = data if isinstance(data, list) else [data]
    for n, row in enumerate(rows):
        if not isinstance(_image(row), str):
            raise FormatError(f"{path}: row {n}: no image path; expected one as {' or '.join(IMAGE_KEYS)}")
    return rows


def _image(row: Row) -> Any:
    return next((row[key] for key in IMAGE_KEYS if key in row), None)


def _by_image(rows: list[tuple[Path, Row]]) -> dict[str, list[tuple[Path, Row]]]:
    by_image: dict[str, list[tuple[Path, Row]]] = {}
    for path, row in rows:
        by_image.setdefault(_image(row), []).append((path, row))
    return by_image


def _record(
    split: str, key: str, image: Path, rows: list[tuple[Path, Row]], classes: tuple[str, ...], corners: str
) -> Iterator[Record | Finding]:
    numbers: list[list[float]] = []
    labels: list[int] = []
    earlier: set[tuple[float, ...]] = set()  # label and numbers of the previous rows
    number = -1  # index of a box among the boxes of all rows and classes
    for path, row in rows:
        start = len(labels)
        for label, name in enumerate(classes):
            for n, four in enumerate(_fours(row.get(name))):
                number += 1
                try:
                    box = [NAN if value is None else value for value in msgspec.convert(four, _Four)]
                except (msgspec.ValidationError, OverflowError):
                    value, reason = (
                        str(four)[:60],
                        "expected [], four numbers, or a list of four numbers each; left out",
                    )
                    yield Finding("refused", "box-missing", str(path), key, f"{name} {n}: {value}", reason, box=number)
                    continue
                if (label, *box) in earlier:
                    value, reason = f"{name} {n}: {four}", "stands in an earlier row of this image too; taken once"
                    xyxy = as_xyxy(_edges([box], corners)[0])
                    yield Finding("repaired", "box-twice", str(path), key, value, reason, box=number, xyxy=xyxy)
                    continue
                numbers.append(box)
                labels.append(label)
        earlier |= {(label, *box) for label, box in zip(labels[start:], numbers[start:], strict=True)}
    yield Record(
        key=key,
        split=split,
        image=image,
        height=0,
        width=0,
        boxes=_edges(numbers, corners),
        labels=np.array(labels, np.int32),
        flags=np.zeros(len(labels), np.uint8),
        origin=str(rows[0][0]),
    )


def _fours(value: Any) -> list[Any]:
    if value is None or value == []:
        return []
    return value if isinstance(value, list) and isinstance(value[0], list) else [value]


def _edges(numbers: list[list[float]], corners: str) -> Boxes:
    four = np.array(numbers, np.float64).reshape(-1, 4)
    with np.errstate(all="ignore"):
        low = four[:, :2] if corners == "matlab" else four[:, [0, 3]]
        high = four[:, :2] + four[:, 2:] if corners == "matlab" else four[:, [2, 1]]
        return as_boxes(np.concatenate([low, high], 1) - 1)
