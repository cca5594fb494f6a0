"""The journal of an overlay: JSON lines that are only ever appended, each on the disk before it is confirmed."""

from __future__ import annotations

import getpass
import os
import zlib
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec

from dataforge.errors import DataforgeError
from dataforge.files import flush, lock_file, reading, writing

JOURNAL = "journal.jsonl"
FORMAT_VERSION = 1
_CRC = b',"crc":"%08x"}\n'
_CRC_LENGTH = len(_CRC % 0)


class OverlayError(DataforgeError):
    """An overlay cannot be opened or trusted."""


class NotWrittenError(OverlayError):
    """A line could not be written to the disk; the journal is as it was before."""


def encode(facts: dict[str, Any]) -> bytes:
    """Encode a line: a JSON object whose last key, `crc`, is the CRC-32 of the object without it."""
    body = msgspec.json.encode(facts)
    return body[:-1] + _CRC % zlib.crc32(body)


def read(folder: Path) -> tuple[list[dict[str, Any]], int]:
    """Read the journal of an overlay, and return its lines and how many bytes they take.

    A last line that was being written when the machine or the process stopped (it has no end, or holds NUL bytes) was
    never confirmed, and is not among them.

    Raises:
        OverlayError: the folder has no journal, a newer one, or one with a damaged line.
    """
    path = folder / JOURNAL
    if not path.is_file():
        what = f"holds no {JOURNAL}" if folder.is_dir() else "does not exist"
        raise OverlayError(f"{folder}: {what}; expected a folder made by `dataforge annotate`")
    with reading(path, OverlayError):
        rows = path.read_bytes().splitlines(keepends=True)
    if rows and (not rows[-1].endswith(b"\n") or b"\0" in rows[-1]):
        rows.pop()
    lines = [_decode(row, f"{path}: line {n}") for n, row in enumerate(rows, 1)]
    if lines and (lines[0].get("kind"), lines[0].get("format_version")) != ("overlay", FORMAT_VERSION):
        version = lines[0].get("format_version")
        raise OverlayError(f"{path}: format_version is {version!r}; this dataforge reads {FORMAT_VERSION}")
    return lines, sum(map(len, rows))


def _decode(row: bytes, place: str) -> dict[str, Any]:
    body = row[:-_CRC_LENGTH] + b"}"
    if row[-_CRC_LENGTH:] != _CRC % zlib.crc32(body):
        raise OverlayError(f"{place} is damaged: its CRC-32 is not that of its text")
    try:
        facts = msgspec.json.decode(body, type=dict[str, Any])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise OverlayError(f"{place} is damaged: {error}") from None
    if not isinstance(facts.get("kind"), str):
        raise OverlayError(f"{place} is damaged: it has no kind")
    return facts


class Journal:
    """The one writer of an overlay's journal. The file stays locked until `close`, or until the process ends.

    Args:
        folder: created if it is absent.
        header: the first line of a new journal.

    Attributes:
        lines: those on the disk when it was opened, the header first.

    Raises:
        OverlayError: another process writes the journal, a line is damaged, or the folder is no overlay.
    """

    def __init__(self, folder: Path, header: dict[str, Any]) -> None:
        self.path = folder / JOURNAL
        with writing(folder, OverlayError):
            folder.mkdir(parents=True, exist_ok=True)
            if not self.path.exists() and any(folder.iterdir()):
                raise OverlayError(f"{folder}: is not empty, and holds no {JOURNAL}; choose another --overlay")
            self._file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
        try:
            try:
                lock_file(self._file)
            except OSError:
                raise OverlayError(f"{folder}: is being edited by another `dataforge annotate`") from None
            self.lines, self._whole = read(folder)
            if os.fstat(self._file).st_size > self._whole:
                with writing(self.path, OverlayError):
                    os.ftruncate(self._file, self._whole)
            if not self.lines:
                self.append({"kind": "overlay", "format_version": FORMAT_VERSION, **header})
                self.lines, _ = read(folder)
                with writing(folder, OverlayError):
                    flush(folder)
                    flush(folder.resolve().parent)
        except BaseException:
            os.close(self._file)
            raise

    def append(self, facts: dict[str, Any]) -> None:
        """Write a line, and wait until it is on the disk.

        Raises:
            NotWrittenError: it is not; whatever part of it was written is removed.
        """
        line = encode(facts)
        try:
            if os.fstat(self._file).st_size != self._whole:  # a part that an earlier failure could not remove
                os.ftruncate(self._file, self._whole)
            if os.write(self._file, line) != len(line):
                raise OSError(0, "the disk is full, or the file may not grow")
            os.fsync(self._file)
        except OSError as error:
            with suppress(OSError):  # the next call tries again, and so does the next opening
                os.ftruncate(self._file, self._whole)
                os.fsync(self._file)
            raise NotWrittenError(f"{self.path}: cannot be written: {error.strerror or error}") from None
        self._whole += len(line)

    def close(self) -> None:
        os.close(self._file)


def who() -> str:
    """Return the user's name, as the system knows it."""
    with suppress(OSError, KeyError, ImportError):
        return getpass.getuser()
    return "unknown"


def now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
