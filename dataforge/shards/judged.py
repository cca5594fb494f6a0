"""The classes that were looked for in each image, where these are not all, as in LVIS and Open Images.

In memory: (P, 3) int32 rows of `judged.arrow` (see README.md), ascending by record: the record's number, a label, and 1
if boxes of it may be missing. Label -1 stands for a record in which all classes were looked for. None if all are such.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from dataforge.errors import ShardError
from dataforge.shards.arrow_files import read_arrow, to_arrow, to_numpy, write_arrow
from dataforge.shards.table import Judged

FILE = "judged.arrow"
SCHEMA = pa.schema([(name, pa.int32()) for name in ("record", "label", "partial")])
ALL = np.array([[-1, 0]], np.int32)


def judged_rows(judged: Sequence[NDArray[np.int32] | None]) -> Judged:
    """Return the rows of records, given `Record.judged` of each."""
    if all(rows is None for rows in judged):
        return None
    parts = [ALL if rows is None else rows for rows in judged]
    record = np.repeat(np.arange(len(parts), dtype=np.int32), [len(rows) for rows in parts])
    return np.column_stack([record, np.concatenate(parts)]).astype(np.int32)


def write_judged(folder: Path, judged: Sequence[NDArray[np.int32] | None]) -> int | None:
    """Write a shard's file, unless all classes were looked for in all of its images; return its CRC-32."""
    rows = judged_rows(judged)
    if rows is None:
        return None
    write_arrow(folder / FILE, SCHEMA, [to_arrow(pa.int32(), column) for column in rows.T])
    return zlib.crc32((folder / FILE).read_bytes())


def read_judged(folders: Sequence[Path], images: Sequence[int], crcs: Sequence[int | None], classes: int) -> Judged:
    """Read the files of some shards as one.

    Args:
        images: the number of records of each shard; crcs: of each file; None where the shard has none.
        classes: the number of classes.

    Raises:
        ShardError: a file is missing, damaged, or names no record or class of the set.
    """
    if all(crc is None for crc in crcs):
        return None
    parts, start = [], 0
    for folder, count, crc in zip(folders, images, crcs, strict=True):
        if crc is None:
            rows = np.column_stack([np.arange(count), np.repeat(ALL, count, 0)])
        else:
            batch = read_arrow(folder / FILE, SCHEMA, crc)
            rows = np.column_stack([to_numpy(column) for column in batch.columns])
            record, label, partial = rows.T
            wrong = (record < 0) | (record >= count) | (label < -1) | (label >= classes) | (partial < 0) | (partial > 1)
            if wrong.any() or (np.diff(record) < 0).any():
                raise ShardError(f"{folder / FILE}: is damaged: a record or a label that the set has not, or no order")
        parts.append(np.add(rows, (start, 0, 0)))
        start += count
    return np.concatenate(parts).astype(np.int32)
