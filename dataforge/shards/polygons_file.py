"""The file of the polygons of a shard's boxes, beside its table."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa

from dataforge.errors import ShardError
from dataforge.polygons import Polygons
from dataforge.shards.arrow_files import offsets_in, read_arrow, to_arrow, to_numpy, write_arrow

POLYGONS = pa.schema([("rings", pa.list_(pa.list_(pa.float32())))])  # of each box; x, y, x, y, ... of each ring


def write_polygons(path: Path, polygons: Polygons) -> None:
    """Write the polygons of a shard's boxes."""
    rings = pa.ListArray.from_arrays(to_arrow(pa.int32(), polygons.rings * 2), to_arrow(pa.float32(), polygons.points))
    column = pa.ListArray.from_arrays(to_arrow(pa.int32(), polygons.boxes), rings)
    write_arrow(path, POLYGONS, [column])


def read_polygons(path: Path, crc: int, boxes: int) -> Polygons:
    """Read the polygons of a shard's boxes. All lengths and values are checked.

    Args:
        crc: of the file; boxes: their number.

    Raises:
        ShardError: the file is missing, damaged, or holds rings that are no polygons.
    """
    column = read_arrow(path, POLYGONS, crc).column("rings")
    if len(column) != boxes:
        raise ShardError(f"{path}: is damaged: holds the polygons of {len(column)} boxes; the table has {boxes}")
    outer, inner = offsets_in(column), offsets_in(column.values)
    numbers = to_numpy(column.values.values)
    ends = outer[0], outer[-1], inner[0], inner[-1]
    if ends != (0, len(column.values), 0, len(numbers)) or (inner % 2).any():
        raise ShardError(f"{path}: is damaged: rings {ends[0]} to {ends[1]}, numbers {ends[2]} to {ends[3]}")
    polygons = Polygons(numbers.reshape(-1, 2), inner // 2, outer)
    if not (sound := polygons.sound()).all():
        raise ShardError(f"{path}: is damaged: ring {int(sound.argmin())} is not three or more finite points")
    return polygons
