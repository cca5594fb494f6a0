"""The members of zip and tar archives: where each lies, and the checks that refuse hostile archives.

Formats: APPNOTE.TXT of PKWARE for zip, POSIX.1-2001 (pax) and GNU for tar, RFC 1952 for gzip. The attacks checked for:
Fifield, "A better zip bomb" (USENIX WOOT 2019), on members that overlap; "Extraction filters" in the documentation of
`tarfile`, on names, links and devices.
"""

from __future__ import annotations

import calendar
import os
import re
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dataforge.archives.gzip_stream import GzipStream
from dataforge.errors import FormatError

SUFFIXES = (".zip", ".tar", ".tar.gz", ".tgz")
CHUNK = 1 << 20  # bytes read at a time
ENTRIES = 4_000_000  # maximum number of files and folders
NAME = 1024  # maximum length of a member's name
FREE, RATIO = 256 << 20, 200  # data above FREE bytes may be at most RATIO times as large as its compressed form
STORED, DEFLATED = zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED


@dataclass(frozen=True, slots=True)
class Member:
    """A file in an archive: `packed` bytes at `offset` (in zip: of its local header), `size` bytes decompressed."""

    offset: int
    packed: int
    size: int
    changed: int  # nanoseconds, as far as the archive knows
    method: int = STORED
    crc: int | None = None


@dataclass
class Folder:
    folders: dict[str, None] = field(default_factory=dict)
    files: list[str] = field(default_factory=list)


_DAMAGES: tuple[type[Exception], ...] = (
    *(zipfile.BadZipFile, tarfile.TarError, OSError, NotImplementedError, struct.error, zlib.error, EOFError),
    *(ValueError, IndexError),  # by names and dates that are none
)


