"""Write YOLO text labels."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import yaml

from dataforge.errors import FormatError
from dataforge.files import inside, new_folder, put_text
from dataforge.formats.pictures import is_picture, picture_name, put_picture
from dataforge.formats.written import single_rings
from dataforge.formats.yolo.files import SPLITS
from dataforge.formats.yolo.reader import pixels
from dataforge.record import Boxes, Finding, Record, Source

PLACES = range(6, 16)  # decimal places tried, starting with the usual number


def write(source: Source, root: Path) -> None:
    """Write `images/<split>/<key>`, `labels/<split>/*.txt` and `data.yaml`.

    Boxes are restored bit for bit (except corners closer than 1e-6 pixels to the edge, which are kept to 1e-9). Of two
    images that differ only in their suffix, the second one gets its suffix twice, since labels are found by the name
    without the suffix; a key without an image suffix gets one. If a box of an image has a polygon of one ring, all its
    boxes are written as points. Flags, areas, image and class numbers are not stored.
    Splits not named train, val or test are listed below `splits` in `data.yaml`; the first one whose name starts with
    one of these three is also listed under that name.

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
        numbers = points_of(item) if item.polygons else unit_of(item.boxes, item.height, item.width).tolist()
        rows = zip(item.labels.tolist(), numbers, strict=True)
        lines = [" ".join([str(label), *map(repr, unit)]) + "\n" for label, unit in rows]
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
    """Return the label path of `images/...`: the last folder named `images` is replaced by `labels`."""
    *folders, name = picture.split("/")
    last = len(folders) - 1 - folders[::-1].index("images")
    folders[last] = "labels"
    return "/".join([*folders, str(PurePosixPath(name).with_suffix(".txt"))])


def points_of(record: Record) -> list[list[float]]:
    """Return x, y, x, y, ... of each box's polygon as fractions; the corners of boxes without one of one ring.

    Ultralytics takes all lines of a file for points if one is longer than a box's.
    """
    size = np.array([record.width, record.height])
    corners = record.boxes[:, [0, 1, 2, 1, 2, 3, 0, 3]].astype(np.float64).tolist()
    rings = [ring or own for ring, own in zip(single_rings(record), corners, strict=True)]
    return [_short(np.reshape(ring, (-1, 2)), size).reshape(-1).tolist() for ring in rings]


def _short(points: np.ndarray, size: np.ndarray) -> np.ndarray:
    """Return points (k, 2) as fractions with the fewest decimal places from which float32 pixels are restored."""
    for places in PLACES:
        short = np.round(points / size, places)
        if ((short * size).astype(np.float32) == points).all():
            return short
    return points / size


def unit_of(boxes: Boxes, height: int, width: int) -> np.ndarray:
    """Return (n, 4) `cxcywh_unit` with the fewest decimal places from which `pixels` restores the boxes."""
    size = np.array([width, height], np.float64)
    low, span = boxes[:, :2] / size, (boxes[:, 2:].astype(np.float64) - boxes[:, :2]) / size
    written = np.concatenate([low + span / 2, span], 1)
    open_ = np.ones(low.shape, bool)
    for places in PLACES:
        if not open_.any():
            break
        short = np.round(span, places)
        unit = np.concatenate([np.round(low + short / 2, places), short], 1)
        fits = open_ & (pixels(unit, height, width) == boxes).reshape(-1, 2, 2).all(1)
        written[np.tile(fits, 2)] = unit[np.tile(fits, 2)]
        open_ &= ~fits
    return written
