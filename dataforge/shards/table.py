"""The table of a shard's records: one Arrow file, read as numpy views of its bytes."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from dataforge.cloud.path import RemotePath
from dataforge.errors import ShardError
from dataforge.record import Record
from dataforge.shards.file_bytes import FileBytes
from dataforge.shards.index import INDEX
from dataforge.threads import ordered

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

    def take(self, index: NDArray[np.int64]) -> Jagged:
        """Return the boxes of some records, in the order of `index`.

        Args:
            index: (n,) record numbers.
        """
        counts = self.offsets[index + 1] - self.offsets[index]
        offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(counts)])
        rows = np.arange(offsets[-1]) + np.repeat(self.offsets[index] - offsets[:-1], counts)
        return Jagged(self.boxes[rows], self.labels[rows], self.flags[rows], self.areas[rows], offsets)

    def records(self, index: NDArray[np.int64]) -> Table:
        """Return some records, in the order of `index`, as a new table.

        Args:
            index: (n,) record numbers.
        """
        facts = {name: getattr(self, name)[index] for name in _FACTS}
        judged = self.judged
        if judged is not None:
            first, end = (np.searchsorted(judged[:, 0], index, side) for side in ("left", "right"))
            numbers = np.repeat(np.arange(len(index)), end - first)
            rows = np.arange(len(numbers)) - np.repeat(np.cumsum(end - first) - end, end - first)
            judged = np.column_stack([numbers, judged[rows, 1:]]).astype(np.int32)
        return Table(**facts, **vars(self.take(index)), _key=self._key.take(pa.array(index)), judged=judged)

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
    )


def write_table(path: Path, columns: dict[str, list[object]], objects: Jagged) -> None:
    """Write a shard's table.

    Args:
        columns: one list per column of `SCHEMA`, except `objects`.
        objects: the boxes of all records.
    """
    boxes = pa.FixedSizeListArray.from_arrays(_array(pa.float32(), objects.boxes), 4)
    facts = (objects.labels, objects.flags, objects.areas)
    parts = [boxes, *(_array(OBJECT.field(n).type, values) for n, values in enumerate(facts, 1))]
    rows = pa.StructArray.from_arrays(parts, fields=list(OBJECT))
    keys = [str(key).encode() for key in columns["key"]]
    ends = np.cumsum([0, *map(len, keys)]).astype(np.int32)
    arrays = [pa.StringArray.from_buffers(len(keys), pa.py_buffer(ends), pa.py_buffer(b"".join(keys)))]
    arrays += [_array(SCHEMA.field(name).type, columns[name]) for name in _FACTS]
    arrays.append(pa.ListArray.from_arrays(_array(pa.int32(), objects.offsets), rows))
    batch = pa.RecordBatch.from_arrays(arrays, schema=SCHEMA)
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, SCHEMA) as writer:
        writer.write_batch(batch)


def _array(kind: pa.DataType, values: object) -> pa.Array:
    """Convert as `pa.array`, which would first import pandas if installed: that takes longer than 20,000 images."""
    data = np.ascontiguousarray(values, kind.to_pandas_dtype()).reshape(-1)
    return pa.Array.from_buffers(kind, len(data), [None, pa.py_buffer(data)])


def read_tables(paths: Sequence[Path], crcs: Sequence[int | None] | None = None) -> Table:
    """Read the tables of some shards as one.

    Args:
        crcs: the CRC-32 of each file; None compares none.

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
        columns["offsets"] = np.concatenate([np.zeros(1, np.int64), np.cumsum(counts)])
    key = pa.chunked_array([batch.column("key") for batch in batches], pa.string())
    return Table(**columns, _key=key)


def read_arrow(path: Path, schema: pa.Schema, crc: int | None = None) -> pa.RecordBatch:
    """Read an Arrow file of one record batch without nulls. All its lengths, offsets and texts are checked.

    Args:
        crc: the CRC-32 of the file; None does not compare it.

    Raises:
        ShardError: it is missing, damaged, or has other columns.
    """
    file = FileBytes(path)
    data = file.read()
    if crc is not None and zlib.crc32(data) != crc and file.remote is not None:  # perhaps only the cache's are wrong
        file.remote.forget(0, file.size)
        data = file.read()
    if crc is not None and zlib.crc32(data) != crc:
        raise ShardError(f"{path}: is damaged: its checksum is not the one in {INDEX}")
    try:
        with pa.ipc.open_file(pa.py_buffer(data)) as reader:
            if not reader.schema.equals(schema):
                raise ShardError(f"{path}: columns {reader.schema.names}; expected {schema.names}")
            if reader.num_record_batches != 1:
                raise ShardError(f"{path}: {reader.num_record_batches} record batches; expected 1")
            batch = reader.get_batch(0)
        batch.validate(full=True)
        if any(_nulls(column) for column in batch.columns):
            raise ShardError(f"{path}: is damaged: it holds nulls")
    except (OSError, ValueError, KeyError, OverflowError, MemoryError, pa.ArrowException) as error:
        raise ShardError(f"{path}: cannot be read: {error}") from None
    return batch


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
        "areas": ~np.isfinite(table.areas),
    }
    for name, mask in wrong.items():
        if mask.any():
            n = int(mask.argmax())
            i = n if len(mask) == len(table) else int(np.searchsorted(table.offsets, n, "right")) - 1
            value = getattr(table, name)[n]
            raise ShardError(f"{folder}: is damaged: record {i} ({table.key[i]}) has {name} {value}")


def _nulls(array: pa.Array) -> int:
    """Return the number of nulls in a column and in the columns within it."""
    kind, count = array.type, array.null_count
    if pa.types.is_struct(kind):
        return int(count + sum(_nulls(array.field(n)) for n in range(kind.num_fields)))
    return int(count + _nulls(array.values)) if isinstance(array, pa.ListArray | pa.FixedSizeListArray) else count


def _columns(batch: pa.RecordBatch) -> dict[str, Any]:
    columns = {name: _values(batch.column(name)) for name in _FACTS}
    objects = batch.column("objects")
    rows = objects.values
    columns["offsets"] = _values(objects.offsets).astype(np.int64) if len(batch) else np.zeros(1, np.int64)
    columns["boxes"] = _values(rows.field("box").values).reshape(-1, 4)
    for name, column in (("label", "labels"), ("flag", "flags"), ("area", "areas")):
        columns[column] = _values(rows.field(name))
    return columns


def _values(array: pa.Array) -> NDArray[Any]:
    """Convert as `to_numpy`, which would first import pandas if installed."""
    data = array.buffers()[1]
    if data is None:
        return np.empty(0, array.type.to_pandas_dtype())
    return np.frombuffer(data, array.type.to_pandas_dtype(), len(array), array.offset * array.type.bit_width // 8)
