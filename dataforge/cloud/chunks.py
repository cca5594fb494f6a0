"""Files at URLs, read in chunks that are kept in a folder on disk, which any number of processes share.

A chunk is one file there, its bytes and their CRC-32, named by the object's URL, size and ETag: another version of the
object has other chunks. It is written under another name and renamed, so no lock is needed; two processes may fetch the
same chunk. Its time is that of its last use; the chunks used longest ago are removed.
"""

from __future__ import annotations

import contextlib
import functools
import os
import tempfile
import time
import zlib
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from hashlib import blake2b
from pathlib import Path
from typing import Any

from dataforge.cloud.requests import requests
from dataforge.command import echo
from dataforge.errors import ConfigError
from dataforge.threads import lock

CHUNK, SMALL_CHUNK = 1 << 20, 1 << 16  # bytes: of a set that the cache holds whole, and of a larger one
REQUEST = 8 << 20  # the most bytes of one request for adjacent chunks
AHEAD = 16 << 20  # bytes fetched ahead of what is read in order
IN_FLIGHT = 16  # requests at a time, of a process
USED = 60  # seconds after which another use of a chunk is noted
BLOCK = 1 << 16  # bytes read at once to compare a CRC-32; a whole chunk would be fresh memory, which costs more
SOUND = 0x2144DF1C  # the CRC-32 of any bytes that are followed by their CRC-32, little-endian
_larger: set[str] = set()  # sets that the cache cannot hold


