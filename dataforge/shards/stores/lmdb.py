"""Blobs in one LMDB file, keyed by the record's number as 8 big-endian bytes.

liblmdb writes the file. It is read here, because liblmdb trusts every number in it: a damaged file ends the process, or
is walked forever. The layout is that of LMDB 0.9 (`MDB_page` and `MDB_node` in its mdb.c), on a 64-bit little-endian
machine: pages of a B+ tree, whose leaves hold small blobs and the page numbers of large ones.
"""

from __future__ import annotations

import struct
from bisect import bisect_right
from dataclasses import dataclass
from pathlib import Path

import lmdb
import numpy as np

from dataforge.errors import ShardError
from dataforge.files import room
from dataforge.shards.file_bytes import FileBytes
from dataforge.threads import lock

DATA_VERSION = 0  # py-lmdb's `lib_version`: LMDB 0.9's file format, readable by every LMDB
_COMMIT_BYTES = 32 << 20
_MAGIC = 0xBEEFC0DE
_HEADER = 16  # bytes of a page's header
_BRANCH, _LEAF, _OVERFLOW, _LARGE = 1, 2, 4, 1  # flags of pages, and of a node whose blob has its own pages
_DATABASE = "IHHQQQQQ"  # page size or 0, flags, depth, branch, leaf and overflow pages, entries, root
_META = struct.Struct(f"<IIQQ{2 * _DATABASE}QQ")  # magic, version, address, size, databases, last page, transaction
_PAGE = struct.Struct("<QHHHH")  # number, padding, flags, end of the pointers to nodes, start of the nodes
_NODE = struct.Struct("<IHH")  # size of the blob, flags, size of the key
_MOST_DEPTH = 32


class LmdbStore:
    """A `BlobStore` over LMDB. Threads share a reader, and so do processes after a fork; it is pickled as its path."""

    def __init__(self, path: Path, writer: lmdb.Environment | None = None) -> None:
        self._path = path / "blobs.mdb"
        self._writer = writer
        self._pending: list[bytes | memoryview] = []
        self._pending_bytes = 0
        self._written = 0
        self._lock = lock()
        self._tree: _Tree | None = None

    def __reduce__(self) -> tuple[type[LmdbStore], tuple[Path]]:
        return LmdbStore, (self._path.parent,)

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
    def open(cls, path: Path, trust: bool = True) -> LmdbStore:
        return cls(path)

    def append(self, blob: bytes | memoryview) -> None:
        self._pending.append(blob)
        self._pending_bytes += len(blob)
        if self._pending_bytes >= _COMMIT_BYTES:
            self._flush()

    def _unwritable(self, error: Exception) -> ShardError:
        """Return the error with the free space: LMDB calls a write to a full disk an input/output error."""
        return ShardError(f"{self._path}: cannot be written: {error}; {room(self._path.parent)}")

    def _flush(self) -> None:
        assert self._writer is not None, "append on a store opened for reading"
        while self._pending:
            try:
                with self._writer.begin(write=True) as txn:
                    for i, blob in enumerate(self._pending, self._written):
                        txn.put(struct.pack(">Q", i), blob, append=True)
            except lmdb.MapFullError:
                self._writer.set_mapsize(self._writer.info()["map_size"] * 2)
                continue
            except (lmdb.Error, OSError) as error:
                raise self._unwritable(error) from None
            self._written += len(self._pending)
            self._pending, self._pending_bytes = [], 0

    def __getitem__(self, i: int) -> memoryview:
        file, start, length = self.extent(i)
        return file.read(start, length)

    def extent(self, i: int) -> tuple[FileBytes, int, int]:
        tree = self._open()
        return tree.file, *tree.find(i)

    def __len__(self) -> int:
        return self._written + len(self._pending) if self._writer is not None else self._open().entries

    def _open(self) -> _Tree:
        if (tree := self._tree) is not None:
            return tree
        with self._lock:
            if self._tree is None:
                self._tree = _open_tree(FileBytes(self._path))
            return self._tree

    def close(self) -> None:
        if self._writer is None:
            return
        try:
            self._flush()
            self._writer.sync(True)
        except (lmdb.Error, OSError) as error:
            raise self._unwritable(error) from None
        finally:
            self._writer.close()
            self._writer = None

    def abort(self) -> None:
        if self._writer is not None:
            self._pending = []
            self._writer.close()
            self._writer = None


