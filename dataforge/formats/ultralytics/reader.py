"""Reader of Ultralytics' NDJSON.

Records are those of docs.ultralytics.com/datasets/detect/#ultralytics-ndjson-format: boxes are rows of class, center x,
center y, width, height; segments and obb rows of class and points; pose rows of a box and keypoints; all in fractions.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, cast

import msgspec

from dataforge.errors import FormatError
from dataforge.files import check_root, files_below
from dataforge.formats.annotated import NAN, Annotated, Numbers, by_split, cxcywh, hull, source
from dataforge.formats.json_files import read_lines, uncollected
from dataforge.formats.pictures import as_size
from dataforge.formats.splits import split_of
from dataforge.formats.ultralytics import is_set
from dataforge.record import Source

EXPECTED = "Ultralytics' NDJSON: a line of type dataset with class_names, then lines of type image with annotations"

Rows = list[list[float | None]]


class Annotations(msgspec.Struct):
    boxes: Rows = []
    segments: Rows = []
    pose: Rows = []
    obb: Rows = []


class Line(msgspec.Struct):
    type: str
    class_names: dict[str, str] | list[str] | None = None
    file: str | None = None
    split: str | None = None
    width: float | None = None
    height: float | None = None
    annotations: Annotations | None = None


def read(
    root: Path, *, split: tuple[str, ...] | None = None, images: Path | None = None, allow_outside: bool = False
) -> Source:
    """Read boxes, segments, poses and oriented boxes; points become the box around them.

    Splits are those of the lines, else what the names of the file and its folders say, else "train". Classes are in
    their order.

    Args:
        root: a folder of files, or one file.
        split: read only these splits.
        images: the folder with the images; by default they are searched below `root`.
        allow_outside: allow names outside the folder: absolute, or with `..`.

    Raises:
        FormatError: no such files, or a line is not Ultralytics'. ConfigError: no such split.
    """
    if not root.is_file():
        check_root(root, EXPECTED)
    files = [root] if root.is_file() else [
        path for path in files_below(root, lambda name: name.lower().endswith((".ndjson", ".jsonl"))) if is_set(path)
    ]  # fmt: skip
    if not files:
        raise FormatError(f"{root}: no such file found; expected {EXPECTED}")
    classes: dict[str, None] = {}
    with uncollected():
        items = [item for path in files for item in _items(path, classes)]
    return source(root, by_split(items), split, images, allow_outside, classes=classes, files=files)


def _items(path: Path, classes: dict[str, None]) -> Iterator[tuple[str, Annotated]]:
    """Yield splits and images of a file, and add its classes."""
    names: dict[int, str] = {}
    for number, line in read_lines(path, Line, EXPECTED):
        where = f"{path}: line {number}"
        if line.type == "dataset" and line.class_names is not None:
            listed = line.class_names
            named = listed if isinstance(listed, dict) else dict(zip(map(str, range(len(listed))), listed, strict=True))
            try:
                names = {int(key): name for key, name in named.items()}
            except ValueError:
                raise FormatError(f"{where}: class_names {', '.join(named)}; expected numbers as keys") from None
            classes |= dict.fromkeys(names[key] for key in sorted(names))
        elif line.type != "image" or not line.file:
            raise FormatError(f"{where}: type {line.type!r}, file {line.file!r}; expected {EXPECTED}")
        else:
            item = Annotated(line.file, path, as_size(line.width), as_size(line.height), unit=True)
            own = line.annotations or Annotations()
            for rows, are_points in ((own.boxes, False), (own.pose, False), (own.segments, True), (own.obb, True)):
                for row in rows:
                    _add(item, row, are_points, names)
            yield line.split or split_of(path), item.close()


def _add(item: Annotated, row: list[float | None], are_points: bool, names: Mapping[Any, str]) -> None:
    label, *numbers = cast("list[Any]", row or [None])
    edges: Numbers = NAN
    if len(numbers) >= (6 if are_points else 4) and None not in numbers:
        edges = hull(numbers[0::2], numbers[1::2]) if are_points else cxcywh(*numbers[:4])
    name = names.get(label)
    if name is None:
        item.refuse("unknown-class", f"{label}", "expected a number of class_names", edges)
    else:
        item.add(name, edges, ring=numbers if are_points and edges is not NAN else None)
