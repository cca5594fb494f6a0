"""`ArchivePath`: the path of a file or folder in an archive, with the methods of `pathlib.Path` that only read."""

from __future__ import annotations

import errno
import functools
import io
import os
import stat
import tempfile
from collections.abc import Generator, Iterator
from fnmatch import fnmatchcase
from pathlib import Path, PosixPath
from typing import Any, ClassVar

from dataforge.archives.hub import is_address, snapshot
from dataforge.archives.members import SUFFIXES, Archive

SMALL = 1 << 20  # files up to this size are opened in memory


def opened(path: Path) -> Path:
    """Return an archive, or a path below one such as `set.zip/coco`, as an `ArchivePath`; other paths unchanged.

    An address `hf://owner/name` becomes the folder of its files.

    Raises:
        FormatError: the archive cannot be read, or is refused; or as `snapshot`.
    """
    path = snapshot(path) if is_address(path) else path
    for place in (path, *path.parents):
        if place.name.lower().endswith(SUFFIXES) and place.is_file():
            facts = place.stat()
            kind = _type(place, facts.st_size, facts.st_mtime_ns)
            return kind(path)
    return path


@functools.lru_cache(8)  # detection and reading open the same archive
def _type(path: Path, size: int, changed: int) -> type[ArchivePath]:
    return type("ArchivePath", (ArchivePath,), {"archive": Archive(path), "__slots__": ()})


class ArchivePath(PosixPath):
    """A path below an archive, such as `set.zip/images/1.jpg`. Each archive has its own subclass.

    Paths that lead out of the archive, such as absolute ones, are those of the file system.
    """

    __slots__ = ()
    archive: ClassVar[Archive]

    def __reduce__(self) -> tuple[Any, tuple[Path]]:
        return opened, (Path(self),)

    @property
    def _name(self) -> str | None:
        """The path in the archive, "" for the archive itself; None outside of it."""
        path = os.path.abspath(self)  # noqa: PTH100
        if not path.startswith(self.archive.prefix) or path[len(self.archive.prefix) :][:1] not in ("", "/"):
            return None
        return path[len(self.archive.prefix) + 1 :]

    def stat(self, *, follow_symlinks: bool = True) -> os.stat_result:
        name = self._name
        if name is None:
            return super().stat(follow_symlinks=follow_symlinks)
        member = self.archive.members.get(name)
        if member is None and name not in self.archive.folders:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(self))
        mode, size, changed = (
            (stat.S_IFREG | 0o444, member.size, member.changed) if member else (stat.S_IFDIR | 0o555, 0, 0)
        )
        seconds = changed // 1_000_000_000
        times = {"st_atime_ns": changed, "st_mtime_ns": changed, "st_ctime_ns": changed}
        return os.stat_result((mode, 0, 0, 1, 0, 0, size, seconds, seconds, seconds), times)

    def exists(self, **how: Any) -> bool:
        return self._kind() != 0

    def is_dir(self, **how: Any) -> bool:
        return stat.S_ISDIR(self._kind())

    def is_file(self, **how: Any) -> bool:
        return stat.S_ISREG(self._kind())

    def is_symlink(self) -> bool:
        return self._name is None and super().is_symlink()

    def _kind(self) -> int:
        try:
            return self.stat().st_mode
        except (OSError, ValueError):
            return 0

    def iterdir(self) -> Generator[Any, None, None]:
        name = self._name
        if name is None:
            yield from super().iterdir()
            return
        if name not in self.archive.folders:
            self.stat()
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(self))
        folder = self.archive.folders[name]
        for sub in (*folder.folders, *folder.files):
            yield self / sub

    def walk(self, *args: Any, **how: Any) -> Iterator[Any]:
        """Yield (folder, names of folders, names of files) from the top down; the caller may change the folders."""
        name = self._name
        if name is None:
            for place, below, names in os.walk(self, *args, **how):
                yield type(self)(place), below, names
        elif name in self.archive.folders:
            folders = list(self.archive.folders[name].folders)
            yield self, folders, list(self.archive.folders[name].files)
            for folder in folders:
                yield from (self / folder).walk()

    def glob(self, pattern: str, **how: Any) -> Generator[Any, None, None]:  # type: ignore[override]
        first, _, rest = pattern.partition("/")
        if first == "**":
            for folder, _, _ in self.walk():
                yield from folder.glob(rest)
            return
        for path in self.iterdir() if self.is_dir() else ():
            if fnmatchcase(path.name, first):
                if not rest:
                    yield path
                elif path.is_dir():
                    yield from path.glob(rest)

    def rglob(self, pattern: str, **how: Any) -> Generator[Any, None, None]:  # type: ignore[override]
        return self.glob(f"**/{pattern}")

    def read_bytes(self) -> bytes:
        name = self._member()
        return super().read_bytes() if name is None else b"".join(self.archive.chunks(name))

    def open(  # type: ignore[override]
        self,
        mode: str = "r",
        buffering: int = -1,
        encoding: str | None = None,
        errors: str | None = None,
        newline: str | None = None,
    ) -> Any:
        name = self._member()
        if name is None:
            return super().open(mode, buffering, encoding, errors, newline)
        if mode not in ("r", "rt", "rb"):
            raise OSError(errno.EROFS, "is in an archive, which is only read", str(self))
        small = self.archive.members[name].size <= SMALL
        file = io.BytesIO(self.read_bytes()) if small else io.BufferedReader(_MemberFile(self.archive, name))
        return file if mode == "rb" else io.TextIOWrapper(file, encoding, errors, newline)

    def spooled(self) -> Any:
        """Return a temporary file without a name that holds the file's bytes, for readers that map it."""
        file = tempfile.TemporaryFile()  # noqa: SIM115
        name = self._member()
        assert name is not None, f"{self} is not in {self.archive.path}"
        file.writelines(self.archive.chunks(name))
        file.flush()
        return file

    def _member(self) -> str | None:
        """Return the file's name in the archive; None if it is not below it.

        Raises:
            OSError: it does not exist, or is a folder.
        """
        name = self._name
        if name is not None and name not in self.archive.members:
            self.stat()
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(self))
        return name


class _MemberFile(io.RawIOBase):
    """A large member, decompressed as it is read; a step back starts again at its first byte."""

    def __init__(self, archive: Archive, name: str) -> None:
        self._archive, self._name = archive, name
        self._size = archive.members[name].size
        self._start()

    def _start(self) -> None:
        self._chunks = self._archive.chunks(self._name)
        self._left, self._place = memoryview(b""), 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._place

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        wanted = offset + (0, self._place, self._size)[whence]
        if wanted < self._place:
            self._start()
        while self._place < wanted and self.readinto(bytearray(min(wanted - self._place, 1 << 20))):
            pass
        return self._place

    def readinto(self, buffer: Any) -> int:
        while not self._left:
            chunk = next(self._chunks, None)
            if chunk is None:
                return 0
            self._left = memoryview(chunk)
        count = min(len(self._left), len(buffer))
        buffer[:count], self._left = self._left[:count], self._left[count:]
        self._place += count
        return count