class Archive:
    """An archive opened for reading. Threads may read at the same time.

    Raises:
        FormatError: it is not an archive of the type of its suffix, is damaged, or has a member that is not accepted.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.prefix = os.path.abspath(path)  # noqa: PTH100  (links stay)
        self._fd = os.open(path, os.O_RDONLY)
        self._packed = os.fstat(self._fd).st_size
        self._gzip = None
        self.members: dict[str, Member] = {}
        self.folders: dict[str, Folder] = {"": Folder()}
        name = path.name.lower()
        if name.endswith((".tgz", ".tar.gz")):
            self._gzip = GzipStream(self._fd, lambda size, packed: self._check_size("the archive", size, packed))
        try:
            for member_name, member in self._zip() if name.endswith(".zip") else self._tar():
                self._add(member_name, member)
        except _DAMAGES as error:
            raise FormatError(f"{path}: cannot be read as an archive: {error}") from None

    def __del__(self) -> None:
        if hasattr(self, "_fd"):
            os.close(self._fd)

    def chunks(self, name: str) -> Iterator[bytes]:
        """Yield the bytes of a member.

        Raises:
            OSError: they are not as many as the archive states, or their CRC-32 differs.
        """
        member = self.members[name]
        size, crc = 0, 0
        data = self._gzip.chunks(member.offset, member.size) if self._gzip else self._raw(member)
        for chunk in data:
            size += len(chunk)
            if size > member.size:
                break
            if member.crc is not None:
                crc = zlib.crc32(chunk, crc)
            yield chunk
        if size != member.size:
            raise OSError(f"is larger or smaller than the {member.size} bytes that {self.path} states")
        if member.crc is not None and crc != member.crc:
            raise OSError(f"does not have the CRC-32 that {self.path} states")

    def _raw(self, member: Member) -> Iterator[bytes]:
        start = member.offset
        if member.crc is not None:
            header = os.pread(self._fd, 30, start)
            if len(header) < 30 or header[:4] != b"PK\3\4":
                raise OSError(f"{self.path} has no such member at byte {start}")
            start += 30 + sum(struct.unpack("<HH", header[26:]))
        inflate = zlib.decompressobj(-15) if member.method == DEFLATED else None
        for place in range(start, start + member.packed, CHUNK):
            data = os.pread(self._fd, min(CHUNK, start + member.packed - place), place)
            try:
                while inflate and data:
                    yield inflate.decompress(data, CHUNK)
                    data = inflate.unconsumed_tail
                yield data
            except zlib.error as error:
                raise OSError(f"is damaged in {self.path}: {error}") from None
        if inflate:
            yield inflate.flush()

    def _zip(self) -> Iterator[tuple[str, Member | None]]:
        with zipfile.ZipFile(self.path) as file:
            infos = sorted(file.infolist(), key=lambda info: info.header_offset)
            ends = [*(info.header_offset for info in infos[1:]), file.start_dir]
        total = 0
        for info, end in zip(infos, ends, strict=True):
            kind = stat.S_IFMT(info.external_attr >> 16)
            total += info.file_size
            if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
                self._refuse(info.filename, "is a link or a device; extract the archive and give the folder")
            if info.flag_bits & 1:
                self._refuse(info.filename, "is encrypted")
            if info.compress_type not in (STORED, DEFLATED):
                self._refuse(info.filename, f"has compression method {info.compress_type}; expected none or deflate")
            if info.header_offset + 30 + info.compress_size > end:
                self._refuse(info.filename, "overlaps another member")
            self._check_size(repr(info.filename), info.file_size, info.compress_size)
            changed = calendar.timegm((*info.date_time, 0, 0, 0)) * 1_000_000_000
            facts = (info.header_offset, info.compress_size, info.file_size, changed, info.compress_type, info.CRC)
            yield info.filename, None if info.is_dir() else Member(*facts)
        self._check_size("the archive", total, self._packed)

    def _tar(self) -> Iterator[tuple[str, Member | None]]:
        stream: Any = self._gzip
        opened = (
            tarfile.open(fileobj=stream, mode="r|", bufsize=CHUNK)  # noqa: SIM115
            if stream
            else tarfile.open(self.path, mode="r:")  # noqa: SIM115
        )
        with opened as file:
            while (info := file.next()) is not None:
                file.members = []  # type: ignore[attr-defined]  # else it keeps them all
                if info.isdir():
                    yield info.name, None
                    continue
                if info.type not in tarfile.REGULAR_TYPES or info.issparse():
                    self._refuse(info.name, "is a link, a device or sparse; extract the archive and give the folder")
                if not stream and info.offset_data + info.size > self._packed:
                    self._refuse(info.name, "is cut short")
                yield info.name, Member(info.offset_data, info.size, info.size, int(info.mtime * 1_000_000_000))
        # `tarfile` stops at a broken header as it does at the end, which is made of zeros
        rest = stream.rest(file.offset, CHUNK) if stream else os.pread(self._fd, CHUNK, file.offset)
        if rest.strip(b"\0"):
            raise FormatError(f"{self.path}: is damaged at byte {file.offset}, or has another archive after its end")

    def _add(self, name: str, member: Member | None) -> None:
        parts = name.replace("\\", "/").split("/")
        if parts[0] == "" or ".." in parts or re.match("[A-Za-z]:", name) or "\0" in name or len(name) > NAME:
            self._refuse(name[:NAME], "leads out of the archive, or is too long")
        kept = [part for part in parts if part not in ("", ".")]
        clean = "/".join(kept)
        if len(self.members) + len(self.folders) > ENTRIES:
            raise FormatError(f"{self.path}: has more than {ENTRIES} files and folders")
        if member is not None:
            if not kept or clean in self.members or clean in self.folders:
                self._refuse(name, "is in the archive twice")
            self.members[clean] = member
            kept.pop()
            self._folder(kept).files.append(clean.rpartition("/")[2])
        elif kept:
            self._folder(kept)

    def _folder(self, parts: list[str]) -> Folder:
        path = "/".join(parts)
        if path not in self.folders:
            if path in self.members:
                self._refuse(path, "is in the archive twice")
            self._folder(parts[:-1]).folders[parts[-1]] = None
            self.folders[path] = Folder()
        return self.folders[path]

    def _check_size(self, what: str, size: int, packed: int) -> None:
        if size > FREE and size > RATIO * packed:
            raise FormatError(
                f"{self.path}: {what} has {size} bytes, compressed to {packed}; expected at most {RATIO} times as many"
            )

    def _refuse(self, name: str, reason: str) -> None:
        raise FormatError(f"{self.path}: member {name!r}: {reason}")
