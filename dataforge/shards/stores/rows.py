"""Blobs of few shapes, such as pixels: one dense array per shape, so that a batch is one gather.

The folder is a memory-mapped TensorDict, so `tensordict.TensorDict.load_memmap(folder)` also opens it. NumPy writes and
reads it, because importing tensordict takes seconds.
"""

from __future__ import annotations

import contextlib
import json
import math
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from dataforge.errors import ShardError
from dataforge.files import flush, reading, writing
from dataforge.shards.file_bytes import FileBytes
from dataforge.threads import lock

Shape = tuple[int, ...]
_META = "meta.json"
_KIND = {"_type": "<class 'tensordict._td.TensorDict'>", "_format_version": 1, "_class": "tensordict:TensorDict"}


class RowsStore:
    """A `BlobStore` with one array per blob shape: `append` takes the shape from the memoryview.

    Threads share a reader, and so do processes after a fork; it is pickled as its path. A file stays mapped as long as
    any returned view of it exists.
    """

    def __init__(
        self, path: Path, writers: dict[Shape, tuple[BinaryIO, list[int]]] | None = None, trust: bool = True
    ) -> None:
        self._path = path
        self._trust = trust
        self._writers = writers  # shape -> the file of its pixels, and the numbers of the blobs in it
        self._count = 0
        self._lock = lock()
        self._listed: tuple[list[Shape], NDArray[np.int64], NDArray[np.int64]] | None = None
        self._files: dict[int, FileBytes] = {}

    def __reduce__(self) -> tuple[object, tuple[Path, bool]]:
        return RowsStore.open, (self._path, self._trust)

    @classmethod
    def create(cls, path: Path) -> RowsStore:
        if not path.is_dir():
            raise ShardError(f"{path}: cannot be written: no such folder")
        return cls(path, {})

    @classmethod
    def open(cls, path: Path, trust: bool = True) -> RowsStore:
        return cls(path, None, trust)

    def append(self, blob: bytes | memoryview) -> None:
        assert self._writers is not None, "append on a store opened for reading"
        shape = memoryview(blob).shape or ()
        folder = self._folder(shape)
        with writing(folder, ShardError):
            if shape not in self._writers:
                folder.mkdir()
                self._writers[shape] = open(folder / "pixels.memmap", "wb"), []  # noqa: SIM115
            file, numbers = self._writers[shape]
            file.write(blob)
        numbers.append(self._count)
        self._count += 1

    def __getitem__(self, i: int) -> memoryview:
        where = self.extent(i)
        return where[0].read(*where[1:]) if where else memoryview(b"")

    def extent(self, i: int) -> tuple[FileBytes, int, int] | None:
        shapes, kinds, rows = self._list()
        if not 0 <= i < len(kinds):
            raise ShardError(f"{self._path}: holds no blob {i}")
        kind = int(kinds[i])
        length = math.prod(shapes[kind])
        return (self._file(kind), int(rows[i]) * length, length) if length else None

    def __len__(self) -> int:
        return self._count if self._writers is not None else len(self._list()[1])

    def gather(self, index: NDArray[np.int64], out: NDArray[np.uint8]) -> None:
        """Copy blobs of one shape.

        Args:
            index: (n,) numbers of blobs.
            out: (n, *shape), C-contiguous; each row takes a blob.

        Raises:
            ShardError: a file is missing or damaged.
        """
        if len(index):
            shapes, kinds, rows = self._list()
            kind = int(kinds[index[0]])
            if out.shape[1:] != shapes[kind] or (kinds[index] != kind).any():
                raise ShardError(f"{self._path}: is damaged: not all of its blobs have the shapes in table.arrow")
            flat = out.reshape(len(index), -1)
            assert np.shares_memory(flat, out), "out is not contiguous"
            if self._trust and flat.size and self._file(kind).remote is None:
                stored = np.frombuffer(self._file(kind).read(), np.uint8).reshape(-1, flat.shape[1])
                np.take(stored, rows[index], axis=0, out=flat, mode="clip")  # "raise" would copy twice
            else:
                for row, i in zip(flat, index.tolist(), strict=True):
                    row[:] = np.frombuffer(self[i], np.uint8)

    def _folder(self, shape: Shape) -> Path:
        return self._path / "x".join(map(str, shape))

    def _list(self) -> tuple[list[Shape], NDArray[np.int64], NDArray[np.int64]]:
        """Return the shapes, and per blob the number of its shape and its row in the array of that shape."""
        if self._listed is None:
            if (self._path / "lengths.npy").exists():
                raise ShardError(
                    f"{self._path}: holds raw pixels in an older layout; remove the cache and bake it again"
                )
            shapes, numbers = [], [np.zeros(0, np.int64)]
            for name in _names(self._path / _META):
                count, *shape = _shape(self._path / name / _META)
                if name != self._folder(tuple(shape)).name:
                    raise ShardError(f"{self._path / name / _META}: is damaged: pixels of shape {shape}")
                shapes.append(tuple(shape))
                file = FileBytes(self._path / name / "record.memmap")
                if file.size != 8 * count:
                    raise ShardError(f"{file.path}: is damaged: {file.size // 8} of {count} numbers")
                numbers.append(np.frombuffer(file.read(), "<i8").astype(np.int64))
            order, counts = np.concatenate(numbers), [len(one) for one in numbers[1:]]
            if not np.array_equal(np.sort(order), np.arange(len(order))):
                raise ShardError(
                    f"{self._path}: is damaged: the numbers in record.memmap are not 0 to {len(order) - 1}"
                )
            kinds, rows = np.empty_like(order), np.empty_like(order)
            kinds[order] = np.repeat(np.arange(len(shapes)), counts)
            rows[order] = np.concatenate([np.zeros(0, np.int64), *map(np.arange, counts)])
            self._listed = shapes, kinds, rows
        return self._listed

    def _file(self, kind: int) -> FileBytes:
        """Return the file of a shape whose blobs are not empty."""
        shapes, kinds, _ = self._list()
        with self._lock:
            if kind not in self._files:
                file = FileBytes(self._folder(shapes[kind]) / "pixels.memmap", mapped=self._trust)
                whole = int((kinds == kind).sum()) * math.prod(shapes[kind])
                if file.size != whole:
                    raise ShardError(f"{file.path}: is cut short, or another one: {file.size} of {whole} bytes")
                self._files[kind] = file
            return self._files[kind]

    def close(self) -> None:
        if self._writers is None:
            return
        try:
            with writing(self._path, ShardError):
                for shape, (file, numbers) in self._writers.items():
                    folder = self._folder(shape)
                    file.close()
                    if 0 in shape:
                        (folder / "pixels.memmap").unlink()  # tensordict has no empty files
                    np.array(numbers, "<i8").tofile(folder / "record.memmap")
                    count = [len(numbers)]
                    _write_meta(folder, count, pixels=_entry([*count, *shape], "uint8"), record=_entry(count, "int64"))
                _write_meta(
                    self._path, [], **{self._folder(shape).name: {"type": "TensorDict"} for shape in self._writers}
                )
        finally:
            self.abort()

    def abort(self) -> None:
        """Close the files without writing `meta.json`."""
        for file, _ in (self._writers or {}).values():
            with contextlib.suppress(OSError):  # the rest of its buffer may not fit on the disk
                file.close()
        self._writers = None


