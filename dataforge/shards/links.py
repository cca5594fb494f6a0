"""Linked shards: their images lie in other shard folders, the parents, which hold them as their own.

A link is 16 bytes in a `MemmapStore`: the number of the parent in the index, and of the record in the parent. Parents
are never linked themselves, so a link is followed once, and cannot lead in a circle.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from dataforge.cloud.path import RemotePath
from dataforge.errors import ConfigError, ShardError
from dataforge.files import reading
from dataforge.record import Record
from dataforge.shards.index import INDEX, fingerprint
from dataforge.shards.stores.registry import BlobStore

_PAIR = struct.Struct("<QQ")


class StoredImage(bytes):
    """An image's bytes, and where they are stored.

    Attributes:
        folder: the shard folder that holds them; number: of the record, among all of that folder.
    """

    folder: Path
    number: int


class Parents:
    """The parents of shards that are being written, numbered as they come."""

    def __init__(self) -> None:
        self._numbers: dict[Path, int] = {}

    def link(self, record: Record, blob: bytes | memoryview) -> bytes:
        """Return the link to an image.

        Raises:
            ConfigError: it is in no shards.
        """
        if not isinstance(blob, StoredImage):
            raise ConfigError(
                f"{record.key}: is in no shards, so it cannot be linked; expected a split or merge of shards, or an "
                "overlay of shards"
            )
        if isinstance(blob.folder, RemotePath):
            raise ConfigError(f"{blob.folder}: is at a URL; expected shards in a folder to link to, or --copy")
        return _PAIR.pack(self._numbers.setdefault(blob.folder, len(self._numbers)), blob.number)

    def rows(self) -> list[dict[str, str]]:
        """Return the entry of the index."""
        return [{"path": str(folder), "fingerprint": _fingerprint(folder)} for folder in self._numbers]


class Images(Protocol):
    """Images by number, as `Shards` are."""

    def __len__(self) -> int: ...

    def blob(self, i: int) -> memoryview: ...


class LinkedStore:
    """The images to which a shard's links lead, for reading.

    Args:
        folder: of the shard, for messages; links: its store.
    """

    def __init__(self, folder: Path, links: BlobStore, parents: Sequence[Images]) -> None:
        self._folder, self._links, self._parents = folder, links, parents

    def __len__(self) -> int:
        return len(self._links)

    def __getitem__(self, i: int) -> memoryview:
        parent, number = self.link(i)
        return self._parents[parent].blob(number)

    def link(self, i: int) -> tuple[int, int]:
        """Return the number of the parent that holds image i, and of the record in it.

        Raises:
            ShardError: there is no such record.
        """
        data = self._links[i]
        parent, number = _PAIR.unpack(data) if len(data) == _PAIR.size else (-1, -1)
        if not (0 <= parent < len(self._parents) and 0 <= number < len(self._parents[parent])):
            raise ShardError(f"{self._folder}: is damaged: link {i} leads to no record of its parents")
        return parent, number


def parents_of(path: Path, index: dict[str, Any]) -> tuple[Path, ...]:
    """Return the folders that hold the images of linked shards; none for others.

    Raises:
        ShardError: one is not there, or has changed.
    """
    for row in index.get("parents", ()):
        try:
            current = _fingerprint(Path(row["path"]))
        except ShardError:
            raise ShardError(
                f"{path}: its images are in {row['path']}, where no shards are now; move them back, or make these anew "
                f"(`dataforge log {path}` tells how)"
            ) from None
        if current != row["fingerprint"]:
            raise ShardError(
                f"{path}: its images are in {row['path']}, which has changed (fingerprint {current}, expected "
                f"{row['fingerprint']}); make these shards anew (`dataforge log {path}` tells how)"
            )
    return tuple(Path(row["path"]) for row in index.get("parents", ()))


def _fingerprint(folder: Path) -> str:
    with reading(folder / INDEX, ShardError):
        return fingerprint(folder)
