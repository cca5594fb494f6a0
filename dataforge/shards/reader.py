"""Reading a shard folder, and checking that it is what its index says."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dataforge.errors import DataError, ImageError, ShardError
from dataforge.record import CROWD, DIFFICULT, TRUNCATED
from dataforge.shards import INDEX, BlobStore, read_index, resolve_split, store
from dataforge.shards.table import Table, read_tables


class Shards:
    """A shard folder, or one split of it. It pickles as its path, and threads may share it.

    Args:
        path: a folder made by `dataforge ingest`.
        split: take only this split (its name, or the start of one that fits no other); None takes all, in the
            index's order.

    Attributes:
        classes: names by label; class_ids: the source's own number for each.
        table: the facts of all records; `blob(i)`: record i's encoded image.
        splits: split -> the numbers of its records here.

    Raises:
        ShardError: the folder cannot be opened; ConfigError: no such split.
    """

    def __init__(self, path: str | Path, split: str | None = None) -> None:
        self.path = Path(path)
        self.index = read_index(self.path)
        self.classes: tuple[str, ...] = tuple(self.index["classes"])
        self.class_ids: tuple[int, ...] = tuple(self.index["class_ids"])
        stored: dict[str, list[dict[str, Any]]] = self.index["splits"]
        unions: dict[str, list[str]] = self.index["unions"]
        if split is None:
            self.split, parts = None, list(stored)
        else:
            self.split = resolve_split(split, [*stored, *unions])
            parts = unions.get(self.split, [self.split])
        self._shards = [shard for part in parts for shard in stored[part]]
        self._starts = np.cumsum([0, *(shard["images"] for shard in self._shards)])
        self._stores: list[BlobStore | None] = [None] * len(self._shards)
        bounds = np.cumsum([0, *(sum(shard["images"] for shard in stored[part]) for part in parts)])
        self.splits = {part: np.arange(a, b) for part, a, b in zip(parts, bounds[:-1], bounds[1:], strict=True)}
        for name, members in unions.items():
            if set(members) <= set(parts):
                self.splits[name] = np.concatenate([self.splits[member] for member in members])

    def __reduce__(self) -> tuple[type[Shards], tuple[Path, str | None]]:
        return Shards, (self.path, self.split)

    def __len__(self) -> int:
        return int(self._starts[-1])

    def __repr__(self) -> str:
        return f"Shards({str(self.path)!r}, split={self.split!r}, images={len(self)}, classes={len(self.classes)})"

    @cached_property
    def table(self) -> Table:
        table = read_tables([self.path / shard["path"] / "table.arrow" for shard in self._shards])
        if len(table) != len(self):
            raise ShardError(f"{self.path}: tables hold {len(table)} records, {INDEX} says {len(self)}")
        return table

    @cached_property
    def fingerprint(self) -> str:
        """8 hex digits that change with the content: the index carries the tables' checksums, they the images'."""
        return f"{zlib.crc32((self.path / INDEX).read_bytes()):08x}"

    def place(self, i: int) -> str:
        """Where record i is, in words for a message: its shard, its number there and its key."""
        shard = int(np.searchsorted(self._starts, i, "right")) - 1
        folder = self.path / self._shards[shard]["path"]
        return f"{folder} record {i - int(self._starts[shard])} ({self.table.key[i]})"

    def blob(self, i: int) -> memoryview:
        """Record i's encoded image, without a copy.

        Raises:
            IndexError: i is not in 0..len-1.
            ShardError: the store is missing or damaged.
        """
        if not 0 <= i < len(self):
            raise IndexError(f"record {i} of {len(self)}")
        shard = int(np.searchsorted(self._starts, i, "right")) - 1
        opened = self._stores[shard]
        if opened is None:
            folder = self.path / self._shards[shard]["path"]
            opened = self._stores[shard] = store(self.index["store"]).open(folder)
        return opened[i - int(self._starts[shard])]

    def pixels(self, i: int) -> NDArray[np.uint8]:
        """Record i's image, decoded and upright: (height, width, 3) RGB.

        Raises:
            DataError: it is missing or damaged; the text names its shard, number and key.
        """
        from dataforge.decode import decode  # here, so that looking at the facts loads no decoder

        try:
            return decode(self.blob(i), int(self.table.orientation[i]))
        except (ImageError, ShardError) as error:
            raise DataError(f"{self.place(i)}: {error}") from None

    def info(self) -> dict[str, Any]:
        """What is in it, as `dataforge info --json` prints it."""
        table = self.table
        counts = np.diff(table.offsets)

        def describe(rows: np.ndarray) -> dict[str, Any]:
            objects = table.take(rows)
            per_class = np.bincount(objects.labels, minlength=len(self.classes))
            return {
                "images": len(rows),
                "boxes": len(objects.labels),
                "empty": int((counts[rows] == 0).sum()),
                "per_class": dict(zip(self.classes, per_class.tolist(), strict=True)),
                "crowd": int((objects.flags & CROWD > 0).sum()),
                "difficult": int((objects.flags & DIFFICULT > 0).sum()),
                "truncated": int((objects.flags & TRUNCATED > 0).sum()),
            }

        def spread(values: np.ndarray) -> list[int]:
            return np.percentile(values, [0, 50, 100]).astype(int).tolist() if len(values) else [0, 0, 0]

        return {
            "format_version": self.index["format_version"],
            "source": self.index["source"],
            "classes": list(self.classes),
            "images": len(table),
            "boxes": len(table.boxes),
            "splits": {name: describe(rows) for name, rows in self.splits.items()},
            "unions": self.index["unions"],
            "height": spread(table.height),
            "width": spread(table.width),
            "boxes_per_image": spread(counts),
            "store": self.index["store"],
            "codec": self.index["codec"],
            "bytes": int(table.size.sum()),
            "fingerprint": self.fingerprint,
        }


@dataclass(frozen=True)
class Fault:
    """A record, or a whole shard, that is not what it should be."""

    place: str
    reason: str


def verify(shards: Shards) -> Iterator[Fault]:
    """Read, check and decode everything, and give each fault.

    Checked: the tables' checksums; each image's size and CRC-32; that it decodes, and to the height and width in the
    table; that boxes lie inside it with an area, and labels name a class.
    """
    from dataforge.decode import decode

    for shard in shards._shards:
        file = shards.path / shard["path"] / "table.arrow"
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
            yield Fault(shards.place(i), "the image's bytes are not those that were ingested (size or CRC-32 differs)")
            continue
        height, width = int(table.height[i]), int(table.width[i])
        try:
            shape = decode(blob, int(table.orientation[i])).shape[:2]
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
