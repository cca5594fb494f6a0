"""Blobs in one LMDB file, keyed by the record's number as 8 big-endian bytes."""

from __future__ import annotations

import os
import struct
import threading
from pathlib import Path

import lmdb

from dataforge.errors import ShardError

DATA_VERSION = 0  # py-lmdb's `lib_version`: LMDB 0.9's file format, readable by every LMDB
_COMMIT_BYTES = 32 << 20
_open: dict[tuple[int, int, int], lmdb.Environment] = {}  # (process, device, inode): LMDB forbids opening a file twice
_open_lock = threading.Lock()


def _key(i: int) -> bytes:
    return struct.pack(">Q", i)


class LmdbStore:
    """A `BlobStore` over LMDB. Readers may be shared by threads; a forked or spawned process opens its own.
    It is pickled as its path.

    An opened file stays mapped until the process ends, so that a returned `memoryview` never dangles.
    """

    def __init__(self, path: Path, writer: lmdb.Environment | None) -> None:
        self._path = path / "blobs.mdb"
        self._writer = writer
        self._pending: list[bytes | memoryview] = []
        self._pending_bytes = 0
        self._written = 0
        self._local = threading.local()

    def __reduce__(self) -> tuple[object, tuple[Path]]:
        return LmdbStore.open, (self._path.parent,)

    @classmethod
    def create(cls, path: Path) -> LmdbStore:
        try:
            env = lmdb.open(
                str(path / "blobs.mdb"),
                subdir=False,
                map_size=1 << 30,
                sync=False,
                lock=False,
                lib_version=DATA_VERSION,
            )
        except (lmdb.Error, OSError) as error:
            raise ShardError(f"{path}: cannot be written: {error}") from None
        return cls(path, env)

    @classmethod
    def open(cls, path: Path) -> LmdbStore:
        return cls(path, None)

    def append(self, blob: bytes | memoryview) -> None:
        self._pending.append(blob)
        self._pending_bytes += len(blob)
        if self._pending_bytes >= _COMMIT_BYTES:
            self._flush()

    def _flush(self) -> None:
        assert self._writer is not None, "append on a store opened for reading"
        while self._pending:
            try:
                with self._writer.begin(write=True) as txn:
                    for i, blob in enumerate(self._pending, self._written):
                        txn.put(_key(i), blob, append=True)
            except lmdb.MapFullError:
                self._writer.set_mapsize(self._writer.info()["map_size"] * 2)
                continue
            except (lmdb.Error, OSError) as error:
                raise ShardError(f"{self._path}: cannot be written: {error}") from None
            self._written += len(self._pending)
            self._pending, self._pending_bytes = [], 0

    def __getitem__(self, i: int) -> memoryview:
        blob = self._get(i)
        if blob is None:
            raise ShardError(f"{self._path}: holds no blob {i}")
        return blob

    def _get(self, i: int) -> memoryview | None:
        try:
            if getattr(self._local, "pid", None) != os.getpid():
                self._local.txn = self._environment().begin(buffers=True)
                self._local.pid = os.getpid()
            blob: memoryview | None = self._local.txn.get(_key(i))
        except (lmdb.Error, OSError) as error:
            raise ShardError(f"{self._path}: cannot be read: {error}") from None
        return blob

    def __len__(self) -> int:
        if self._writer is not None:
            return self._written + len(self._pending)
        try:
            return int(self._environment().stat()["entries"])
        except (lmdb.Error, OSError) as error:
            raise ShardError(f"{self._path}: cannot be read: {error}") from None

    def _environment(self) -> lmdb.Environment:
        stat = os.stat(self._path)
        place = (os.getpid(), stat.st_dev, stat.st_ino)
        with _open_lock:
            for inherited in [other for other in _open if other[0] != place[0]]:
                _open.pop(inherited).close()  # after a fork: releases only the entry, the parent's file stays open
            if place not in _open:
                # readahead off: access is random, and readahead would fetch unneeded neighbours
                env = lmdb.open(
                    str(self._path), subdir=False, readonly=True, lock=False, readahead=False, max_readers=1
                )
                whole = (env.info()["last_pgno"] + 1) * env.stat()["psize"]
                if stat.st_size < whole:  # reading past the end would kill the process with a bus error
                    env.close()
                    raise ShardError(f"{self._path}: is cut short, {stat.st_size} of {whole} bytes")
                _open[place] = env
            return _open[place]

    def close(self) -> None:
        if self._writer is None:
            return
        try:
            self._flush()
            self._writer.sync(True)
        except (lmdb.Error, OSError) as error:
            raise ShardError(f"{self._path}: cannot be written: {error}") from None
        finally:
            self._writer.close()
            self._writer = None

    def abort(self) -> None:
        if self._writer is not None:
            self._pending = []
            self._writer.close()
            self._writer = None
