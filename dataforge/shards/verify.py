"""Verification of a shard folder against its index."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from dataclasses import dataclass

from dataforge.errors import ImageError, ShardError
from dataforge.shards.cache_origin import ORIGIN
from dataforge.shards.file_bytes import FileBytes
from dataforge.shards.index import INDEX, POLYGONS_FILE
from dataforge.shards.judged import FILE as JUDGED
from dataforge.shards.reader import ALTERED, Shards


@dataclass(frozen=True)
class Fault:
    """A faulty record or shard."""

    place: str
    reason: str


def verify(shards: Shards) -> Iterator[Fault]:
    """Read, check and decode everything, and yield each fault.

    Checked: the tables' checksums; and if these are right, each image's size and CRC-32; that it decodes, and to the
    height and width in the table; that boxes are inside it and have an area, and labels are valid classes.
    """
    # faults are yielded here, not raised
    shards = Shards(shards.path, shards.split, shards.view, verify=False, trust=False)
    shards._checks_values = shards._version is not None
    faults = list(_of_files(shards))
    if not faults:
        try:
            table = shards.table
            _ = table.polygons
        except ShardError as error:
            faults = [Fault(str(shards.path), str(error))]
    if faults:
        yield from faults
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
            shards._decode(i, blob)
        except ImageError as error:
            yield Fault(shards.place(i), str(error))
            continue
        rows = slice(int(table.offsets[i]), int(table.offsets[i + 1]))
        boxes, labels = table.boxes[rows], table.labels[rows]
        inside = (boxes >= 0).all(1) & (boxes[:, 2] <= width) & (boxes[:, 3] <= height)
        for box in boxes[~(inside & (boxes[:, 2:] > boxes[:, :2]).all(1))]:
            yield Fault(shards.place(i), f"box {box.tolist()} is not inside {width}x{height} with an area")
        for label in labels[(labels < 0) | (labels >= len(shards.classes))]:
            yield Fault(shards.place(i), f"label {label} names no class")


def _of_files(shards: Shards) -> Iterator[Fault]:
    """Yield the files of facts that are missing or altered; without them no image can be checked."""
    files = {shards.folder / shard["path"] / "table.arrow": shard["table_crc"] for shard in shards._shards}
    for shard in shards._shards:
        for name, crc in ((POLYGONS_FILE, shard.get("polygons_crc")), (JUDGED, shard.get("judged_crc"))):
            if crc is not None:
                files[shards.folder / shard["path"] / name] = crc
    if "baked" in shards.index:
        files = {shards.path / ORIGIN: shards.index["baked"]["origin_crc"], **files}
    for file, crc in files.items():
        try:
            if not file.is_file():
                yield Fault(str(file), "is missing")
                continue
            altered = zlib.crc32(FileBytes(file).read()) != crc
        except (ShardError, OSError) as error:
            yield Fault(str(file), str(error))
            continue
        if altered:
            yield Fault(str(file), f"checksum is not the one in {INDEX}")
