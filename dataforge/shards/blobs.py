"""Encoded images by number: the shard that holds one, and its store, which is opened when it is first needed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dataforge.cloud.path import RemotePath
from dataforge.errors import ShardError
from dataforge.shards import ahead
from dataforge.shards.index import INDEX, LINK
from dataforge.shards.links import Images, LinkedStore
from dataforge.shards.stores.registry import BlobStore, store
from dataforge.shards.stores.rows import RowsStore
from dataforge.threads import cached_property, lock


class Blobs:
    """The images of some shards, numbered one shard after another. Threads may share it.

    Args:
        folder: of the shards; rows: theirs in the index; store_name: as there; trust: as of `Shards`.
        open_parents: opens the shards that hold the images of linked ones.

    Attributes:
        starts: (shards + 1,) the number of the first image of each shard, then of all images.
    """

    def __init__(
        self,
        folder: Path,
        rows: Sequence[dict[str, Any]],
        store_name: str,
        trust: bool,
        open_parents: Callable[[], Sequence[Images]],
    ) -> None:
        self.folder, self._rows, self._store_name, self._trust = folder, rows, store_name, trust
        self.starts = np.cumsum([0, *(row["images"] for row in rows)])
        self._open_parents = open_parents
        self._remote = isinstance(folder, RemotePath)
        self._stores: list[BlobStore | LinkedStore | None] = [None] * len(rows)
        self._lock, self._opening = lock(), dict[int, Any]()
        self._read_again: set[int] = set()  # shards that were damaged, or whose copies in the cache were

    def place(self, i: int) -> tuple[int, int]:
        """Return the shard of image i, and its number in the shard."""
        shard = int(np.searchsorted(self.starts, i, "right")) - 1
        return shard, i - int(self.starts[shard])

    def path(self, shard: int) -> Path:
        return self.folder / self._rows[shard]["path"]

    def read(self, i: int) -> memoryview:
        """Return image i.

        Raises:
            ShardError: its store is missing or damaged, at a URL also after the shard was fetched anew.
        """
        shard, number = self.place(i)
        try:
            return self.store(shard)[number]
        except ShardError as error:
            if not self._remote or isinstance(error.__context__, OSError):  # a request failed, with all its retries
                raise
        with self._lock:
            if shard not in self._read_again:
                ahead.forget(self.path(shard))
                self._stores[shard] = None
                self._read_again.add(shard)
        return self.store(shard)[number]

    def read_again(self, i: int) -> memoryview:
        """Return image i from the URL, not from the cache."""
        shard, number = self.place(i)
        return ahead.read_again(self.store(shard), number)

    def prefetch(self, numbers: Iterable[int]) -> None:
        """Start to read images, at a URL those that come first at the front."""
        ahead.prefetch(self.store, map(self.place, numbers))

    def gather(self, numbers: NDArray[np.int64], out: NDArray[np.uint8]) -> None:
        """Copy the rows of pixels `numbers` (n,) to `out` (n, height, width, channels), C-contiguous."""
        shards = np.searchsorted(self.starts, numbers, "right") - 1
        for shard in np.unique(shards).tolist():
            rows = self.store(shard)
            assert isinstance(rows, RowsStore)
            in_shard = shards == shard
            part = out if in_shard.all() else np.empty((int(in_shard.sum()), *out.shape[1:]), np.uint8)
            rows.gather(numbers[in_shard] - self.starts[shard], part)
            if part is not out:
                out[in_shard] = part

    def store(self, shard: int) -> BlobStore | LinkedStore:
        """Return the store of a shard.

        Raises:
            ShardError: it is missing, or does not hold as many images as the index says.
        """
        if (opened := self._stores[shard]) is not None:
            return opened
        with self._opening.setdefault(shard, lock()):  # two readers of one file would fetch it twice
            opened = self._stores[shard]
            if opened is None:
                folder, links = self.path(shard), self._store_name == LINK
                opened = store("memmap" if links else self._store_name).open(folder, self._trust)
                images = self._rows[shard]["images"]
                if len(opened) != images:
                    raise ShardError(f"{folder}: holds {len(opened)} blobs, {INDEX} says {images} images")
                opened = LinkedStore(folder, opened, self._parents) if links else opened
                self._stores[shard] = opened
            return opened

    @cached_property
    def _parents(self) -> Sequence[Images]:
        return self._open_parents()
