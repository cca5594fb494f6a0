"""Reader of BDD100K's and Scalabel's JSON.

Labels: doc.bdd100k.com/format.html; `box2d` states the first and the last pixel: the width in Scalabel's
`box2d_to_bbox` is x2 - x1 + 1.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from dataforge.errors import FormatError
from dataforge.files import check_root, files_below
from dataforge.formats.annotated import Annotated, by_split, first_last, source
from dataforge.formats.bdd100k import is_bdd
from dataforge.formats.json_files import read_json
from dataforge.formats.sniff import is_json, outline
from dataforge.formats.splits import split_of
from dataforge.record import CROWD, TRUNCATED, Finding, Source

EXPECTED = "BDD100K's JSON: frames of name and labels with category and box2d"
PLACES = ("images/100k/{}", "images/10k/{}", "images/*/{}")


class Box(msgspec.Struct, gc=False):
    x1: float | None = None
    y1: float | None = None
    x2: float | None = None
    y2: float | None = None


class Attributes(msgspec.Struct, gc=False):
    truncated: bool | None = False
    crowd: bool | None = False
    ignored: bool | None = False


class Label(msgspec.Struct, gc=False):
    category: str | None = None
    box2d: Box | None = None
    attributes: Attributes | None = None


class Frame(msgspec.Struct):
    name: str
    labels: list[Label] | None = None


class Objects(msgspec.Struct):
    objects: list[Label] = []


class OneImage(msgspec.Struct):
    """The file of one image, of the release by image."""

    name: str
    frames: list[Objects]


class Scalabel(msgspec.Struct):
    frames: list[Frame]


def read(
    root: Path, *, split: tuple[str, ...] | None = None, images: Path | None = None, allow_outside: bool = False
) -> Source:
    """Read boxes. Labels without one, such as lanes and drivable areas, are counted and left out.

    Splits are words in the names of the files, else of their folders, else "train". Crowds and ignored regions are
    flagged as crowd. Classes are the sorted names in use.

    Args:
        root: a folder of files, or one file.
        split: read only these splits.
        images: the folder with the images; by default they are searched below `root`, as in `images/100k/<split>/`.
        allow_outside: allow names outside the folder: absolute, or with `..`.

    Raises:
        FormatError: no such files, or a file is not BDD100K's. ConfigError: no such split.
    """
    if not root.is_file():
        check_root(root, EXPECTED)
    paths = [root] if root.is_file() else files_below(root, lambda name: name.lower().endswith(".json"))
    paths = [path for path in paths if is_bdd(path) or not is_json(path)]
    if not paths:
        raise FormatError(f"{root}: no such JSON file found; expected {EXPECTED}")
    files = by_split((split_of(path), path) for path in paths)
    parts = {name: _items(own) for name, own in files.items()}
    return source(root, parts, split, images, allow_outside, files=paths, places=PLACES)


def _items(paths: list[Path]) -> Iterator[Annotated | Finding]:
    for path in paths:
        without: Counter[str] = Counter()
        for frame in _frames(path):
            item = Annotated(frame.name, path)
            for label in frame.labels or []:
                if label.box2d is None:
                    without[label.category or "no category"] += 1
                    continue
                box, about = label.box2d, label.attributes or Attributes()
                flag = CROWD * bool(about.crowd or about.ignored) | TRUNCATED * bool(about.truncated)
                item.add(label.category, first_last(box.x1, box.y1, box.x2, box.y2), flag)
            yield item
        for name, count in sorted(without.items()):
            reason = "have no box2d; left out"
            yield Finding("noted", "labels-without-box", str(path), "", f"{count} of {name!r}", reason, "set")


def _frames(path: Path) -> list[Frame]:
    listed, keys = outline(path)
    if not listed and "name" in keys:
        one = read_json(path, OneImage, EXPECTED)
        return [Frame(one.name, [label for frame in one.frames for label in frame.objects])]
    kind: Any = list[Frame] if listed or "frames" not in keys else Scalabel
    frames = read_json(path, kind, EXPECTED)
    return frames.frames if isinstance(frames, Scalabel) else frames
