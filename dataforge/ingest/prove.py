"""Comparison of shards with their source, repaired by ingest's own code, up to the first difference."""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from dataforge.errors import ShardError, line_safe
from dataforge.images.header import ImageInfo
from dataforge.ingest.take import check_key, take
from dataforge.record import Finding, Record, Source, among, object_areas, polygons_of
from dataforge.shards.reader import Shards


@dataclass(frozen=True)
class Difference:
    """A difference between shards and source: the record (or the set), the property, and both values."""

    place: str
    field: str
    shards: str
    source: str

    def text(self) -> str:
        return line_safe(f"{self.place}: {self.field}: the shards have {self.shards}, the source {self.source}")


def first_difference(
    shards: Shards, source: Source, progress: Callable[[int], None] | None = None
) -> Difference | None:
    """Compare classes, unions and each record: key, image bytes, sizes, number, boxes, labels, flags, areas,
    judged classes, order.

    Records that ingest refuses are skipped, and those that it repairs are repaired.

    Args:
        source: read again, with the options used to make the shards.
        progress: called after each record with the number of records compared.

    Raises:
        ShardError: the shards are a cache, whose images differ from the source's.
    """
    place = str(shards.path)
    shards = Shards(shards.path, shards.split, shards.view, False, shards.trust)  # bytes are compared with the source's
    if shards.codec != "keep":
        raise ShardError(f"{place}: is a cache with other images; compare {shards.index['baked']['parent']}")
    class_ids = source.class_ids or tuple(range(len(source.classes)))
    unions = {name: list(parts) for name, parts in source.unions.items()}
    ancestors = among(source.ancestors, dict(zip(source.classes, source.classes, strict=True)))
    facts: tuple[tuple[str, object, object], ...] = (
        ("classes", shards.classes, source.classes),
        ("class_ids", shards.class_ids, class_ids),
        ("unions", shards.index["unions"], unions),
        ("frequencies", shards.frequencies, dict(source.frequencies)),
        ("ancestors", shards.ancestors, ancestors),
    )
    for what, ours, theirs in facts:
        if ours != theirs:
            return Difference(place, what, str(ours), str(theirs))
    seen: set[tuple[str, str]] = set()
    done: Counter[str] = Counter()
    for item in source.records:
        if isinstance(item, Finding) or check_key(item, seen):
            continue
        _, stored = take(item)
        if stored is None:
            continue
        record, blob, info = stored
        n = done[record.split]
        done[record.split] += 1
        rows = shards.splits.get(record.split, ())
        if n >= len(rows):
            return Difference(f"{place} split {record.split}", "images", str(len(rows)), f"{record.key!r} too")
        for name, ours, theirs in _facts(shards, int(rows[n]), record, blob, info):
            if ours != theirs:
                return Difference(shards.place(int(rows[n])), name, ours, theirs)
        if progress:
            progress(done.total())
    for name in shards.index["splits"]:
        rows = shards.splits[name]
        if done[name] < len(rows):
            return Difference(
                f"{place} split {name}",
                "images",
                f"{len(rows)}, such as {shards.table.key[rows[done[name]]]!r}",
                str(done[name]),
            )
    return None


def _facts(shards: Shards, i: int, record: Record, blob: bytes, info: ImageInfo) -> Iterator[tuple[str, str, str]]:
    """Yield the properties of a record to compare, as text, the simplest first."""
    table = shards.table
    rows = slice(int(table.offsets[i]), int(table.offsets[i + 1]))
    yield "key", repr(table.key[i]), repr(record.key)
    stored = bytes(shards.blob(i))
    if stored != blob:
        yield "image", _bytes(stored), _bytes(blob)
    yield "size", f"{table.width[i]}x{table.height[i]}", f"{info.width}x{info.height}"
    yield "orientation", str(table.orientation[i]), str(info.orientation)
    yield "id", str(table.id[i]), str(record.id)
    yield "boxes", str(rows.stop - rows.start), str(len(record.boxes))
    judged = [rows if rows is None else rows.tolist() for rows in (table.judged_of(i), record.judged)]
    yield "judged", str(judged[0]), str(judged[1])
    names = np.array(shards.classes, object)
    polygons = table.polygons.part(rows.start, rows.stop)
    pairs = (
        ("box", table.boxes[rows], record.boxes),
        ("class of box", names[table.labels[rows]], names[record.labels]),
        ("flags of box", table.flags[rows], record.flags),
        ("area of box", table.areas[rows], object_areas(record)),
    )
    for name, ours, theirs in pairs:
        wrong = (ours != theirs).any(axis=tuple(range(1, ours.ndim)))
        if wrong.any():
            n = int(np.argmax(wrong))
            yield f"{name} {n}", _value(ours[n]), _value(theirs[n])
    wrong = polygons.differ(polygons_of(record))
    if wrong.any():
        n = int(np.argmax(wrong))
        rings = [[ring.tolist() for ring in part.lists()[n]] for part in (polygons, polygons_of(record))]
        yield f"polygon of box {n}", str(rings[0]), str(rings[1])


def _bytes(data: bytes) -> str:
    return f"{len(data)} bytes with CRC-32 {zlib.crc32(data):08x}"


def _value(value: object) -> str:
    return repr(np.asarray(value).tolist())  # all digits, which numpy's own text omits
