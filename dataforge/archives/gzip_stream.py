"""Random access in a gzip file: the states of the decompressor are kept at intervals."""

from __future__ import annotations

import os
import zlib
from bisect import bisect_right
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from dataforge.threads import lock

CHUNK = 1 << 16  # compressed bytes read at a time
SPAN = 1 << 20  # decompressed bytes between two states, at first
STATES = 2048  # states kept, of about 40 KB each: if there are more, every other one is dropped
CURSORS = 8  # ends of the latest reads, from which reads in the order of the file continue


@dataclass(frozen=True, slots=True)
class _State:
    start: int  # position of `left` in the decompressed stream
    left: bytes  # decompressed, and not yet read
    place: int  # position in the file
    inflate: Any  # zlib's decompressor

    def after(self, fd: int) -> Iterator[_State]:
        """Yield the states after each further chunk of the file, with the decompressed chunk as `left`.

        Raises:
            OSError: the file is damaged or cut short.
        """
        end, place, inflate = self.start + len(self.left), self.place, self.inflate
        while data := os.pread(fd, CHUNK, place):
            place += len(data)
            out = b""
            try:
                while data := data.lstrip(b"\0") if inflate.eof else data:
                    if inflate.eof:  # several gzip members in a row are one stream
                        inflate = zlib.decompressobj(31)
                    out += inflate.decompress(data)
                    data = inflate.unused_data
            except zlib.error as error:
                raise OSError(f"the gzip data is damaged: {error}") from None
            yield _State(end, out, place, inflate)
            end += len(out)
        if not inflate.eof:
            raise OSError("the gzip data is cut short")


class GzipStream:
    """The decompressed bytes of a gzip file.

    Args:
        fd: an open file.
        check: called with the sizes of the decompressed and the compressed data so far, while the file is indexed.
    """

    def __init__(self, fd: int, check: Callable[[int, int], None]) -> None:
        self._fd, self._check = fd, check
        self._lock = lock()
        self._states = [_State(0, b"", 0, zlib.decompressobj(31))]
        self._cursors: list[_State] = []
        self._indexed = self._index()
        self._ahead = b""
        self._end = 0

    def read(self, size: int) -> bytes:
        """Read on from the start of the stream, for `tarfile`; this indexes the file."""
        parts = [self._ahead]
        held = len(self._ahead)
        while held < size and (part := next(self._indexed, b"")):
            parts.append(part)
            held += len(part)
        data = b"".join(parts)
        self._ahead = data[size:]
        return data[:size]

    def rest(self, start: int, size: int) -> bytes:
        """Index the remainder of the file; return up to `size` bytes from a position on."""
        while self.read(CHUNK):
            pass
        return b"".join(self.chunks(start, min(size, self._end - start)))

    def _index(self) -> Iterator[bytes]:
        span = SPAN
        for state in _State(0, b"", 0, zlib.decompressobj(31)).after(self._fd):
            end = self._end = state.start + len(state.left)
            self._check(end, state.place)
            if end - self._states[-1].start >= span and not state.inflate.eof:
                self._states.append(_State(end, b"", state.place, state.inflate.copy()))
                if len(self._states) > STATES:
                    span *= 2
                    del self._states[1::2]
            if state.left:
                yield state.left

    def chunks(self, start: int, size: int) -> Iterator[bytes]:
        """Yield `size` bytes from the position `start` on, which was indexed. Threads may read at the same time.

        Raises:
            OSError: as `_State.after`, or the stream ends before.
        """
        state = self._before(start)
        following = state.after(self._fd)
        while size:
            skip = max(start - state.start, 0)
            part = state.left[skip : skip + size]
            start, size = start + len(part), size - len(part)
            if part:
                yield part
            if not size:
                left = state.left[start - state.start :]
                with self._lock:
                    self._cursors = [*self._cursors, _State(start, left, state.place, state.inflate)][-CURSORS:]
                return
            try:
                state = next(following)
            except StopIteration:
                raise OSError("the gzip data ends too early") from None

    def _before(self, start: int) -> _State:
        """Return the last known state at or before a position. A cursor is taken out, a kept state is copied."""
        kept = self._states[bisect_right(self._states, start, key=lambda state: state.start) - 1]
        with self._lock:
            fitting = [cursor for cursor in self._cursors if kept.start <= cursor.start <= start]
            if fitting:
                best = max(fitting, key=lambda cursor: cursor.start)
                self._cursors = [cursor for cursor in self._cursors if cursor is not best]
                return best
        return _State(kept.start, b"", kept.place, kept.inflate.copy())