def _entry(shape: list[int], dtype: str) -> dict[str, Any]:
    return {"device": "cpu", "shape": shape, "dtype": f"torch.{dtype}", "is_nested": False}


def _write_meta(folder: Path, batch_size: list[int], **entries: dict[str, Any]) -> None:
    """Write the `meta.json` that makes a folder a TensorDict, and flush its contents to disk."""
    (folder / _META).write_text(json.dumps({**entries, "shape": batch_size, "device": "cpu", **_KIND}), "utf-8")
    for path in (*filter(Path.is_file, folder.iterdir()), folder):
        flush(path)


def _read_meta(path: Path) -> dict[str, Any]:
    with reading(path, ShardError):
        data = path.read_bytes()
    try:
        return dict(json.loads(data))
    except (ValueError, TypeError, RecursionError) as error:
        raise ShardError(f"{path}: is damaged: {error}") from None


def _names(path: Path) -> list[str]:
    """Return the folders of a TensorDict, according to its `meta.json`."""
    return [name for name, entry in _read_meta(path).items() if isinstance(entry, dict)]


def _shape(path: Path) -> list[int]:
    """Return (count, *shape) of the pixels in the TensorDict of a shape."""
    try:
        count, *shape = map(int, _read_meta(path)["pixels"]["shape"])
        if min(count, *shape, 0) < 0:
            raise ValueError("a negative number")
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise ShardError(f"{path}: is damaged: no shape of pixels: {error!r}") from None
    return [count, *shape]
