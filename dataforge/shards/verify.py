"""Verification of a shard folder against its index."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from dataclasses import dataclass

from dataforge.errors import ImageError, ShardError
from dataforge.shards.cache_origin import ORIGIN
from dataforge.shards.index import INDEX
from dataforge.shards.reader import ALTERED, Shards


@dataclass(frozen=True)
class Fault:
    """A faulty record or shard."""

    place: str
    reason: str


def verify(shards: Shards) -> Iterator[Fault]:
    """Read, check and decode everything, and yield each fault.

    Checked: the tables' checksums; each image's size and CRC-32; that it decodes, and to the height and width in the
    table; that boxes are inside it and have an area, and labels are valid classes.
    """
    shards = Shards(shards.path, shards.split, shards.view, verify=False)  # faults are yielded here, not raised
    if "baked" in shards.index:
        file = shards.path / ORIGIN
        if not file.is_file() or zlib.crc32(file.read_bytes()) != shards.index["baked"]["origin_crc"]:
            yield Fault(str(file), f"is missing, or its checksum is not the one in {INDEX}")
    for shard in shards._shards:
        file = shards.folder / shard["path"] / "table.arrow"
        if not file.is_file():
            yield Fault(str(file), "is missing")
        elif zlib.crc32(file.read_bytes()) != shard["table_crc"]:
            yield Fault(str(file), f"checksum is not the one in {INDEX}")
    try:
        table = shards.table
    except ShardError as error:
        yield Fault(str(shards.path), str(error))
        return
    for i in range(len(table)):
        try:
            blob = shards.blob(i)
        except ShardError as error:
            yield Fault(shards.place(i), str(error))
            continue
        if len(blob) != table.size[i] or zlib.crc32(blob) != table.crc[i]:
            yield Fault(shards.place(i), ALTERED)
            continue
        height, width = int(table.height[i]), int(table.width[i])
        try:
            shape = shards._decode(i, blob).shape[:2]
        except ImageError as error:
            yield Fault(shards.place(i), str(error))
            continue
        if shape != (height, width):
            yield Fault(shards.place(i), f"decodes to {shape[1]}x{shape[0]}, the table says {width}x{height}")
        rows = slice(int(table.offsets[i]), int(table.offsets[i + 1]))
        boxes, labels = table.boxes[rows], table.labels[rows]
        inside = (boxes >= 0).all(1) & (boxes[:, 2] <= width) & (boxes[:, 3] <= height)
        for box in boxes[~(inside & (boxes[:, 2:] > boxes[:, :2]).all(1))]:
            yield Fault(shards.place(i), f"box {box.tolist()} is not inside {width}x{height} with an area")
        for label in labels[(labels < 0) | (labels >= len(shards.classes))]:
            yield Fault(shards.place(i), f"label {label} names no class")
