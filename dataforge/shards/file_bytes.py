"""The bytes of a file that is read in pieces, on a disk or at a URL."""

from __future__ import annotations

import mmap
import os
import stat
import weakref
from collections.abc import Iterable
from pathlib import Path

from dataforge.cloud.chunks import RemoteFile
from dataforge.cloud.path import RemotePath
from dataforge.errors import ShardError
from dataforge.files import reading

KEPT = 256  # files that stay open; others are opened at each read, for sets of more shards than a process has handles
_kept: weakref.WeakSet[FileBytes] = weakref.WeakSet()
_ADVISES = hasattr(os, "posix_fadvise")  # not on macOS and Windows
_READS_AT = hasattr(os, "pread")  # not on Windows, which on the other hand lets no one cut or remove a mapped file


class FileBytes:
    """A file, of the size that it has when it is opened. Threads and forked processes may share it.

    Args:
        mapped: map the file, so that pieces are views of it. A file that was cut since is then an error, too, but one
            that is cut during a read, or on a failing disk, ends the process by a bus error.

    Raises:
        ShardError: the file cannot be read, or is none.
    """

    def __init__(self, path: Path, mapped: bool = False) -> None:
        self.path = path
        self.remote: RemoteFile | None = None
        self._map: mmap.mmap | None = None
        if isinstance(path, RemotePath):
            with reading(path, ShardError):
                self.remote = RemoteFile(path)
            self.size = self.remote.size
            return
        with reading(path, ShardError):
            if not stat.S_ISREG(os.stat(path).st_mode):  # opening a named pipe would wait
                raise ShardError(f"{path}: is not a file")
            self._handle: int | None = os.open(path, os.O_RDONLY)
            close = weakref.finalize(self, os.close, self._handle)
            facts = os.fstat(self._handle)
            self.size, self._same = facts.st_size, (facts.st_dev, facts.st_ino, facts.st_size)
            if self.size > 0 and (mapped or not _READS_AT):
                self._map = mmap.mmap(self._handle, self.size, access=mmap.ACCESS_READ)
                close()
            elif len(_kept) < KEPT:
                _kept.add(self)
            else:
                close()
                self._handle = None

    def prefetch(self, pieces: Iterable[tuple[int, int]]) -> None:
        """Start to read (start, length) pieces that are in the file, so that `read` need not wait for them.

        Pieces at a URL are fetched, those that come first at the front; on a disk the system reads them into its cache,
        in the order of the file. This has no effect on mapped files, and where the system cannot.
        """
        if self.remote is not None:
            self.remote.prefetch(pieces)
        elif _ADVISES and self._map is None and self._handle is not None:
            for start, length in sorted(pieces):
                os.posix_fadvise(self._handle, start, length, os.POSIX_FADV_WILLNEED)

    def read(self, start: int = 0, length: int | None = None) -> memoryview:
        """Return `length` bytes from `start`, or all from there.

        Raises:
            ShardError: they are not in the file, or cannot be read.
        """
        length = self.size - start if length is None else length
        if not 0 <= start <= start + length <= self.size:
            raise ShardError(f"{self.path}: is damaged: it refers to byte {start + length} of {self.size}")
        with reading(self.path, ShardError):
            if self.remote is not None:
                return self.remote.read(start, length)
            if self._map is not None:
                whole, data = self._map.size() >= start + length, memoryview(self._map)[start : start + length]
            elif self._handle is not None:
                whole, data = _read(self._handle, start, length)
            else:
                with open(self.path, "rb", buffering=0) as file:
                    facts = os.fstat(file.fileno())
                    if (facts.st_dev, facts.st_ino, facts.st_size) != self._same:
                        raise ShardError(f"{self.path}: was replaced or changed while it was read")
                    whole, data = _read(file.fileno(), start, length)
        if not whole:
            raise ShardError(f"{self.path}: was cut short while it was read, before byte {start + length}")
        return data


def _read(handle: int, start: int, length: int) -> tuple[bool, memoryview]:
    """Return whether there are that many bytes, and the bytes."""
    piece = os.pread(handle, length, start)
    while len(piece) < length and (more := os.pread(handle, length - len(piece), start + len(piece))):
        piece += more
    return len(piece) == length, memoryview(piece)
