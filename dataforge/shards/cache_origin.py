"""Source images of a cache: their sizes and matrices, and the check that its parent is unchanged."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from dataforge.cloud.path import located
from dataforge.errors import ConfigError, ShardError
from dataforge.shards.arrow_files import read_arrow
from dataforge.shards.index import fingerprint
from dataforge.shards.table import Table
from dataforge.shards.versions import version_of

ORIGIN = "origin.arrow"
SCHEMA = pa.schema([("height", pa.int32()), ("width", pa.int32()), ("matrix", pa.list_(pa.float64(), 6))])


@dataclass(frozen=True)
class Origin:
    """The source images of N records.

    Attributes:
        height, width: (N,) pixels of the source image.
        matrix: (N, 3, 3) source pixels to stored pixels, edge coordinates; only scale and translation.
    """

    height: NDArray[np.int32]
    width: NDArray[np.int32]
    matrix: NDArray[np.float64]

    def encode(self) -> bytes:
        """Encode as the bytes of an Arrow IPC file."""
        rows = pa.FixedSizeListArray.from_arrays(pa.array(self.matrix[:, :2].reshape(-1)), 6)
        batch = pa.RecordBatch.from_arrays([pa.array(self.height), pa.array(self.width), rows], schema=SCHEMA)
        sink = pa.BufferOutputStream()
        with pa.ipc.new_file(sink, SCHEMA) as writer:
            writer.write_batch(batch)
        return bytes(sink.getvalue())

    def home(self, table: Table) -> Table:
        """Convert the records' table in stored pixels to one in source pixels."""
        matrix = self.matrix[table.image]
        scale, shift = matrix[:, [0, 1], [0, 1]], matrix[:, :2, 2]
        limit = np.stack([self.width, self.height], 1)[table.image]
        boxes = ((table.boxes.reshape(-1, 2, 2) - shift[:, None]) / scale[:, None]).clip(0, limit[:, None])
        return table.change(
            lambda polygons: polygons.move(np.linalg.inv(matrix)),
            height=self.height,
            width=self.width,
            boxes=boxes.reshape(-1, 4).astype(np.float32),
            areas=(table.areas / scale.prod(1)).clip(max=np.finfo(np.float32).max).astype(np.float32),
        )

    def records(self, index: NDArray[np.int64]) -> Origin:
        """Return the origin of some records, in the order of `index`."""
        return Origin(self.height[index], self.width[index], self.matrix[index])


def read(path: Path, crc: int) -> Origin:
    """Open `path/origin.arrow`, whose CRC-32 is `crc`.

    Raises:
        ShardError: it is missing, damaged, or has other columns.
    """
    batch = read_arrow(path / ORIGIN, SCHEMA, crc)
    rows = batch.column("matrix").values.to_numpy().reshape(-1, 2, 3)
    scale = rows[:, [0, 1], [0, 1]]
    if not ((np.abs(rows) < 1e8).all() and (scale > 1e-8).all()):
        raise ShardError(f"{path / ORIGIN}: is damaged: a matrix that no image has")
    height, width = batch.column("height").to_numpy(), batch.column("width").to_numpy()
    if len(batch) and min(height.min(), width.min()) < 1:
        raise ShardError(f"{path / ORIGIN}: is damaged: an image without pixels")
    matrix = np.concatenate([rows, np.tile([[[0.0, 0.0, 1.0]]], (len(rows), 1, 1))], 1)
    return Origin(height, width, matrix)


def content(path: Path) -> str:
    """Return the fingerprint of a shard folder, the CRC-32 of its index as 8 hex digits, or of an overlay's version."""
    version = version_of(path)
    return version.content if version else fingerprint(path)


def parent_is_there(path: Path, baked: dict[str, Any]) -> bool:
    """Return whether the set that a cache was baked from is accessible.

    Args:
        path: the cache.
        baked: the entry of that name in its index.

    Raises:
        ShardError: it exists and has changed, so the cache is stale.
    """
    try:
        current = content(located(baked["parent"]))
    except (OSError, ConfigError):  # ConfigError: obstore is not installed
        return False
    if current != baked["fingerprint"]:
        raise ShardError(
            f"{path}: is stale: {baked['parent']}, which it was baked from, has changed (fingerprint {current}, "
            f"expected {baked['fingerprint']}); bake it again"
        )
    return True
