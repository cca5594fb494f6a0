"""The writer of shard folders. A folder is valid only once `index.json` exists, which is written last."""

from __future__ import annotations

import math
import os
import shutil
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from dataforge.errors import ShardError
from dataforge.files import flush, writing
from dataforge.images.header import ImageInfo
from dataforge.polygons import Polygons
from dataforge.record import Record, among, object_areas, polygons_of
from dataforge.shards.index import FORMAT_VERSION, INDEX, JOURNAL, LINK, PART, POLYGONS_FILE, write_index
from dataforge.shards.judged import write_judged
from dataforge.shards.links import Parents
from dataforge.shards.out_folder import claim, clear
from dataforge.shards.polygons_file import write_polygons
from dataforge.shards.stores.registry import BlobStore, store
from dataforge.shards.table import Jagged, write_table

SHARD_BYTES = 1 << 30
LARGEST = float(np.finfo(np.float32).max)


class ShardWriter:
    """Write records into `out/<split>/00000`, `00001`, ...; a `with` block that raises leaves no shard behind.

    Args:
        out: a folder that does not exist, is empty, or contains the files of an unfinished ingest.
        classes, class_ids, unions: as in `Source`.
        store_name: of `stores.registry.BLOBS`; or "link", to refer to images that are in shards already.
        shard_bytes: a shard is closed once it contains this many bytes of images.
        codec, depth, baked: as in the index; the images are stored as `codec` states.
        frequencies, ancestors: as in `Source`.
        send: called with the folder of each shard when it is closed, which it may remove.
        closed: split -> rows of the index for shards already in `out`, which are kept. If given, even empty, closed
            shards stay when a `with` block raises.
        lock: of `out_folder.claim`; by default it is taken here. It is closed at the end of the `with` block.

    Raises:
        ShardError: `out` contains other files, or cannot be written.
    """

    def __init__(
        self,
        out: Path,
        classes: Sequence[str],
        class_ids: Sequence[int] = (),
        unions: Mapping[str, Sequence[str]] | None = None,
        *,
        store_name: str = "lmdb",
        shard_bytes: int = SHARD_BYTES,
        source: str = "",
        codec: str = "keep",
        depth: str = "scale",
        baked: Mapping[str, Any] | None = None,
        frequencies: Mapping[str, str] | None = None,
        ancestors: Mapping[str, Sequence[str]] | None = None,
        closed: Mapping[str, Sequence[Mapping[str, Any]]] | None = None,
        send: Callable[[Path], None] | None = None,
        lock: BinaryIO | None = None,
    ) -> None:
        self.out, self._send = out, send
        self._resumable = closed is not None
        self._closed = {split: [dict(row) for row in rows] for split, rows in (closed or {}).items()}
        self._parents = Parents() if store_name == LINK else None
        self._store = store("memmap" if self._parents else store_name)
        self._shard_bytes = shard_bytes
        self._open: dict[str, _Shard] = {}
        self._index: dict[str, Any] = {
            "format_version": FORMAT_VERSION,
            "source": source,
            "store": store_name,
            "codec": codec,
            "classes": list(classes),
            "class_ids": list(class_ids) or list(range(len(classes))),
            "splits": {},
            "unions": {name: list(parts) for name, parts in (unions or {}).items()},
        }
        if depth != "scale":
            self._index["depth"] = depth
        if frequencies:
            self._index["frequencies"] = dict(frequencies)
        if above := among(ancestors or {}, dict(zip(classes, classes, strict=True))):
            self._index["ancestors"] = above
        if baked is not None:
            self._index["baked"] = dict(baked)
        self._lock = lock or claim(out)
        try:
            clear(out, self._paths())  # of an unfinished ingest
        except BaseException:
            self._lock.close()
            raise

    def _paths(self) -> set[str]:
        return {row["path"] for rows in self._closed.values() for row in rows}

    def open_split(self, split: str) -> list[dict[str, Any]]:
        """Return a split's rows so far. The index lists splits in the order of their first calls of this method."""
        rows: list[dict[str, Any]] = self._index["splits"].setdefault(split, self._closed.setdefault(split, []))
        return rows

    def add(self, record: Record, blob: bytes | memoryview, info: ImageInfo, number: int | None = None) -> None:
        """Append a record with valid boxes, and close the shard that it fills.

        Args:
            blob: the image's encoded bytes, stored unchanged.
            info: its header properties.
            number: of its shard, which stays open until `end`; by default shards are closed by `shard_bytes`.

        Raises:
            ShardError: a box, a label or an area is impossible, or the record could not be written. ConfigError: it is
                to be linked, and its image is in no shards.
        """
        areas = object_areas(record)
        _check(record, areas, len(self._index["classes"]))
        shard = self._open.get(record.split)
        if shard is None:
            rows = self.open_split(record.split)
            folder = self.out / record.split / f"{len(rows) if number is None else number:05d}"
            with writing(folder, ShardError):
                folder.mkdir(parents=True)
            shard = self._open[record.split] = _Shard(folder, self._store.create(folder))
        shard.add(record, areas, blob, info, self._parents.link(record, blob) if self._parents else blob)
        if number is None and shard.bytes >= self._shard_bytes:
            self.end(record.split)

    def end(self, split: str) -> dict[str, Any] | None:
        """Close a split's open shard, if there is one, and return its row."""
        shard = self._open.get(split)
        if shard is None:
            return None
        row: dict[str, Any] = {"path": f"{split}/{shard.folder.name}", **shard.close()}
        del self._open[split]
        self._append(split, row)
        return row

    def _append(self, split: str, row: dict[str, Any]) -> None:
        self.open_split(split).append(row)
        if self._send:
            self._send(self.out / row["path"])

    def adopt(self, split: str, row: Mapping[str, Any], shard: Path) -> None:
        """Append a closed shard of another folder. Its files are linked, or copied to another disk.

        Raises:
            ShardError: it could not be read or written.
        """
        target = self.out / row["path"]
        with writing(target, ShardError):
            for file in (file for file in shard.rglob("*") if file.is_file()):
                new = target / file.relative_to(shard)
                new.parent.mkdir(parents=True, exist_ok=True)
                try:
                    os.link(file, new)
                except OSError:  # another disk, or one without links
                    shutil.copyfile(file, new)
                    flush(new)
            for path in (target, target.parent):
                flush(path)
        self._append(split, dict(row))

    def close(self) -> Iterator[dict[str, Any]]:
        """Close the shards that are still open, one by one, and yield their rows."""
        for split in list(self._open):
            row = self.end(split)
            assert row is not None
            yield row

    def publish(self, part: Mapping[str, Any] | None = None) -> None:
        """Close all shards and write `index.json`; or `part.json` for a part of an ingest, whose journal stays.

        Args:
            part: what `part.json` states besides an index.

        Raises:
            ShardError: a file could not be written.
        """
        for _ in self.close():
            pass
        if self._parents:
            self._index["parents"] = self._parents.rows()
        if part is not None:
            with writing(self.out / PART, ShardError):
                write_index(self.out, {**self._index, "part": dict(part)}, PART)
            return
        with writing(self.out / INDEX, ShardError):
            write_index(self.out, self._index)
            (self.out / JOURNAL).unlink(missing_ok=True)

    def __enter__(self) -> ShardWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._lock:
            if kind is not None:
                for shard in self._open.values():
                    shard.blobs.abort()
                clear(self.out, self._paths() if self._resumable else ())


