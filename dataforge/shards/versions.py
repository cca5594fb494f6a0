"""A version of an overlay of shards, read as shards: the base's images, and its tables with the edits in them."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from dataforge.errors import ShardError
from dataforge.overlay.boxes import edited_record
from dataforge.overlay.versions import is_version, open_version
from dataforge.polygons import Polygons, offsets_of
from dataforge.record import among, merged, polygons_of, relabelled
from dataforge.shards.index import INDEX, fingerprint, read_index
from dataforge.shards.judged import judged_rows
from dataforge.shards.table import Table, read_tables, row


class ShardsVersion:
    """What differs between shards and a version of an overlay of them.

    Args:
        path: DIR, DIR@v3 or DIR@clean.

    Attributes:
        folder: that of the shards; base: their index.

    Raises:
        OverlayError: there is no such version. ShardError: it is not of shards, or they have changed.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        version = open_version(path)
        self.edits = version.edits
        self.folder = Path(self.edits.path)
        if version.header["format"] != "shards":
            raise ShardError(
                f"{path}: is an overlay of {version.header['format']}; make shards by `dataforge overlay apply {path}`"
            )
        base = read_index(self.folder)
        content = fingerprint(self.folder)
        if version.header["fingerprint"] != content:
            raise ShardError(
                f"{self.folder}: has changed since {version.folder} was made (fingerprint {content}, "
                f"expected {version.header['fingerprint']})"
            )
        names = self.edits.classes()
        dense = {label: n for n, label in enumerate(names)}
        self._label_of = np.array([dense[self.edits.label(n)] for n in range(len(self.edits.names))], np.int32)
        numbers = self.edits.numbers(base["class_ids"])
        self.base = base
        self.index = base | {"classes": list(names.values()), "class_ids": [numbers[label] for label in names]}
        if "frequencies" in base:
            stated = {n: base["frequencies"].get(name) for n, name in enumerate(base["classes"])}
            self.index["frequencies"] = {name: stated[label] for label, name in names.items() if stated.get(label)}
        if "ancestors" in base:
            renamed = {name: names[self.edits.label(n)] for n, name in enumerate(base["classes"])}
            self.index["ancestors"] = among(base["ancestors"], renamed)

    @property
    def content(self) -> str:
        """8 hex digits that change with the content, as an index's CRC-32 does."""
        splits, start = {}, 0
        for name, shards in self.index["splits"].items():
            splits[name] = slice(start, start := start + sum(shard["images"] for shard in shards))
        rows = [shard for shards in self.index["splits"].values() for shard in shards]
        files = [self.folder / row["path"] / "table.arrow" for row in rows]
        table = self.table(read_tables(files, [row["table_crc"] for row in rows]), splits)  # polygons follow from these
        crc = zlib.crc32(repr(self.index).encode())
        for column in (table.offsets, table.boxes, table.labels, table.flags, table.areas):
            crc = zlib.crc32(column.tobytes(), crc)
        return f"{crc:08x}"

    def table(self, table: Table, splits: Mapping[str, slice]) -> Table:
        """Return the table as edited.

        Args:
            table: of the base's records in `splits`, stored split -> rows.
        """
        edited: dict[int, Any] = {}
        for split, rows in splits.items():
            changed = {key for place, key in self.edits.images if place == split}
            numbers = np.flatnonzero([key in changed for key in table.key[rows]]) + rows.start if changed else ()
            for i in numbers:
                record = row(table, int(i), split, origin=str(self._path))
                edited[int(i)] = edited_record(record, self.edits.boxes(record))
        counts = np.diff(table.offsets)
        kept = np.ones(len(table.boxes), bool)
        for i, record in edited.items():
            kept[table.offsets[i] : table.offsets[i + 1]] = False
            counts[i] = len(record.boxes)
        offsets = offsets_of(counts)
        others = np.ones(offsets[-1], bool)
        for i in edited:
            others[offsets[i] : offsets[i + 1]] = False
        columns: dict[str, Any] = {}
        for name in ("boxes", "labels", "flags", "areas"):
            old = getattr(table, name)
            column = columns[name] = np.empty((offsets[-1], *old.shape[1:]), old.dtype)
            column[others] = old[kept]
            for i, record in edited.items():
                column[offsets[i] : offsets[i + 1]] = getattr(record, name)
        columns["labels"] = self._label_of[columns["labels"]]
        if len(np.unique(self._label_of)) == len(self._label_of):
            columns["judged"] = relabelled(table.judged, self._label_of)
        elif table.judged is not None:
            columns["judged"] = judged_rows([merged(table.judged_of(i), self._label_of) for i in range(len(table))])
        if not table.polygons:
            return replace(table, offsets=offsets, _polygons=None, **columns)
        number = np.full(offsets[-1], -1)  # in the polygons of the table, then of the edited records
        number[others] = np.flatnonzero(kept)
        parts, count = [table.polygons], len(table.boxes)
        for i, record in edited.items():
            number[offsets[i] : offsets[i + 1]] = np.arange(len(record.boxes)) + count
            parts.append(polygons_of(record))
            count += len(record.boxes)
        polygons = Polygons.join(parts).take(number)
        return table.change(lambda _: polygons, offsets=offsets, **columns)


def is_shards(path: Path) -> bool:
    """Return True if a path is that of a shard folder, or of an overlay or a version of one."""
    return (path / INDEX).is_file() or is_version(path)


def version_of(path: Path) -> ShardsVersion | None:
    """Return the version that a path names, or None for the path of a shard folder."""
    return ShardsVersion(path) if is_version(path) else None
