"""Tiles of large images as a set of its own, so that small objects are learned at their full size."""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace

import cv2
import numpy as np
import simplejpeg
from numpy.typing import NDArray

from dataforge.augment.move import MIN_VISIBLE, move_boxes
from dataforge.errors import ImageError, counted
from dataforge.images.decode import decode
from dataforge.images.header import probe, suffix_format
from dataforge.images.tiles import OVERLAP, windows
from dataforge.record import TRUNCATED, Finding, Record, Source, box_areas, object_areas, polygons_of
from dataforge.rng import uniform
from dataforge.shards.as_source import source_of
from dataforge.shards.reader import Shards
from dataforge.sources.repair import of_box
from dataforge.threads import Spread, ordered

QUALITY = 95


@dataclass(frozen=True)
class Cutting:
    """How images are cut.

    Attributes:
        side, overlap: as for `windows`.
        empty: the share of the tiles without boxes that is kept, drawn by their names.
        quality: of tiles of JPEGs, which have full chroma resolution. Tiles of other images are PNG, without loss.
    """

    side: int
    overlap: float = OVERLAP
    empty: float = 1.0
    quality: int = QUALITY


def tiles(shards: Shards, cutting: Cutting, jobs: int = 1, spread: Spread = ordered) -> Source:
    """Return the tiles of the images of shards as a source; `ingest` makes a set of them.

    An image that is no larger than a tile is kept as it is. The boxes of a tile are those of which `MIN_VISIBLE` lie in
    it, as in augmentation: clipped, with the flag TRUNCATED if they are cut, with their polygons, and with a stated
    area in proportion. A box that no tile keeps is a finding. A tile is named by its image and its upper left corner,
    `a_x512_y0.jpg`; it has no id.

    Args:
        jobs: threads that decode, cut and encode; spread: runs the jobs.

    Raises:
        ShardError: the shards are a cache.
    """
    source = source_of(shards)
    table = shards.table
    sizes = zip(table.height, table.width, strict=True)
    total = sum(len(windows(height, width, cutting.side, cutting.overlap)) for height, width in sizes)

    def records() -> Iterator[Record | Finding]:
        counts: Counter[str] = Counter()
        taken, depth = frozenset(table.key), shards.depth

        def cut(record: Record | Finding) -> tuple[list[Record | Finding], Counter[str]]:
            assert isinstance(record, Record)
            return _cut(record, cutting, depth, taken)

        for cuts, added in spread(cut, source.records, jobs):
            yield from cuts
            counts += added
        yield Finding("noted", "tiles-cut", "", "", _summary(counts, cutting), _RULES, "set")

    return replace(source, records=records(), total=total)


_RULES = (
    f"a tile has the boxes of which at least {MIN_VISIBLE:.0%} lie in it, cut ones with the flag truncated; tiles of "
    "JPEGs are JPEG, others PNG"
)

_LOST = f"less than {MIN_VISIBLE:.0%} of it lies in any tile; left out; a larger --tile keeps it"


def _summary(counts: Counter[str], cutting: Cutting) -> str:
    c = counts
    return (
        f"{c['tiles']} tiles of {counted(c['cut images'], 'image')}, side {cutting.side}, overlap {cutting.overlap:g}; "
        f"{c['whole']} images are no larger and stay whole; {c['empty']} tiles have no box, {c['dropped']} of them "
        f"were left out (--empty-tiles {cutting.empty:g}); {c['boxes']} boxes of these images became {c['placed']}, "
        f"{c['truncated']} of them cut; {c['lost']} are in no tile"
    )


