"""Reader of WIDER FACE's ground truth.

Lines, as its readme has them: x1, y1, w, h, blur, expression, illumination, invalid, occlusion, pose, in pixels.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from dataforge.errors import FormatError
from dataforge.files import check_root, files_below, read_text
from dataforge.formats.annotated import Annotated, by_split, source, xywh
from dataforge.formats.sniff import head
from dataforge.formats.splits import split_of
from dataforge.formats.widerface import HEAD
from dataforge.record import DIFFICULT, Source

EXPECTED = "WIDER FACE's wider_face_split/wider_face_<split>_bbx_gt.txt, with WIDER_<split>/images/"
INVALID = 7  # the column
PLACES = ("WIDER_{}/images",)


def read(
    root: Path, *, split: tuple[str, ...] | None = None, images: Path | None = None, allow_outside: bool = False
) -> Source:
    """Read faces, which are one class. Splits are words in the names of the files.

    Args:
        root: a folder of files, or one file.
        split: read only these splits.
        images: the folder with the images; by default they are searched below `root`, as in `WIDER_train/images/`.
        allow_outside: allow names outside the folder: absolute, or with `..`.

    Raises:
        FormatError: no such files, or a line is not WIDER FACE's. ConfigError: no such split.
    """
    if not root.is_file():
        check_root(root, EXPECTED)
    paths = [root] if root.is_file() else files_below(root, lambda name: name.lower().endswith(".txt"))
    paths = [path for path in paths if path.name.endswith("_bbx_gt.txt") or re.search(HEAD, head(path)) or path == root]
    if not paths:
        raise FormatError(f"{root}: no such text file found; expected {EXPECTED}")
    items = [(split_of(path), item) for path in paths for item in _items(path)]
    return source(root, by_split(items), split, images, allow_outside, classes=["face"], files=paths, places=PLACES)


def _items(path: Path) -> Iterator[Annotated]:
    lines = [line.strip() for line in read_text(path).splitlines()]
    place = 0
    while place < len(lines):
        if not lines[place]:
            place += 1
            continue
        item = Annotated(lines[place], path)
        count = lines[place + 1] if place + 1 < len(lines) else ""
        if not count.isdecimal():
            raise FormatError(f"{path}: line {place + 2}: {count[:60]!r}; expected the number of faces of {item.name}")
        place += 2
        for n in range(place, place + max(int(count), 1)):  # a picture without faces has a line of zeros
            numbers = _numbers(lines[n] if n < len(lines) else "")
            if numbers is None:
                text = lines[n][:60] if n < len(lines) else "the end of the file"
                raise FormatError(f"{path}: line {n + 1}: {text!r}; expected x1 y1 w h and six more numbers")
            if int(count):
                item.add("face", xywh(*numbers[:4]), DIFFICULT if numbers[INVALID : INVALID + 1] == [1] else 0)
            elif any(numbers):
                raise FormatError(f"{path}: line {n + 1}: {lines[n][:60]!r}; expected zeros for no face")
        place += max(int(count), 1)
        yield item


def _numbers(line: str) -> list[float] | None:
    try:
        numbers = [float(text) for text in line.split()]
    except ValueError:
        return None
    return numbers if len(numbers) in (4, 10) else None
