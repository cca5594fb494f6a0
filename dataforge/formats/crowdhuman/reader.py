"""Reader of CrowdHuman's .odgt files.

Fields: crowdhuman.org/download.html; `fbox`, `vbox` and `hbox` are x, y, width, height of the full body, of its visible
part and of the head. What CrowdHuman's evaluation ignores, by `extra.ignore` or by a tag other than "person", is crowd.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec

from dataforge.errors import unknown
from dataforge.formats.annotated import Annotated, by_split, files_of, source, xywh
from dataforge.formats.crowdhuman import is_odgt
from dataforge.formats.json_files import read_lines
from dataforge.formats.splits import split_word
from dataforge.images.header import SUFFIXES
from dataforge.record import CROWD, Source

EXPECTED = "CrowdHuman's annotation_<split>.odgt: lines of ID and gtboxes, with Images/<ID>.jpg"
BOXES = {"full": "fbox", "visible": "vbox", "head": "hbox"}
PLACES = ("Images", "CrowdHuman_{}*/Images")

Four = tuple[float, float, float, float]


class Extra(msgspec.Struct, gc=False):
    ignore: int | None = 0


class Box(msgspec.Struct, gc=False):
    tag: str
    fbox: Four | None = None
    vbox: Four | None = None
    hbox: Four | None = None
    extra: Extra | None = None
    head_attr: Extra | None = None


class Row(msgspec.Struct):
    ID: str
    gtboxes: list[Box]


def read(
    root: Path,
    *,
    split: tuple[str, ...] | None = None,
    images: Path | None = None,
    person_box: str | None = None,
    allow_outside: bool = False,
) -> Source:
    """Read one box of each person. The class is "person", or "head".

    Args:
        root: a folder of files, or one file. The word for a split in a file's name is its split.
        split: read only these splits.
        images: the folder with the images; by default they are searched below `root`, as in `Images/`.
        person_box: "full" (default), "visible" or "head".
        allow_outside: allow names outside the folder: absolute, or with `..`.

    Raises:
        FormatError: no such files, or a line is not CrowdHuman's. ConfigError: no such split, or box.
    """
    if person_box not in (None, *BOXES):
        raise unknown("person box", str(person_box), BOXES)
    kind = BOXES[person_box or "full"]
    files = {path: name for name, paths in files_of(root, is_odgt, EXPECTED, ".odgt").items() for path in paths}
    parts = by_split(
        (split_word(path.stem) or name, item) for path, name in files.items() for item in _items(path, kind)
    )
    classes = ["head" if kind == "hbox" else "person"]
    return source(root, parts, split, images, allow_outside, classes=classes, files=files, places=PLACES)


def _items(path: Path, kind: str) -> Iterator[Annotated]:
    for _, row in read_lines(path, Row, EXPECTED):
        item = Annotated(row.ID if row.ID.lower().endswith(SUFFIXES) else f"{row.ID}.jpg", path)
        for box in row.gtboxes:
            about = [box.extra, box.head_attr if kind == "hbox" else None]
            ignored = box.tag != "person" or any(one.ignore for one in about if one)
            numbers: Four | None = getattr(box, kind)
            name = "head" if kind == "hbox" else "person"
            if numbers is None:
                item.refuse("box-missing", box.tag, f"expected {kind}")
            else:
                item.add(name, xywh(*numbers), CROWD if ignored else 0)
        yield item