def _cut(
    record: Record, cutting: Cutting, depth: str, taken: Collection[str]
) -> tuple[list[Record | Finding], Counter[str]]:
    """Return the tiles of a record and what is to be reported of it, and its counts."""
    places = windows(record.height, record.width, cutting.side, cutting.overlap)
    if len(places) == 1:
        return [replace(record, id=-1)], Counter(whole=1)
    assert isinstance(record.image, bytes)
    info = probe(record.image)
    try:
        pixels = decode(record.image, info.orientation, depth=depth)
    except ImageError as error:
        place = Finding(
            "refused", "image-damaged", record.file, record.key, "", str(error), "image", split=record.split
        )
        return [place], Counter()
    tile, box, boxes = _visible(record.boxes, places)
    counts = Counter({"cut images": 1, "tiles": len(places), "boxes": len(record.boxes), "placed": len(box)})
    made: list[Record | Finding] = []
    ends = np.searchsorted(tile, np.arange(len(places) + 1))
    for n, (x1, y1, x2, y2) in enumerate(places.tolist()):
        rows = slice(ends[n], ends[n + 1])
        part, cut = _part(record, (x1, y1), box[rows], boxes[rows])
        part = replace(part, key=_name(record.key, info.format, x1, y1, taken), height=y2 - y1, width=x2 - x1)
        counts["truncated"] += cut
        counts["empty"] += not len(part.boxes)
        if not len(part.boxes) and _lot(part.key) >= cutting.empty:
            counts["dropped"] += 1
            continue
        image = _encode(pixels[y1:y2, x1:x2], info.format, info.mode in ("1", "L"), cutting.quality)
        made.append(replace(part, image=image))
    lost = np.setdiff1d(np.arange(len(record.boxes)), box).tolist()
    counts["lost"] = len(lost)
    return [*made, *(of_box(record, n, "refused", "box-tiled", _LOST) for n in lost)], counts


def _visible(
    boxes: NDArray[np.float32], places: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]:
    """Return the boxes that each tile keeps: (m,) tile, ascending, (m,) number of the box, (m, 4) box in the tile."""
    meet = (boxes[:, :2] < places[:, None, 2:]).all(2) & (boxes[:, 2:] > places[:, None, :2]).all(2)
    tile, box = np.nonzero(meet)
    matrix = np.tile(np.eye(3), (len(places), 1, 1))
    matrix[:, :2, 2] = -places[:, :2]
    width, height = (places[0, 2:] - places[0, :2]).tolist()
    moved, kept = move_boxes(boxes[box], tile, matrix, (height, width))
    return tile[kept], box[kept], moved[kept]


def _part(
    record: Record, corner: tuple[int, int], box: NDArray[np.int64], boxes: NDArray[np.float32]
) -> tuple[Record, int]:
    """Return a record of some boxes of another, clipped to the tile at `corner` (x, y), and how many are cut."""
    kept = np.zeros(len(record.boxes), bool)
    kept[box] = True
    part = record.pick(kept)
    areas = object_areas(part)
    full = part.boxes - np.array([*corner, *corner], np.float32)
    cut = (boxes != full).any(1)
    stated = areas != box_areas(part.boxes)
    areas = np.where(stated, areas * (box_areas(boxes) / box_areas(full)), box_areas(boxes)).astype(np.float32)
    shift = np.eye(3) - [[0, 0, corner[0]], [0, 0, corner[1]], [0, 0, 0]]
    judged = record.judged
    if judged is not None:  # classes of the image that are not in the tile were looked for
        absent = np.setdiff1d(record.labels, [*part.labels, *judged[:, 0]])
        judged = np.concatenate([judged, np.stack([absent, np.zeros_like(absent)], 1)]).astype(np.int32)
    tile = replace(
        part,
        boxes=boxes,
        flags=np.where(cut, part.flags | TRUNCATED, part.flags).astype(np.uint8),
        areas=areas,
        id=-1,
        polygons=polygons_of(part).move(np.tile(shift, (len(box), 1, 1))) or None,
        judged=judged,
    )
    return tile, int(cut.sum())


def _name(key: str, kind: str, x: int, y: int, taken: Collection[str]) -> str:
    """Return a tile's key, which no image has. The suffix of its image stays if it suits the tile's format."""
    suffix = ".jpg" if kind == "JPEG" else ".png"
    stem = key
    if suffix_format(key) == ("JPEG" if kind == "JPEG" else "PNG"):
        stem, _, own = key.rpartition(".")
        suffix = f".{own}"
    while (name := f"{stem}_x{x}_y{y}{suffix}") in taken:
        stem += "_tile"
    return name


def _lot(key: str) -> float:
    number = np.array([zlib.crc32(key.encode("utf-8", "surrogateescape"))], np.int64)
    return float(uniform(0, 0, number, "empty tile")[0, 0])


def _encode(pixels: NDArray[np.uint8], kind: str, grey: bool, quality: int) -> bytes:
    pixels = pixels[..., :1] if grey else pixels
    if kind != "JPEG":
        return cv2.imencode(".png", np.ascontiguousarray(pixels[..., ::-1]))[1].tobytes()
    colour, chroma = ("GRAY", "Gray") if grey else ("RGB", "444")
    return simplejpeg.encode_jpeg(
        np.ascontiguousarray(pixels), quality=quality, colorspace=colour, colorsubsampling=chroma, fastdct=False
    )
