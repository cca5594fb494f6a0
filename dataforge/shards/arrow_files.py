"""Arrow files of one record batch without nulls, checked as those of strangers, and their columns as numpy arrays."""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from dataforge.errors import ShardError
from dataforge.shards.file_bytes import FileBytes
from dataforge.shards.index import INDEX


def write_arrow(path: Path, schema: pa.Schema, arrays: list[pa.Array]) -> None:
    """Write columns as an Arrow file of one record batch."""
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, schema) as writer:
        writer.write_batch(pa.RecordBatch.from_arrays(arrays, schema=schema))


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


def _nulls(array: pa.Array) -> int:
    """Return the number of nulls in a column and in the columns within it."""
    kind, count = array.type, array.null_count
    if pa.types.is_struct(kind):
        return int(count + sum(_nulls(array.field(n)) for n in range(kind.num_fields)))
    return int(count + _nulls(array.values)) if isinstance(array, pa.ListArray | pa.FixedSizeListArray) else count


def to_arrow(kind: pa.DataType, values: object) -> pa.Array:
    """Convert as `pa.array`, which would first import pandas if installed: that takes longer than 20,000 images."""
    data = np.ascontiguousarray(values, kind.to_pandas_dtype()).reshape(-1)
    return pa.Array.from_buffers(kind, len(data), [None, pa.py_buffer(data)])


def offsets_in(lists: pa.ListArray) -> NDArray[np.int64]:
    return to_numpy(lists.offsets).astype(np.int64) if len(lists) else np.zeros(1, np.int64)


def to_numpy(array: pa.Array) -> NDArray[Any]:
    """Convert as `to_numpy`, which would first import pandas if installed."""
    data = array.buffers()[1]
    if data is None:
        return np.empty(0, array.type.to_pandas_dtype())
    return np.frombuffer(data, array.type.to_pandas_dtype(), len(array), array.offset * array.type.bit_width // 8)
