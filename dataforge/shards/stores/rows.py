"""Blobs of few lengths, such as pixels of few shapes: one dense array a length, so that a batch is one gather."""

from __future__ import annotations

import contextlib
import mmap
import os
import threading
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from dataforge.errors import ShardError


class RowsStore:
    """A `BlobStore` with a file for each length that blobs have: the k-th blob of a length is row k of its file.

    Threads share a reader, and so do processes after a fork; it pickles as its path. A file stays mapped for as long as
    something that was given out lives.
    """

    def __init__(self, path: Path, writers: dict[int, BinaryIO] | None = None) -> None:
        self._path = path
        self._writers = writers
        self._written: list[int] = []
        self._lock = threading.Lock()
        self._listed: tuple[NDArray[np.int64], NDArray[np.int64]] | None = None
        self._arrays: dict[int, NDArray[np.uint8]] = {}

    def __reduce__(self) -> tuple[type[RowsStore], tuple[Path]]:
        return RowsStore, (self._path,)

    @classmethod
    def create(cls, path: Path) -> RowsStore:
        if not path.is_dir():
            raise ShardError(f"{path}: cannot be written: no such folder")
        return cls(path, {})

    @classmethod
    def open(cls, path: Path) -> RowsStore:
        return cls(path)

    def append(self, blob: bytes | memoryview) -> None:
        assert self._writers is not None, "append on a store opened for reading"
        length = len(blob)
        try:
            if length not in self._writers:
                self._writers[length] = open(self._file(length), "wb")  # noqa: SIM115
            self._writers[length].write(blob)
        except OSError as error:
            raise ShardError(f"{self._file(length)}: cannot be written: {error.strerror}") from None
        self._written.append(length)

    def __getitem__(self, i: int) -> memoryview:
        lengths, rows = self._list()
        if not 0 <= i < len(lengths):
            raise ShardError(f"{self._path}: holds no blob {i}")
        return self._array(int(lengths[i]))[rows[i]].data

    def __len__(self) -> int:
        return len(self._written) if self._writers is not None else len(self._list()[0])

    def gather(self, index: NDArray[np.int64], out: NDArray[np.uint8]) -> None:
        """Copy blobs of one length.

        Args:
            index: (n,) numbers of blobs.
            out: (n, ...), C-contiguous; each row takes a blob.

        Raises:
            ShardError: a file is missing or damaged.
        """
        if len(index):
            lengths, rows = self._list()
            flat = out.reshape(len(index), -1)
            assert (lengths[index] == flat.shape[1]).all(), "blobs of another length"
            assert np.shares_memory(flat, out), "out is not contiguous"
            np.take(self._array(flat.shape[1]), rows[index], axis=0, out=flat, mode="clip")  # "raise" would copy twice

    def _file(self, length: int) -> Path:
        return self._path / f"{length}.rows"

    def _list(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The length of each blob, and its row in that length's file."""
        if self._listed is None:
            file = self._path / "lengths.npy"
            try:
                lengths = np.load(file, allow_pickle=False)
            except (OSError, ValueError, EOFError) as error:
                raise ShardError(f"{file}: cannot be read: {error}") from None
            if lengths.dtype != np.int64 or lengths.ndim != 1:
                raise ShardError(
                    f"{file}: is {lengths.dtype} of shape {lengths.shape}; expected int64 of one dimension"
                )
            order = np.argsort(lengths, kind="stable")
            new = np.flatnonzero(np.diff(lengths[order], prepend=-1))  # where a length begins
            rows = np.empty_like(lengths)
            rows[order] = np.arange(len(lengths)) - np.repeat(new, np.diff([*new, len(lengths)]))
            self._listed = lengths, rows
        return self._listed

    def _array(self, length: int) -> NDArray[np.uint8]:
        """(rows, length): the mapped file."""
        with self._lock:
            if length not in self._arrays:
                count = int((self._list()[0] == length).sum())
                if length == 0:
                    return np.empty((count, 0), np.uint8)
                path = self._file(length)
                try:
                    with open(path, "rb") as file:
                        size = os.fstat(file.fileno()).st_size
                        if size != count * length:  # reading on would end the process with a bus error
                            raise ShardError(f"{path}: is cut short, or another one: {size} of {count * length} bytes")
                        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
                except OSError as error:
                    raise ShardError(f"{path}: cannot be read: {error.strerror}") from None
                self._arrays[length] = np.frombuffer(mapped, np.uint8).reshape(count, length)
            return self._arrays[length]

    def close(self) -> None:
        if self._writers is None:
            return
        try:
            for writer in self._writers.values():
                writer.flush()
                os.fsync(writer.fileno())
            with open(self._path / "lengths.npy", "wb") as file:
                np.save(file, np.array(self._written, np.int64))
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise ShardError(f"{self._path}: cannot be written: {error.strerror}") from None
        finally:
            self.abort()

    def abort(self) -> None:
        """Let go of the files, which stay without their list."""
        for writer in (self._writers or {}).values():
            with contextlib.suppress(OSError):  # what is left in its buffer may not fit on the disk
                writer.close()
        self._writers = None
