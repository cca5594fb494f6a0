"""The table of a shard's records: one Arrow file, read as numpy views of its bytes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from dataforge.cloud.path import RemotePath
from dataforge.errors import ShardError
from dataforge.polygons import Polygons, offsets_of, ranges
from dataforge.record import Record
from dataforge.shards.arrow_files import offsets_in, read_arrow, to_arrow, to_numpy, write_arrow
from dataforge.shards.index import POLYGONS_FILE
from dataforge.shards.polygons_file import read_polygons
from dataforge.threads import cached_property, ordered

OBJECT = pa.struct(
    [("box", pa.list_(pa.float32(), 4)), ("label", pa.int32()), ("flag", pa.uint8()), ("area", pa.float32())]
)
SCHEMA = pa.schema(
    [
        ("key", pa.string()),
        ("id", pa.int64()),
        ("height", pa.int32()),
        ("width", pa.int32()),
        ("orientation", pa.uint8()),
        ("size", pa.int64()),
        ("crc", pa.uint32()),
        ("objects", pa.list_(OBJECT)),
    ]
)
AT_A_TIME = 8  # files that are read from URLs
MOST_SIDE = 1 << 24  # pixels; no decoder takes more
Judged = NDArray[np.int32] | None  # see `judged`
_FACTS = ("id", "height", "width", "orientation", "size", "crc")


@dataclass(frozen=True)
class Jagged:
    """The concatenated boxes of some records; those of record i are `offsets[i]:offsets[i + 1]`."""

    boxes: NDArray[np.float32]
    labels: NDArray[np.int32]
    flags: NDArray[np.uint8]
    areas: NDArray[np.float32]
    offsets: NDArray[np.int64]


@dataclass(frozen=True)
class Table:
    """Columns over N records and S boxes.

    Attributes:
        id: (N,) the source's number of the image, -1 if it has none.
        height, width: (N,) pixels after the EXIF orientation; orientation: (N,) 1..8.
        size, crc: (N,) bytes and CRC-32 of the stored image.
        offsets: (N + 1,) the boxes of record i are rows offsets[i]:offsets[i + 1].
        boxes: (S, 4) xyxy pixels; labels, flags, areas: (S,).
        judged: (P, 3) which classes were looked for, see `dataforge.shards.judged`; None if all in every image.
    """

    id: NDArray[np.int64]
    height: NDArray[np.int32]
    width: NDArray[np.int32]
    orientation: NDArray[np.uint8]
    size: NDArray[np.int64]
    crc: NDArray[np.uint32]
    offsets: NDArray[np.int64]
    boxes: NDArray[np.float32]
    labels: NDArray[np.int32]
    flags: NDArray[np.uint8]
    areas: NDArray[np.float32]
    _key: pa.ChunkedArray = field(repr=False)
    _polygons: Callable[[], Polygons] | None = field(default=None, repr=False)
    judged: Judged = None

    def __len__(self) -> int:
        return len(self.height)

    @cached_property
    def key(self) -> NDArray[np.object_]:
        """(N,) keys as strings, created on first access."""
        return np.array(self._key.to_pylist(), dtype=object)

    @cached_property
    def image(self) -> NDArray[np.int64]:
        """(S,) record number per box."""
        return np.repeat(np.arange(len(self)), np.diff(self.offsets))

    @cached_property
    def polygons(self) -> Polygons:
        """Those of the S boxes, read on first access.

        Raises:
            ShardError: their file is missing or damaged.
        """
        return Polygons.none(len(self.boxes)) if self._polygons is None else self._polygons()

    def take(self, index: NDArray[np.int64]) -> Jagged:
        """Return the boxes of some records, in the order of `index`.

        Args:
            index: (n,) record numbers.
        """
        rows, offsets = ranges(self.offsets, index)
        return Jagged(self.boxes[rows], self.labels[rows], self.flags[rows], self.areas[rows], offsets)

    def records(self, index: NDArray[np.int64]) -> Table:
        """Return some records, in the order of `index`, as a new table.

        Args:
            index: (n,) record numbers.
        """
        facts: dict[str, Any] = {name: getattr(self, name)[index] for name in _FACTS}
        facts |= {**vars(self.take(index)), "_key": self._key.take(pa.array(index))}
        judged = self.judged
        if judged is not None:
            first, end = (np.searchsorted(judged[:, 0], index, side) for side in ("left", "right"))
            numbers = np.repeat(np.arange(len(index)), end - first)
            rows = np.arange(len(numbers)) - np.repeat(np.cumsum(end - first) - end, end - first)
            judged = np.column_stack([numbers, judged[rows, 1:]]).astype(np.int32)
        return self.change(lambda polygons: polygons.take(ranges(self.offsets, index)[0]), **facts, judged=judged)

    def change(self, change: Callable[[Polygons], Polygons], **columns: Any) -> Table:
        """Return the table with other columns, and with its polygons changed when they are first used."""
        return replace(self, **columns, _polygons=self._polygons and (lambda: change(self.polygons)))

    def judged_of(self, i: int) -> NDArray[np.int32] | None:
        """Return `Record.judged` of record i."""
        if self.judged is None:
            return None
        start, end = np.searchsorted(self.judged[:, 0], [i, i + 1])
        own = self.judged[start:end, 1:]
        return None if (own[:, 0] < 0).any() else own


def row(table: Table, i: int, split: str, image: bytes = b"", origin: str = "") -> Record:
    """Return record i of a table; `image` and `origin` are not in it."""
    rows = slice(int(table.offsets[i]), int(table.offsets[i + 1]))
    return Record(
        key=table.key[i],
        split=split,
        image=image,
        height=int(table.height[i]),
        width=int(table.width[i]),
        boxes=table.boxes[rows],
        labels=table.labels[rows],
        flags=table.flags[rows],
        areas=table.areas[rows],
        id=int(table.id[i]),
        judged=table.judged_of(i),
        origin=origin,
        polygons=(table.polygons and table.polygons.part(rows.start, rows.stop)) or None,
    )


def write_table(path: Path, columns: dict[str, list[object]], objects: Jagged) -> None:
    """Write a shard's table.

    Args:
        columns: one list per column of `SCHEMA`, except `objects`.
        objects: the boxes of all records.
    """
    boxes = pa.FixedSizeListArray.from_arrays(to_arrow(pa.float32(), objects.boxes), 4)
    facts = (objects.labels, objects.flags, objects.areas)
    parts = [boxes, *(to_arrow(OBJECT.field(n).type, values) for n, values in enumerate(facts, 1))]
    rows = pa.StructArray.from_arrays(parts, fields=list(OBJECT))
    keys = [str(key).encode() for key in columns["key"]]
    ends = np.cumsum([0, *map(len, keys)]).astype(np.int32)
    arrays = [pa.StringArray.from_buffers(len(keys), pa.py_buffer(ends), pa.py_buffer(b"".join(keys)))]
    arrays += [to_arrow(SCHEMA.field(name).type, columns[name]) for name in _FACTS]
    arrays.append(pa.ListArray.from_arrays(to_arrow(pa.int32(), objects.offsets), rows))
    write_arrow(path, SCHEMA, arrays)


def read_tables(
    paths: Sequence[Path], crcs: Sequence[int | None] | None = None, polygons: Sequence[int | None] = ()
) -> Table:
    """Read the tables of some shards as one.

    Args:
        crcs: the CRC-32 of each file; None compares none.
        polygons: the CRC-32 of the file of polygons beside each table, None for a table without; () for none.

    Raises:
        ShardError: a file is missing, damaged, or has other columns.
    """
    crcs = crcs or [None] * len(paths)
    files = zip(paths, crcs, strict=True)

    def read(file: tuple[Path, int | None]) -> pa.RecordBatch:
        return read_arrow(file[0], SCHEMA, file[1])

    remote = any(isinstance(path, RemotePath) for path in paths)
    batches = list(ordered(read, files, AT_A_TIME) if remote else map(read, files))
    parts = [_columns(batch) for batch in batches] or [_columns(pa.RecordBatch.from_pylist([], schema=SCHEMA))]
    for path, part in zip(paths, parts, strict=False):
        offsets = part["offsets"]
        if offsets[0] != 0 or offsets[-1] != len(part["labels"]):
            raise ShardError(f"{path}: is damaged: boxes {offsets[0]} to {offsets[-1]} of {len(part['labels'])}")
    if len(parts) == 1:
        columns = parts[0]
    else:
        columns = {name: np.concatenate([part[name] for part in parts]) for name in parts[0] if name != "offsets"}
        counts = np.concatenate([np.diff(part["offsets"]) for part in parts])
        columns["offsets"] = offsets_of(counts)
    key = pa.chunked_array([batch.column("key") for batch in batches], pa.string())

    def read_all() -> Polygons:
        counts = [len(part["labels"]) for part in parts]
        files = zip(paths, polygons, counts, strict=True)
        return Polygons.join(
            Polygons.none(n) if crc is None else read_polygons(path.with_name(POLYGONS_FILE), crc, n)
            for path, crc, n in files
        )

    stated = any(crc is not None for crc in polygons)
    return Table(**columns, _key=key, _polygons=read_all if stated else None)


def check_values(table: Table, classes: int, folder: Path) -> None:
    """Check the values that readers compute with.

    Args:
        classes: the number of classes; folder: for the message.

    Raises:
        ShardError: a size, an orientation, a label, a box or an area cannot be.
    """
    wrong: dict[str, Any] = {
        "height": (table.height < 1) | (table.height > MOST_SIDE),
        "width": (table.width < 1) | (table.width > MOST_SIDE),
        "orientation": (table.orientation < 1) | (table.orientation > 8),
        "size": table.size < 0,
        "labels": (table.labels < 0) | (table.labels >= classes),
        "boxes": ~np.isfinite(table.boxes).all(1),
        "areas": ~np.isfinite(table.areas) | (table.areas < 0),
    }
    for name, mask in wrong.items():
        if mask.any():
            n = int(mask.argmax())
            i = n if len(mask) == len(table) else int(np.searchsorted(table.offsets, n, "right")) - 1
            value = getattr(table, name)[n]
            raise ShardError(f"{folder}: is damaged: record {i} ({table.key[i]}) has {name} {value}")


def _columns(batch: pa.RecordBatch) -> dict[str, Any]:
    columns = {name: to_numpy(batch.column(name)) for name in _FACTS}
    objects = batch.column("objects")
    rows = objects.values
    columns["offsets"] = offsets_in(objects)
    columns["boxes"] = to_numpy(rows.field("box").values).reshape(-1, 4)
    for name, column in (("label", "labels"), ("flag", "flags"), ("area", "areas")):
        columns[column] = to_numpy(rows.field(name))
    return columns