def _check(record: Record, areas: NDArray[np.float32], classes: int) -> None:
    """Raise ShardError for values that readers take for damage: see `check_values` of `shards.table`."""
    # for the few boxes of an image Python is faster than NumPy
    rows = zip(record.boxes.tolist(), record.labels.tolist(), areas.tolist(), strict=True)
    for n, (box, label, area) in enumerate(rows):
        if not math.isfinite(sum(box)):
            wrong = f"box {n} is {box}; expected finite numbers"
        elif not 0 <= label < classes:
            wrong = f"label of box {n} is {label}; expected 0 to {classes - 1}"
        elif not 0 <= area <= LARGEST:
            wrong = f"area of box {n} is {area:g}; expected 0 or more, and finite"
        else:
            continue
        raise ShardError(f"{record.split}: {record.key}: {wrong}")


class _Shard:
    """A shard being written: blobs are written immediately, table columns are kept in memory until it closes."""

    def __init__(self, folder: Path, blobs: BlobStore) -> None:
        self.folder, self.blobs, self.bytes = folder, blobs, 0
        self.columns: dict[str, list[object]] = {
            name: [] for name in ("key", "id", "height", "width", "orientation", "size", "crc")
        }
        self.objects: list[tuple[Any, ...]] = []
        self.polygons: list[Polygons] = []
        self.judged: list[Any] = []

    def add(
        self,
        record: Record,
        areas: NDArray[np.float32],
        blob: bytes | memoryview,
        info: ImageInfo,
        stored: bytes | memoryview,
    ) -> None:
        """Append a record, with the areas of its objects, and its image, which the store holds as `stored`."""
        self.blobs.append(stored)
        size = memoryview(blob).nbytes
        self.bytes += size
        row = (record.key, record.id, info.height, info.width, info.orientation, size, zlib.crc32(blob))
        for column, value in zip(self.columns.values(), row, strict=True):
            column.append(value)
        self.objects.append((record.boxes, record.labels, record.flags, areas))
        self.polygons.append(polygons_of(record))
        self.judged.append(record.judged)

    def close(self) -> dict[str, int]:
        """Write the table, and return the shard's row for the index."""
        self.blobs.close()
        boxes, labels, flags, areas = zip(*self.objects, strict=True)
        offsets = np.cumsum([0, *map(len, boxes)])
        rows = Jagged(
            np.concatenate(boxes).astype(np.float32),
            np.concatenate(labels).astype(np.int32),
            np.concatenate(flags).astype(np.uint8),
            np.concatenate(areas).astype(np.float32),
            offsets,
        )
        table = self.folder / "table.arrow"
        with writing(table, ShardError):
            write_table(table, self.columns, rows)
            crcs = {"table_crc": zlib.crc32(table.read_bytes())}
            if any(self.polygons):
                write_polygons(self.folder / POLYGONS_FILE, Polygons.join(self.polygons))
                crcs["polygons_crc"] = zlib.crc32((self.folder / POLYGONS_FILE).read_bytes())
            judged_crc = write_judged(self.folder, self.judged)
            if judged_crc is not None:
                crcs["judged_crc"] = judged_crc
            for path in (*self.folder.glob("*.arrow"), self.folder, self.folder.parent):
                flush(path)
        return {"images": len(boxes), "boxes": int(offsets[-1]), "bytes": self.bytes, **crcs}