class Cache:
    """A folder of chunks.

    Args:
        limit: bytes. Each process may exceed it by a sixteenth, since it looks for what to remove that often.
    """

    def __init__(self, folder: Path, limit: int) -> None:
        self.folder, self.limit = folder, limit
        self._noted: dict[str, float] = {}  # chunks compared or written by this process: when it noted their use
        self._written = limit  # bytes since it last removed chunks

    def has(self, name: str) -> bool:
        return os.access(f"{self.folder}/{name}", os.F_OK)

    def read(self, name: str, start: int, length: int) -> bytes | None:
        """Return bytes of a chunk; None if it is not there, or damaged."""
        try:
            handle = os.open(f"{self.folder}/{name}", os.O_RDONLY)
            try:
                now, noted = time.monotonic(), self._noted.get(name)
                if noted is None and not _is_sound(handle):
                    self.forget(name)
                    return None
                if noted is None or now - noted > USED:
                    self._noted[name] = now
                    with contextlib.suppress(OSError):  # another user's, or on a disk that is only read
                        os.utime(handle)
                data = os.pread(handle, length, start)
                return data if len(data) == length else None
            finally:
                os.close(handle)
        except OSError:
            return None

    def write(self, name: str, data: memoryview) -> None:
        """Keep a chunk. Where that fails, as on a full disk, it is fetched again when it is needed."""
        path = self.folder / name
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            handle, temporary = tempfile.mkstemp(prefix=".", dir=path.parent)
            try:
                with open(handle, "wb") as file:  # which writes all, or raises
                    file.write(data)
                    file.write(zlib.crc32(data).to_bytes(4, "little"))
                os.replace(temporary, path)
                self._noted[name] = time.monotonic()
            except BaseException:
                Path(temporary).unlink(missing_ok=True)
                raise
        except (FileNotFoundError, FileExistsError):  # another process removes the set
            pass
        except OSError as error:
            _tell(self.folder, error.strerror)
        self._written += len(data)
        if self._written > self.limit // 16:
            self._written = 0
            self._evict()

    def forget(self, name: str) -> None:
        self._noted.pop(name, None)
        with contextlib.suppress(OSError):
            (self.folder / name).unlink()
            (self.folder / name).parent.rmdir()  # if it was the last

    def _evict(self) -> None:
        """Remove the chunks used longest ago, until those left take 15/16 of the limit."""
        chunks = []
        for folder in _entries(self.folder):
            for entry in _entries(folder):
                with contextlib.suppress(OSError):  # another process removes it
                    facts = entry.stat()
                    chunks.append((facts.st_mtime, facts.st_size, f"{folder.name}/{entry.name}"))
        over = sum(size for _, size, _ in chunks) - self.limit
        for _, size, name in sorted(chunks) if over > 0 else ():
            if over <= -(self.limit // 16):
                break
            self.forget(name)
            over -= size


@functools.cache  # once
def _tell(folder: Path, reason: str) -> None:
    echo(f"DATAFORGE_CACHE {folder}: cannot be written: {reason}; what is not kept there is fetched again", err=True)


def _entries(folder: str | os.PathLike[str]) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except OSError:  # another process has removed it
        return []


def _is_sound(handle: int) -> bool:
    crc = 0
    while block := os.read(handle, BLOCK):
        crc = zlib.crc32(block, crc)
    return crc == SOUND


def cache() -> Cache:
    """Return the cache in the folder DATAFORGE_CACHE, of at most DATAFORGE_CACHE_GB (20).

    Raises:
        ConfigError: the size is no positive number.
    """
    folder = os.environ.get("DATAFORGE_CACHE") or Path(
        os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "dataforge"
    )
    text = os.environ.get("DATAFORGE_CACHE_GB", "20")
    try:
        limit = int(float(text) * 1e9)
    except (ValueError, OverflowError):
        limit = 0
    if limit < 1:
        raise ConfigError(f"DATAFORGE_CACHE_GB is {text!r}; expected a number above 0")
    return _cache(Path(folder), limit)


_cache = functools.lru_cache(Cache)


def expect(root: Path, size: int) -> None:
    """Choose the chunks of a set of `size` bytes: small ones if the cache cannot hold it whole."""
    (_larger.add if size > cache().limit * 0.9 else _larger.discard)(str(root))


class RemoteFile:
    """A file at a URL, in the version that it had when it was opened. Threads may share it.

    Args:
        path: its `RemotePath`, whose file imports this one.

    Raises:
        OSError, also from `read`: a request failed, or the file has changed.
    """

    def __init__(self, path: Any) -> None:
        self.path, facts = path, path.head()
        self.size: int = facts["size"]
        self._tag: str | None = facts["e_tag"]
        self._chunk = SMALL_CHUNK if any(str(parent) in _larger for parent in path.parents) else CHUNK
        self._folder = blake2b(f"{path} {self.size} {self._tag}".encode(), digest_size=16).hexdigest()
        self._cache = cache()
        self._flying: dict[int, Future[memoryview]] = {}
        self._lock, self._process = lock(), os.getpid()
        self._next = range(0)  # the chunks of which one, if it is missing, shows that the file is read in order

    def _name(self, number: int) -> str:
        return f"{self._folder}/{self._chunk}-{number}"

    def _numbers(self, start: int, length: int) -> range:
        return range(start // self._chunk, -(-(start + length) // self._chunk))

    def read(self, start: int, length: int) -> memoryview:
        """Return bytes, which are in the file. Chunks that are missed one after the other are also fetched ahead."""
        numbers = self._numbers(start, length)
        parts: dict[int, bytes | memoryview | None] = {}
        for number in numbers:
            first, end = self._within(number, start, length)
            parts[number] = self._cache.read(self._name(number), first, end - first)
        missing = [number for number in numbers if parts[number] is None]
        if missing:
            flights, ahead = self._fetch(missing, wait=True), 0
            if missing[0] in self._next:
                self.prefetch([(numbers.stop * self._chunk, AHEAD)])
                ahead = AHEAD // self._chunk
            self._next = range(numbers.stop, numbers.stop + ahead + 1)
            for number in missing:
                first, end = self._within(number, start, length)
                parts[number] = flights[number].result()[first:end]
        if len(numbers) == 1:
            return memoryview(parts[numbers[0]] or b"")
        return memoryview(b"".join(part or b"" for part in parts.values()))

    def _within(self, number: int, start: int, length: int) -> tuple[int, int]:
        """Return the part of a chunk that bytes of the file take."""
        first = number * self._chunk
        return max(start - first, 0), min(start + length - first, self._chunk)

    def prefetch(self, pieces: Iterable[tuple[int, int]]) -> None:
        """Start to fetch (start, length) pieces, those that are needed first at the front."""
        whole = [(start, min(length, self.size - start)) for start, length in pieces if start < self.size]
        numbers = dict.fromkeys(number for piece in whole for number in self._numbers(*piece))
        self._fetch([number for number in numbers if not self._cache.has(self._name(number))])

    def forget(self, start: int, length: int) -> None:
        """Remove a piece from the cache, since its bytes are wrong."""
        for number in self._numbers(start, length):
            self._cache.forget(self._name(number))

    def _fetch(self, numbers: list[int], wait: bool = False) -> dict[int, Future[memoryview]]:
        """Request chunks, adjacent ones together, unless a request for them is under way.

        Args:
            wait: the caller needs them now: it makes the first request itself, ahead of those that are queued.
        """
        with self._lock:
            if self._process != os.getpid():  # no reply to a request of the parent comes here
                self._process, self._flying = os.getpid(), {}
            new = [number for number in numbers if number not in self._flying]
            flights: dict[int, Future[memoryview]] = {number: Future() for number in new}
            self._flying |= flights
            wanted = {number: self._flying[number] for number in numbers}
        most = max(1, REQUEST // self._chunk)
        runs: list[list[int]] = []
        for number in sorted(new):
            if runs and runs[-1][-1] == number - 1 and len(runs[-1]) < most:
                runs[-1].append(number)
            else:
                runs.append([number])
        rank = {number: n for n, number in enumerate(new)}
        runs.sort(key=lambda run: min(map(rank.__getitem__, run)))
        for run in runs[wait:]:
            _pool(os.getpid()).submit(self._request, run, flights)
        for run in runs[:wait]:
            self._request(run, flights)
        return wanted

    def _request(self, run: list[int], flights: dict[int, Future[memoryview]]) -> None:
        first, end = run[0] * self._chunk, min((run[-1] + 1) * self._chunk, self.size)
        try:
            with requests(self.path) as obstore:
                options = {"range": (first, end)} | ({"if_match": self._tag} if self._tag else {})
                data = memoryview(obstore.get(self.path.bucket, self.path.key, options=options))
            if len(data) != end - first:
                raise OSError(f"{len(data)} bytes came of {end - first} requested")
            for number in run:
                piece = data[number * self._chunk - first :][: self._chunk]
                self._cache.write(self._name(number), piece)
                flights[number].set_result(piece)
        except BaseException as error:
            for number in run:
                if not flights[number].done():
                    flights[number].set_exception(error)
        finally:
            with self._lock:
                for number in run:
                    del self._flying[number]


@functools.lru_cache(1)
def _pool(process: int) -> ThreadPoolExecutor:
    """Return the threads that wait for replies; a forked process makes its own."""
    return ThreadPoolExecutor(IN_FLIGHT, "shards-fetch")
