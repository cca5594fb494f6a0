"""The writer of shard folders. A folder is valid only once `index.json` exists, which is written last."""

from __future__ import annotations

import shutil
import zlib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from dataforge.errors import ShardError
from dataforge.files import flush, writing
from dataforge.images.header import ImageInfo
from dataforge.polygons import Polygons
from dataforge.record import Record, object_areas, polygons_of
from dataforge.shards.index import FORMAT_VERSION, INDEX, JOURNAL, LINK, POLYGONS_FILE, REPORT, write_index
from dataforge.shards.judged import write_judged
from dataforge.shards.links import Parents
from dataforge.shards.polygons_file import write_polygons
from dataforge.shards.stores.registry import BlobStore, store
from dataforge.shards.table import Jagged, write_table

SHARD_BYTES = 1 << 30


class ShardWriter:
    """Write records into `out/<split>/00000`, `00001`, ...; a `with` block that raises leaves no shard behind.

    Args:
        out: a folder that does not exist, is empty, or contains the files of an unfinished ingest.
        classes, class_ids, unions: as in `Source`.
        store_name: of `stores.registry.BLOBS`; or "link", to refer to images that are in shards already.
        shard_bytes: a shard is closed once it contains this many bytes of images.
        codec, depth, baked: as in the index; the images are stored as `codec` states.
        frequencies: as in `Source`.
        send: called with the folder of each shard when it is closed, which it may remove.
        closed: split -> rows of the index for shards already in `out`, which are kept. If given, even empty, closed
            shards stay when a `with` block raises.

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
        closed: Mapping[str, Sequence[Mapping[str, Any]]] | None = None,
        send: Callable[[Path], None] | None = None,
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
        known = {name: frequency for name, frequency in (frequencies or {}).items() if name in classes}
        if known:
            self._index["frequencies"] = known
        if baked is not None:
            self._index["baked"] = dict(baked)
        prepare(out, self._paths())

    def _paths(self) -> set[str]:
        return {row["path"] for rows in self._closed.values() for row in rows}

    def open_split(self, split: str) -> list[dict[str, Any]]:
        """Return a split's rows so far. The index lists splits in the order of their first calls of this method."""
        rows: list[dict[str, Any]] = self._index["splits"].setdefault(split, self._closed.setdefault(split, []))
        return rows

    def add(self, record: Record, blob: bytes | memoryview, info: ImageInfo) -> dict[str, Any] | None:
        """Append a record with valid boxes. Return the row of the shard that it fills, if any.

        Args:
            blob: the image's encoded bytes, stored unchanged.
            info: its header properties.

        Raises:
            ShardError: the record could not be written. ConfigError: it is to be linked, and its image is in no shards.
        """
        shard = self._open.get(record.split)
        if shard is None:
            folder = self.out / record.split / f"{len(self.open_split(record.split)):05d}"
            with writing(folder, ShardError):
                folder.mkdir(parents=True)
            shard = self._open[record.split] = _Shard(folder, self._store.create(folder))
        shard.add(record, blob, info, self._parents.link(record, blob) if self._parents else blob)
        return self._close(record.split) if shard.bytes >= self._shard_bytes else None

    def _close(self, split: str) -> dict[str, Any]:
        rows = self.open_split(split)
        row: dict[str, Any] = {"path": f"{split}/{len(rows):05d}", **self._open[split].close()}
        del self._open[split]
        rows.append(row)
        if self._send:
            self._send(self.out / row["path"])
        return row

    def close(self) -> Iterator[dict[str, Any]]:
        """Close the shards that are still open, one by one, and yield their rows."""
        for split in list(self._open):
            yield self._close(split)

    def publish(self) -> None:
        """Close all shards and write `index.json`.

        Raises:
            ShardError: a file could not be written.
        """
        for _ in self.close():
            pass
        if self._parents:
            self._index["parents"] = self._parents.rows()
        with writing(self.out / INDEX, ShardError):
            write_index(self.out, self._index)
            (self.out / JOURNAL).unlink(missing_ok=True)

    def __enter__(self) -> ShardWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            for shard in self._open.values():
                shard.blobs.abort()
            clear(self.out, self._paths() if self._resumable else ())


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

    def add(self, record: Record, blob: bytes | memoryview, info: ImageInfo, stored: bytes | memoryview) -> None:
        """Append a record with its image, which the store holds as `stored`."""
        self.blobs.append(stored)
        size = memoryview(blob).nbytes
        self.bytes += size
        row = (record.key, record.id, info.height, info.width, info.orientation, size, zlib.crc32(blob))
        for column, value in zip(self.columns.values(), row, strict=True):
            column.append(value)
        self.objects.append((record.boxes, record.labels, record.flags, object_areas(record)))
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


def prepare(out: Path, kept: Collection[str] = ()) -> None:
    """Make the output folder, or remove the files of an unfinished ingest from it, except the shards to keep.

    Raises:
        ShardError: it contains a published set or foreign files, or cannot be created.
    """
    if out.is_file():
        raise ShardError(f"{out}: is a file; --out must name a folder")
    with writing(out, ShardError):
        out.mkdir(parents=True, exist_ok=True)
        names = {entry.name for entry in out.iterdir()}
    if INDEX in names:
        raise ShardError(f"{out}: already holds shards; remove it, or choose another --out")
    if names and REPORT not in names:
        raise ShardError(f"{out}: is not empty and was not made by `dataforge ingest`; choose another --out")
    clear(out, kept)
    with writing(out, ShardError):
        (out / REPORT).touch()  # marks the folder as an ingest's from the start


def clear(out: Path, kept: Collection[str] = ()) -> None:
    """Remove the shards of an unfinished ingest except those in `kept`, as `<split>/<number>`; its report stays."""
    for entry in out.iterdir():
        if not entry.is_dir():
            if entry.name != REPORT and not (kept and entry.name == JOURNAL):
                entry.unlink()
        elif any(path.startswith(f"{entry.name}/") for path in kept):
            for shard in entry.iterdir():
                if f"{entry.name}/{shard.name}" not in kept:
                    _remove(shard)
        else:
            _remove(entry)


def _remove(folder: Path) -> None:
    """Remove a folder. After an error, Zarr's threads may still be removing their files in it."""
    with suppress(FileNotFoundError):
        shutil.rmtree(folder)
    if folder.exists():
        shutil.rmtree(folder)
