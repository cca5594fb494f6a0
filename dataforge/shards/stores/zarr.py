"""Blobs in a Zarr v3 group: their concatenated bytes in a sharded array, and their end offsets in another.

For use with other Zarr tools. A blob is read through Zarr's chunks and copied; `lmdb` and `memmap` are faster.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.codecs import Crc32cCodec
from zarr.storage import LocalStore

from dataforge.cloud.path import RemotePath
from dataforge.errors import ShardError
from dataforge.files import flush
from dataforge.threads import lock

CHUNK, SHARD = 1 << 17, 1 << 25  # bytes per read, and bytes per file
_CODECS = {"sharding_indexed", "bytes", "crc32c"}
_FAILURES = (OSError, ValueError, KeyError, TypeError)  # raised by Zarr where it cannot write


class ZarrStore:
    """A `BlobStore` over Zarr. Threads share a reader; a forked process opens its own; it is pickled as its path.

    Every chunk has a CRC-32C, so reading damaged bytes raises an error.
    """

    def __init__(self, path: Path, writer: Any = None) -> None:
        self._path = path / "blobs.zarr"
        self._writer = writer
        self._pending = bytearray()
        self._ends: list[int] = []
        self._lock = lock()
        self._opened: tuple[int, Any, NDArray[np.uint64]] | None = None  # process, bytes, ends

    def __reduce__(self) -> tuple[type[ZarrStore], tuple[Path]]:
        return ZarrStore, (self._path.parent,)

    @classmethod
    def create(cls, path: Path) -> ZarrStore:
        if not path.is_dir():
            raise ShardError(f"{path}: cannot be written: no such folder")
        try:
            group = zarr.create_group(str(path / "blobs.zarr"), zarr_format=3)
            return cls(path, _array(group, "bytes", np.uint8, 0, CHUNK, SHARD))
        except _FAILURES as error:
            raise ShardError(f"{path}: cannot be written: {error}") from None

    @classmethod
    def open(cls, path: Path, trust: bool = True) -> ZarrStore:
        return cls(path)

    def append(self, blob: bytes | memoryview) -> None:
        assert self._writer is not None, "append on a store opened for reading"
        self._pending += blob
        self._ends.append((self._ends[-1] if self._ends else 0) + len(blob))
        whole = len(self._pending) // SHARD * SHARD
        if whole:
            self._flush(whole)

    def _flush(self, count: int) -> None:
        start = self._writer.shape[0]
        try:
            self._writer.resize((start + count,))
            self._writer[start:] = np.frombuffer(self._pending[:count], np.uint8)
        except _FAILURES as error:
            raise ShardError(f"{self._path}: cannot be written: {error}") from None
        del self._pending[:count]

    def __getitem__(self, i: int) -> memoryview:
        data, ends = self._open()
        if not 0 <= i < len(ends):
            raise ShardError(f"{self._path}: holds no blob {i}")
        start, end = int(ends[i - 1]) if i else 0, int(ends[i])
        try:
            blob = np.ascontiguousarray(data[start:end]).data
            files = range(start // data.shards[0], -(-end // data.shards[0]))
            for n in () if isinstance(self._path, RemotePath) else files:  # there, each would be a request
                os.stat(self._path / f"bytes/c/{n}")  # Zarr reads zeros from a file that is missing
            return blob
        except Exception as error:
            raise ShardError(f"{self._path}: blob {i} cannot be read: {error}") from None

    def __len__(self) -> int:
        return len(self._ends) if self._writer is not None else len(self._open()[1])

    def _open(self) -> tuple[Any, NDArray[np.uint64]]:
        with self._lock:
            if self._opened is None or self._opened[0] != os.getpid():
                try:
                    stores = [LocalStore(self._path / name, read_only=True) for name in self._check()]
                    arrays = [zarr.open_array(files, mode="r", zarr_format=3) for files in stores]  # also at a URL
                    data, ends = arrays[0], np.asarray(arrays[1][:], np.uint64)
                    if (int(ends[-1]) if len(ends) else 0) != data.shape[0] or (ends[1:] < ends[:-1]).any():
                        raise ValueError("is damaged: lengths do not add up")
                except Exception as error:  # Zarr raises errors of many kinds for damaged files
                    raise ShardError(f"{self._path}: cannot be read: {error}") from None
                self._opened = os.getpid(), data, ends
            return self._opened[1], self._opened[2]

    def _check(self) -> tuple[str, str]:
        """Check what the metadata states, before Zarr believes it, and that no file is missing: it would read zeros.

        Returns:
            The names of the arrays.
        """
        for name, kind, codecs in (("bytes", "uint8", _CODECS), ("ends", "uint64", _CODECS - {"sharding_indexed"})):
            facts = json.loads((self._path / name / "zarr.json").read_bytes())
            (length,), (chunk,) = facts["shape"], facts["chunk_grid"]["configuration"]["chunk_shape"]
            other = _names(facts["codecs"]) - codecs or facts.get("storage_transformers")
            if other or facts["data_type"] != kind or length < 0 or chunk < 1:
                raise ValueError(f"is damaged: {name} has type {facts['data_type']}, codecs {other or codecs}")
            files = {file.name: file.stat().st_size for file in (self._path / name / "c").glob("*")}
            count = -(-length // chunk)
            missing = next((n for n in range(min(count, len(files) + 1)) if str(n) not in files), None)
            if missing is not None:
                raise ValueError(f"{name}/c/{missing} is missing")
            if name == "ends" and (count > 1 or sum(files.values()) != (8 * length + 4 if length else 0)):
                raise ValueError("is damaged: the size of ends/c/0 is not that of its numbers")
            if name == "bytes" and chunk > SHARD:
                raise ValueError(f"is damaged: {chunk} bytes in a file; expected at most {SHARD}")
        return "bytes", "ends"

    def close(self) -> None:
        if self._writer is None:
            return
        try:
            if self._pending:
                self._flush(len(self._pending))
            count = len(self._ends)
            group = zarr.open_group(str(self._path), mode="r+", zarr_format=3)
            _array(group, "ends", np.uint64, count, max(count, 1), None)[:] = np.array(self._ends, np.uint64)
            for file in self._path.rglob("*"):
                flush(file)
        except _FAILURES as error:
            raise ShardError(f"{self._path}: cannot be written: {error}") from None
        finally:
            self.abort()

    def abort(self) -> None:
        self._writer, self._pending = None, bytearray()


def _array(group: Any, name: str, kind: Any, length: int, chunk: int, shard: int | None) -> Any:
    return group.create_array(
        name,
        shape=(length,),
        dtype=kind,
        chunks=(chunk,),
        shards=None if shard is None else (shard,),
        compressors=[Crc32cCodec()],
        filters=None,
        fill_value=0,
        config={"write_empty_chunks": True},
    )


def _names(codecs: list[dict[str, Any]]) -> set[str]:
    """Return the names of codecs, and of those within them."""
    names = {codec["name"] for codec in codecs}
    for codec in codecs:
        settings = codec.get("configuration", {})
        names |= _names(settings.get("codecs", [])) | _names(settings.get("index_codecs", []))
    return names
