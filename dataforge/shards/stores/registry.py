"""What a store of blobs must do, and the stores by name."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from dataforge.registry import load


class BlobStore(Protocol):
    """Numbered blobs in one shard. `create` it, `append` to it and `close` it; from then on it is only `open`ed.

    Raises:
        ShardError, from each method but `open` and `abort`: a file cannot be written, is missing, or is damaged.
    """

    @classmethod
    def create(cls, path: Path) -> BlobStore:
        """Start a store in an existing folder."""

    @classmethod
    def open(cls, path: Path) -> BlobStore:
        """A finished store, for reading. The files are opened at the first read."""

    def append(self, blob: bytes | memoryview) -> None:
        """Add the next blob. Of a memoryview with several dimensions, which only `rows` takes, the shape is kept."""

    def __getitem__(self, i: int) -> memoryview:
        """The i-th blob, without a copy where that can be."""

    def __len__(self) -> int: ...

    def close(self) -> None:
        """Finish writing: everything is on the disk when this returns. Nothing is done to a store that is read."""

    def abort(self) -> None:
        """Let go of what is being written, whatever state it is in. Nothing is finished, and nothing raised."""


BLOBS = {
    "lmdb": "dataforge.shards.stores.lmdb:LmdbStore",
    "memmap": "dataforge.shards.stores.memmap:MemmapStore",
    "rows": "dataforge.shards.stores.rows:RowsStore",  # for pixels of few shapes
    "zarr": "dataforge.shards.stores.zarr:ZarrStore",
}


def store(name: str) -> type[BlobStore]:
    """The class of a store.

    Raises:
        ConfigError: the store is not known.
    """
    blob_store: type[BlobStore] = load("store", name, BLOBS)
    return blob_store
