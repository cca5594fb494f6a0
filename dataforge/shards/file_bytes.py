"""The bytes of a file that is read in pieces: mapped, or read one piece at a time where the file is not trusted or at a
URL."""

from __future__ import annotations

import mmap
import os
import stat
from pathlib import Path

from dataforge.cloud.chunks import RemoteFile
from dataforge.cloud.path import RemotePath
from dataforge.errors import ShardError
from dataforge.files import reading


class FileBytes:
    """A file whose size is taken when it is opened. Threads and forked processes may share it.

    Args:
        trust: map the file, so that pieces are views of it; but a process that reads a mapped file after it was cut, or
            from a failing disk, is killed by a bus error. False reads each piece, which is then a ShardError.

    Raises:
        ShardError: the file cannot be read, or is none.
    """

    def __init__(self, path: Path, trust: bool = True) -> None:
        self.path = path
        self.remote: RemoteFile | None = None
        self._mapped: memoryview | None = None
        if isinstance(path, RemotePath):
            with reading(path, ShardError):
                self.remote = RemoteFile(path)
            self.size = self.remote.size
            return
        with reading(path, ShardError):
            if not stat.S_ISREG(os.stat(path).st_mode):  # opening a named pipe would wait
                raise ShardError(f"{path}: is not a file")
            with open(path, "rb") as file:
                self.size = os.fstat(file.fileno()).st_size
                mapped = trust and self.size > 0
                if mapped:
                    self._mapped = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
        if self._mapped is not None:
            self.size = len(self._mapped)

    def read(self, start: int = 0, length: int | None = None) -> memoryview:
        """Return `length` bytes from `start`, or all from there.

        Raises:
            ShardError: they are not in the file, or cannot be read.
        """
        length = self.size - start if length is None else length
        if not 0 <= start <= start + length <= self.size:
            raise ShardError(f"{self.path}: is damaged: it refers to byte {start + length} of {self.size}")
        if self._mapped is not None:
            return self._mapped[start : start + length]
        if self.remote is not None:
            with reading(self.path, ShardError):
                return self.remote.read(start, length)
        with reading(self.path, ShardError), open(self.path, "rb", buffering=0) as file:
            file.seek(start)
            data = file.read(length)
            while len(data) < length and (more := file.read(length - len(data))):
                data += more
        if len(data) < length:
            raise ShardError(f"{self.path}: is cut short: it ends within bytes {start} to {start + length}")
        return memoryview(data)
