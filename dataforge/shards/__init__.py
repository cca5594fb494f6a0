"""Shards on disk: the index, its version, and the stores. `README.md` beside this file is the specification."""

from __future__ import annotations

import importlib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from dataforge.errors import ShardError, unknown

FORMAT_VERSION = 1
INDEX = "index.json"
REPORT = "ingest.jsonl"
JOURNAL = "resume.jsonl"
CODECS = ("keep", "jpeg", "raw")  # the source's bytes; encoded again; pixels


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
        """Add the next blob."""

    def __getitem__(self, i: int) -> memoryview:
        """The i-th blob, without a copy where that can be."""

    def __len__(self) -> int: ...

    def close(self) -> None:
        """Finish writing: everything is on the disk when this returns. Nothing is done to a store that is read."""

    def abort(self) -> None:
        """Let go of what is being written, whatever state it is in. Nothing is finished, and nothing raised."""


BLOBS = {
    "lmdb": "dataforge.shards.lmdb:LmdbStore",
    "memmap": "dataforge.shards.memmap:MemmapStore",
    "rows": "dataforge.shards.rows:RowsStore",  # for pixels of few shapes
    "zarr": "dataforge.shards.zarr:ZarrStore",
}


def store(name: str) -> type[BlobStore]:
    """The class of a store.

    Raises:
        ConfigError: the store is not known.
    """
    if name not in BLOBS:
        raise unknown("store", name, BLOBS)
    module, _, attribute = BLOBS[name].partition(":")
    found: type[BlobStore] = getattr(importlib.import_module(module), attribute)
    return found


def read_index(path: Path) -> dict[str, Any]:
    """`index.json` of a shard folder, its version checked first.

    Raises:
        ShardError: no such folder, nothing published in it, not JSON, or written by a newer dataforge.
    """
    file = path / INDEX
    if not file.is_file():
        what = "holds no index.json (an ingest that did not finish?)" if path.is_dir() else "does not exist"
        raise ShardError(f"{path}: {what}; expected a folder made by `dataforge ingest`")
    try:
        index = json.loads(file.read_text("utf-8"))
    except ValueError as error:
        raise ShardError(f"{file}: not JSON: {error}") from None
    version = index.get("format_version") if isinstance(index, dict) else None
    if version != FORMAT_VERSION:
        raise ShardError(f"{file}: format_version is {version!r}; this dataforge reads {FORMAT_VERSION}")
    lacking = {"classes", "class_ids", "store", "codec", "splits", "unions"} - index.keys()
    if lacking:
        raise ShardError(f"{file}: lacks {', '.join(sorted(lacking))}")
    if index["codec"] not in CODECS:
        raise ShardError(f"{file}: codec is {index['codec']!r}; this dataforge reads {', '.join(CODECS)}")
    return dict(index)


def write_index(path: Path, index: dict[str, Any]) -> None:
    """Publish a shard folder: `index.json` appears whole or not at all."""
    temporary = path / (INDEX + ".tmp")
    with open(temporary, "w", encoding="utf-8") as file:
        json.dump(index, file, indent=1, ensure_ascii=False)
        file.write("\n")
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path / INDEX)


def resolve_split(name: str, splits: Sequence[str]) -> str:
    """A split by its name, or by the one split whose name starts so ("train" finds COCO's "train2017").

    Raises:
        ConfigError: no split fits, or more than one does.
    """
    if name in splits:
        return name
    fitting = [split for split in splits if split.startswith(name)]
    if len(fitting) != 1:
        raise unknown("split", name, splits)
    return fitting[0]
