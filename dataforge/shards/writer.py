"""Writing a shard folder. Nothing counts until `index.json` is there, and that is written last."""

from __future__ import annotations

import shutil
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from dataforge.errors import ShardError
from dataforge.image import ImageInfo
from dataforge.record import Record, object_areas
from dataforge.shards import FORMAT_VERSION, INDEX, REPORT, store, write_index
from dataforge.shards.table import Jagged, write_table

SHARD_BYTES = 1 << 30


class ShardWriter:
    """Writes records into `out/<split>/00000`, `00001`, ...; a `with` block that raises leaves no shard behind.

    Args:
        out: a folder that does not exist, is empty, or holds what an unfinished ingest left.
        classes, class_ids, unions: as in `Source`.
        shard_bytes: a shard is closed once it holds this many bytes of images.

    Raises:
        ShardError: `out` holds something else, or cannot be written.
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
    ) -> None:
        self.out = out
        self._store = store(store_name)
        self._shard_bytes = shard_bytes
        self._open: dict[str, _Shard] = {}
        self._index: dict[str, Any] = {
            "format_version": FORMAT_VERSION,
            "source": source,
            "store": store_name,
            "codec": "keep",
            "classes": list(classes),
            "class_ids": list(class_ids) or list(range(len(classes))),
            "splits": {},
            "unions": {name: list(parts) for name, parts in (unions or {}).items()},
        }
        prepare(out)

    def add(self, record: Record, blob: bytes, info: ImageInfo) -> None:
        """Append a record whose boxes are already right.

        Args:
            blob: the image's encoded bytes, kept as they are.
            info: what its header says.

        Raises:
            ShardError: it could not be written.
        """
        shard = self._open.get(record.split)
        if shard is None:
            done = self._index["splits"].setdefault(record.split, [])
            folder = self.out / record.split / f"{len(done):05d}"
            try:
                folder.mkdir(parents=True)
            except OSError as error:
                raise ShardError(f"{folder}: cannot be made: {error.strerror}") from None
            shard = self._open[record.split] = _Shard(folder, self._store.create(folder))
        shard.add(record, blob, info)
        if shard.bytes >= self._shard_bytes:
            self._finish(record.split)

    def _finish(self, split: str) -> None:
        facts = self._open.pop(split).close()
        self._index["splits"][split].append({"path": f"{split}/{len(self._index['splits'][split]):05d}", **facts})

    def publish(self) -> None:
        """Close all shards and write `index.json`.

        Raises:
            ShardError: something could not be written.
        """
        for split in list(self._open):
            self._finish(split)
        try:
            write_index(self.out, self._index)
        except OSError as error:
            raise ShardError(f"{self.out / INDEX}: cannot be written: {error.strerror}") from None

    def __enter__(self) -> ShardWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            for shard in self._open.values():
                shard.blobs.abort()
            clear(self.out)


class _Shard:
    """A shard being written: blobs go out as they come, facts are held until it closes."""

    def __init__(self, folder: Path, blobs: Any) -> None:
        self.folder, self.blobs, self.bytes = folder, blobs, 0
        self.columns: dict[str, list[object]] = {
            name: [] for name in ("key", "id", "height", "width", "orientation", "size", "crc")
        }
        self.objects: list[tuple[Any, ...]] = []

    def add(self, record: Record, blob: bytes, info: ImageInfo) -> None:
        self.blobs.append(blob)
        self.bytes += len(blob)
        row = (record.key, record.id, info.height, info.width, info.orientation, len(blob), zlib.crc32(blob))
        for column, value in zip(self.columns.values(), row, strict=True):
            column.append(value)
        self.objects.append((record.boxes, record.labels, record.flags, object_areas(record)))

    def close(self) -> dict[str, int]:
        """Write the table, and give the shard's row for the index."""
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
        try:
            write_table(table, self.columns, rows)
            crc = zlib.crc32(table.read_bytes())
        except OSError as error:
            raise ShardError(f"{table}: cannot be written: {error.strerror or error}") from None
        return {"images": len(boxes), "boxes": int(offsets[-1]), "bytes": self.bytes, "table_crc": crc}


def prepare(out: Path) -> None:
    """Make the output folder, or clear what an unfinished ingest left in it.

    Raises:
        ShardError: it holds a published set or foreign files, or cannot be made.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        names = {entry.name for entry in out.iterdir()}
    except FileExistsError:
        raise ShardError(f"{out}: is a file; --out must name a folder") from None
    except OSError as error:
        raise ShardError(f"{out}: cannot be written: {error.strerror}") from None
    if INDEX in names:
        raise ShardError(f"{out}: already holds shards; remove it, or choose another --out")
    if names and REPORT not in names:
        raise ShardError(f"{out}: is not empty and was not made by `dataforge ingest`; choose another --out")
    clear(out)
    try:
        (out / REPORT).touch()  # marks the folder as ours from the first moment
    except OSError as error:
        raise ShardError(f"{out}: cannot be written: {error.strerror}") from None


def clear(out: Path) -> None:
    """Remove the shards of an unfinished ingest; its report stays."""
    for entry in out.iterdir():
        if entry.is_dir():
            shutil.rmtree(entry)
        elif entry.name != REPORT:
            entry.unlink()
