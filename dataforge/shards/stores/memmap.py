"""Blobs stored consecutively in one file."""

from __future__ import annotations

import contextlib
import os
import struct
import zlib
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from dataforge.errors import ShardError
from dataforge.files import writing
from dataforge.shards.file_bytes import FileBytes
from dataforge.threads import lock

MAGIC = b"dataforge blobs\n"
_END = struct.Struct("<QQ16s")  # number of blobs, CRC-32 of their ends, MAGIC


class MemmapStore:
    """A `BlobStore` in one flat file: the blobs, their end offsets, and an end marker that only a finished file has.

    Threads share a reader, and so do processes after a fork; it is pickled as its path.
    """

    def __init__(self, path: Path, writer: BinaryIO | None = None) -> None:
        self._path = path / "blobs.bin"
        self._writer = writer
        self._ends: list[int] = []
        self._lock = lock()
        self._opened: tuple[FileBytes, NDArray[np.uint64]] | None = None

    def __reduce__(self) -> tuple[type[MemmapStore], tuple[Path]]:
        return MemmapStore, (self._path.parent,)

    @classmethod
    def create(cls, path: Path) -> MemmapStore:
        with writing(path, ShardError):
            return cls(path, open(path / "blobs.bin", "wb"))

    @classmethod
    def open(cls, path: Path, trust: bool = True) -> MemmapStore:
        return cls(path)

    def append(self, blob: bytes | memoryview) -> None:
        assert self._writer is not None, "append on a store opened for reading"
        with writing(self._path, ShardError):
            self._writer.write(blob)
        self._ends.append((self._ends[-1] if self._ends else 0) + len(blob))

    def __getitem__(self, i: int) -> memoryview:
        file, start, length = self.extent(i)
        return file.read(start, length)

    def extent(self, i: int) -> tuple[FileBytes, int, int]:
        file, ends = self._open()
        if not 0 <= i < len(ends):
            raise ShardError(f"{self._path}: holds no blob {i}")
        start = int(ends[i - 1]) if i else 0
        return file, start, int(ends[i]) - start

    def __len__(self) -> int:
        return len(self._ends) if self._writer is not None else len(self._open()[1])

    def _open(self) -> tuple[FileBytes, NDArray[np.uint64]]:
        if (opened := self._opened) is not None:
            return opened
        with self._lock:
            if self._opened is None:
                file = FileBytes(self._path)
                self._opened = file, self._checked(file)
            return self._opened

    def _checked(self, file: FileBytes) -> NDArray[np.uint64]:
        """Return the checked end of each blob."""
        rest = file.size - _END.size
        count, crc, magic = _END.unpack(file.read(rest)) if rest >= 0 else (0, 0, b"")
        if magic != MAGIC or count > rest // 8:
            raise ShardError(f"{self._path}: is cut short, or no store of blobs: its end mark is missing")
        listed = file.read(rest - 8 * count, 8 * count)
        ends = np.frombuffer(listed, "<u8")
        if zlib.crc32(listed) != crc or (int(ends[-1]) if count else 0) != rest - 8 * count:
            raise ShardError(f"{self._path}: is damaged: its list of blobs is not the one that was written")
        return ends

    def close(self) -> None:
        if self._writer is None:
            return
        ends = np.array(self._ends, "<u8").tobytes()
        try:
            with writing(self._path, ShardError):
                self._writer.write(ends + _END.pack(len(self._ends), zlib.crc32(ends), MAGIC))
                self._writer.flush()
                os.fsync(self._writer.fileno())
        finally:
            self.abort()

    def abort(self) -> None:
        """Close the file without writing its end marker."""
        if self._writer is not None:
            writer, self._writer = self._writer, None
            with contextlib.suppress(OSError):  # the rest of its buffer may not fit on the disk
                writer.close()
