"""Records are read from a URL or a disk before they are needed, and fetched again if their bytes are wrong."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

from dataforge.errors import ShardError
from dataforge.shards.file_bytes import FileBytes
from dataforge.shards.links import LinkedStore
from dataforge.shards.stores.registry import BlobStore

LOCATING = 4  # threads that look for where blobs lie, for which they read parts of the files


def prefetch(open_store: Callable[[int], BlobStore | LinkedStore], places: Iterable[tuple[int, int]]) -> None:
    """Start to read blobs, at a URL those that are needed first at the front.

    Args:
        places: the shard of each, and its number there.
    """
    of_shard: dict[int, list[int]] = {}
    for shard, number in places:
        of_shard.setdefault(shard, []).append(number)
    for shard, numbers in of_shard.items():
        _pool(os.getpid()).submit(_prefetch, open_store, shard, numbers)


def _prefetch(open_store: Callable[[int], BlobStore | LinkedStore], shard: int, numbers: list[int]) -> None:
    pieces: dict[FileBytes, list[tuple[int, int]]] = {}
    with suppress(ShardError):  # whoever reads them meets it
        blobs = open_store(shard)
        for number in numbers:
            if where := _extent(blobs, number):
                pieces.setdefault(where[0], []).append(where[1:])
    for file, of_file in pieces.items():
        file.prefetch(of_file)


def read_again(blobs: BlobStore | LinkedStore, number: int) -> memoryview:
    """Return a blob from the URL, not from the cache."""
    if where := _extent(blobs, number):
        file, start, length = where
        assert file.remote is not None, f"{file.path} is not at a URL"
        file.remote.forget(start, length)
    return blobs[number]


def forget(folder: Path) -> None:
    """Remove all files of a shard from the cache."""
    for path in folder.glob("*"):
        if path.is_file():
            file = FileBytes(path)
            assert file.remote is not None, f"{path} is not at a URL"
            file.remote.forget(0, file.size)
        else:
            forget(path)


def _extent(blobs: BlobStore | LinkedStore, number: int) -> tuple[FileBytes, int, int] | None:
    extent = getattr(blobs, "extent", None)
    return extent(number) if extent else None


@functools.lru_cache(1)
def _pool(process: int) -> ThreadPoolExecutor:
    """Return the threads that locate blobs; a forked process makes its own."""
    return ThreadPoolExecutor(LOCATING, "shards-locate")
