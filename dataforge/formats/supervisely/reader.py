"""Reader of Supervisely's projects.

Objects: developer.supervisely.com/getting-started/supervisely-annotation-format/objects. Coordinates are numbers of
pixels, the last one included: the width of `supervisely.geometry.rectangle.Rectangle` is right - left + 1.
"""

from __future__ import annotations

import base64
import struct
import zlib
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import msgspec

from dataforge.errors import FormatError
from dataforge.files import check_root, exists, files_below
from dataforge.formats.annotated import Annotated, Numbers, by_split, first_last, hull, source
from dataforge.formats.json_files import read_json
from dataforge.formats.pictures import as_size, is_picture
from dataforge.formats.splits import WORD
from dataforge.record import Finding, Source

EXPECTED = "Supervisely's meta.json, and <dataset>/ann/<image>.json beside <dataset>/img/"


class Points(msgspec.Struct, gc=False):
    exterior: list[tuple[float, float]] = []


class Bitmap(msgspec.Struct, gc=False):
    data: str
    origin: tuple[float, float]


class Object(msgspec.Struct, gc=False):
    name: str | None = msgspec.field(name="classTitle", default=None)
    kind: str = msgspec.field(name="geometryType", default="")
    points: Points | None = None
    bitmap: Bitmap | None = None


class Size(msgspec.Struct):
    height: float
    width: float


class Tag(msgspec.Struct):
    name: str


class File(msgspec.Struct):
    size: Size
    objects: list[Object]
    tags: list[Tag] = []


class Class(msgspec.Struct):
    title: str


class Meta(msgspec.Struct):
    classes: list[Class]


def read(root: Path, *, split: tuple[str, ...] | None = None) -> Source:
    """Read rectangles and polygons, without their holes; bitmaps become their boxes; other shapes are refused.

    The split of an image is its tag "train", "val" or "test", else its data set's name; "train" if there is only one
    data set, whose name says nothing. Classes are those of meta.json in their order.

    Args:
        split: read only these splits.

    Raises:
        FormatError: no such files, or a file is not Supervisely's. ConfigError: no such split.
    """
    check_root(root, EXPECTED)
    paths = [path for path in files_below(root, lambda name: name.endswith(".json")) if "ann" in _below(path, root)]
    if not paths:
        raise FormatError(f"{root}: no ann/ found; expected {EXPECTED}")
    meta = root / "meta.json"
    classes = [one.title for one in read_json(meta, Meta, EXPECTED).classes] if exists(meta) else []
    inner = dict.fromkeys(_below(path, root)[: _below(path, root).index("ann")] for path in paths)
    folders = [root.joinpath(*parts) for parts in inner]
    items = [item for folder in folders for item in _folder(root, folder, len(folders) == 1)]
    return source(root, by_split(items), split, None, False, classes=classes, files=[meta, *paths])


def _below(path: Path, root: Path) -> tuple[str, ...]:
    return path.relative_to(root).parts[:-1]


def _folder(root: Path, folder: Path, alone: bool) -> Iterator[tuple[str, Annotated | Finding]]:
    """Yield the images of a data set, each with its split; and findings about files without another."""
    name = folder.relative_to(root).as_posix().replace("/datasets/", "/")
    default = "train" if alone and not WORD.fullmatch(name) else name
    base, ann = folder / "img" if (folder / "img").is_dir() else folder, folder / "ann"
    pictures = {path.relative_to(base).as_posix(): path for path in files_below(base, is_picture)}
    labels = files_below(ann, lambda name: name.endswith(".json"))
    files = {path.relative_to(ann).as_posix().removesuffix(".json"): path for path in labels}
    for image in sorted(pictures.keys() | files.keys()):
        if image not in files:
            reason = "no file in ann/; left out"
            yield default, Finding("noted", "no-label", str(pictures[image]), image, "", reason, "image")
            continue
        if image not in pictures:
            reason = "a label file without an image; left out"
            yield default, Finding("refused", "label-orphan", str(files[image]), "", "", reason, "set")
            continue
        file = read_json(files[image], File, EXPECTED)
        words = {tag.name for tag in file.tags if WORD.fullmatch(tag.name)}
        if len(words) > 1:
            raise FormatError(f"{files[image]}: tags {', '.join(sorted(words))}: expected one split")
        item = Annotated(pictures[image].relative_to(root).as_posix(), files[image])
        item.height, item.width = as_size(file.size.height), as_size(file.size.width)
        for one in file.objects:
            edges = _edges(one)
            if edges is None:
                item.refuse("shape-unknown", one.kind, "expected a rectangle, a polygon or a bitmap")
            else:
                ring = None
                if one.kind == "polygon" and one.points:  # through the centers of pixels
                    ring = [number + 0.5 for point in one.points.exterior for number in point]
                item.add(one.name, edges, ring=ring)
        yield words.pop() if words else default, item


def _edges(one: Object) -> Numbers | None:
    if one.kind in ("rectangle", "polygon") and one.points and len(one.points.exterior) >= 2:
        points = one.points.exterior
        two = (
            one.kind == "rectangle" and len(points) == 2
        )  # in any order, and less than a pixel apart if `write` made it
        return first_last(*points[0], *points[1]) if two else first_last(*hull(*zip(*points, strict=True)))
    if one.kind == "bitmap" and one.bitmap:
        with suppress(ValueError, zlib.error, struct.error):
            data = base64.b64decode(one.bitmap.data)
            head = zlib.decompressobj().decompress(data, 24)  # of a PNG as large as its object
            width, height = struct.unpack(">II", head[16:24])
            x, y = one.bitmap.origin
            return x, y, x + width, y + height
    return None