@dataclass(frozen=True)
class _Tree:
    """The leaves of an LMDB file whose keys are 0, 1, 2, ...

    Attributes:
        first: the first key of each leaf, ascending; leaves: their page numbers.
    """

    file: FileBytes
    page_size: int
    entries: int
    first: list[int]
    leaves: list[int]

    def find(self, i: int) -> tuple[int, int]:
        """Return where blob i starts, and its length."""
        if not 0 <= i < self.entries:
            raise ShardError(f"{self.file.path}: holds no blob {i}")
        leaf = bisect_right(self.first, i) - 1
        page, end = _page(self.file, self.leaves[leaf], self.page_size, _LEAF)
        pointer = _HEADER + 2 * (i - self.first[leaf])
        node = page[pointer] | page[pointer + 1] << 8 if pointer + 2 <= end else self.page_size
        if node + _NODE.size + 8 > self.page_size or page[node + 8 : node + 16] != struct.pack(">Q", i):
            raise ShardError(f"{self.file.path}: is damaged: blob {i} is not on page {self.leaves[leaf]}")
        size, flags, _ = _NODE.unpack_from(page, node)
        start = node + _NODE.size + 8
        if flags == _LARGE and start + 8 <= self.page_size:
            return int.from_bytes(page[start : start + 8], "little") * self.page_size + _HEADER, size
        if flags or start + size > self.page_size:
            raise ShardError(f"{self.file.path}: is damaged: blob {i} of {size} bytes does not fit its page")
        return self.leaves[leaf] * self.page_size + start, size


def _open_tree(file: FileBytes) -> _Tree:
    """Read a file's newest meta page and its branch pages.

    Raises:
        ShardError: it is damaged, or not an LMDB file.
    """
    metas = [_meta(file, 0)]
    page_size = metas[0][4]
    if page_size not in [1 << n for n in range(9, 17)]:
        raise ShardError(f"{file.path}: is damaged: its pages have {page_size} bytes")
    metas.append(_meta(file, page_size))
    meta = max(metas, key=lambda meta: meta[-1])
    depth, entries, root, last = meta[14], meta[18], meta[19], meta[20]
    if file.size < (last + 1) * page_size:
        raise ShardError(f"{file.path}: is cut short, {file.size} of {(last + 1) * page_size} bytes")
    if entries > file.size:
        raise ShardError(f"{file.path}: is damaged: {entries} blobs in {file.size} bytes")
    if entries == 0:
        return _Tree(file, page_size, 0, [], [])
    if not 1 <= depth <= _MOST_DEPTH:
        raise ShardError(f"{file.path}: is damaged: a tree of depth {depth}")
    first, pages = [0], [root]
    for _ in range(depth - 1):
        branches = list(zip(first, pages, strict=True))
        first, pages = [], []
        for key, number in branches:
            keys, numbers = _children(file, number, page_size, key)
            first += keys
            pages += numbers
            if len(pages) > last:
                break
        if len(pages) > last or sorted(set(first)) != first:
            raise ShardError(f"{file.path}: is damaged: its branches are not in order")
    return _Tree(file, page_size, entries, first, pages)


def _meta(file: FileBytes, start: int) -> tuple[int, ...]:
    if file.size < start + _HEADER + _META.size:
        raise ShardError(f"{file.path}: is cut short, {file.size} bytes")
    meta = _META.unpack(file.read(start + _HEADER, _META.size))
    if meta[:2] != (_MAGIC, 1):
        raise ShardError(f"{file.path}: is damaged, or not a file of LMDB 0.9: it begins another way")
    return meta


def _page(file: FileBytes, number: int, page_size: int, kind: int) -> tuple[memoryview, int]:
    """Return a page, and where its pointers to nodes end."""
    page = file.read(number * page_size, page_size)
    _, _, flags, end, _ = _PAGE.unpack_from(page)
    if not flags & kind or not _HEADER <= end <= page_size:
        raise ShardError(f"{file.path}: is damaged: page {number} is not what its place in the tree requires")
    return page, end - end % 2


def _children(file: FileBytes, number: int, page_size: int, key: int) -> tuple[list[int], list[int]]:
    """Return the first key and the page number of each child of a branch page whose own first key is `key`."""
    page, end = _page(file, number, page_size, _BRANCH)
    nodes = np.frombuffer(page[_HEADER:end], "<u2")
    if len(nodes) == 0 or int(nodes.max()) + _NODE.size > page_size:
        raise ShardError(f"{file.path}: is damaged: page {number} refers to bytes outside itself")
    data = np.frombuffer(bytes(page) + bytes(8), np.uint8)
    rows = data[nodes[:, None] + np.arange(_NODE.size + 8)]
    words = rows[:, :6].copy().view("<u2").astype(np.int64)
    keys = rows[1:, _NODE.size :].copy().view(">u8")[:, 0]  # the first node has none
    return [key, *keys.tolist()], (words @ [1, 1 << 16, 1 << 32]).tolist()
