"""The interface of blob stores, and the stores by name."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from dataforge.registry import load


class BlobStore(Protocol):
    """Numbered blobs in one shard. Use `create`, `append` and `close` to write it; afterwards only `open`.

    A store whose blobs are pieces of files may have a method `extent(i)` that returns the `FileBytes` of blob i, where
    it starts and its length, or None for an empty one. Blobs at a URL are then fetched before they are read.

    Raises:
        ShardError, from each method but `open` and `abort`: a file cannot be written, is missing, or is damaged.
    """

    @classmethod
    def create(cls, path: Path) -> BlobStore:
        """Create a store in an existing folder."""

    @classmethod
    def open(cls, path: Path, trust: bool = True) -> BlobStore:
        """Open a finished store for reading. The files are opened at the first read.

        Without `trust`, no file is mapped, so that one that is cut or fails while it is read raises an error. Only
        `rows` maps files at all.
        """

    def append(self, blob: bytes | memoryview) -> None:
        """Append a blob. The shape of a multi-dimensional memoryview, accepted only by `rows`, is kept."""

    def __getitem__(self, i: int) -> memoryview:
        """Return the i-th blob, without a copy if possible."""

    def __len__(self) -> int: ...

    def close(self) -> None:
        """Finish writing: all data is on the disk on return. Has no effect on a store opened for reading."""

    def abort(self) -> None:
        """Abandon writing, in any state, without finishing the store and without raising."""


BLOBS = {
    "lmdb": "dataforge.shards.stores.lmdb:LmdbStore",
    "memmap": "dataforge.shards.stores.memmap:MemmapStore",
    "rows": "dataforge.shards.stores.rows:RowsStore",  # for pixels of few shapes
    "zarr": "dataforge.shards.stores.zarr:ZarrStore",
}


def store(name: str) -> type[BlobStore]:
    """Return the class of a store.

    Raises:
        ConfigError: the store is unknown.
    """
    blob_store: type[BlobStore] = load("store", name, BLOBS)
    return blob_store
