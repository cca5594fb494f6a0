"""Files and folders named by users: path checks, reading and writing text, and listing the files of a folder."""

from __future__ import annotations

import codecs
import errno
import io
import mmap
import os
import re
import shutil
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar, overload

from dataforge.archives.path import ArchivePath
from dataforge.errors import DataforgeError, FormatError

T = TypeVar("T")
_ON_DISK = type(Path())
_READ = os.O_RDONLY | getattr(os, "O_BINARY", 0)
FEW, SMALL = 32, 1 << 18  # paths in a folder; bytes
_LEFT_BEHIND = ("__macosx", "thumbs.db", "desktop.ini")


@contextmanager
def reading(path: object, error: type[DataforgeError] = FormatError) -> Iterator[None]:
    """Raise `error` with "PATH: cannot be read: REASON" for every `OSError` in the block."""
    try:
        yield
    except OSError as cause:
        raise error(f"{path}: cannot be read: {cause.strerror or cause}") from None


@contextmanager
def writing(path: object, error: type[DataforgeError] = FormatError) -> Iterator[None]:
    """Raise `error` with "PATH: cannot be written: REASON" for every `OSError` in the block."""
    try:
        yield
    except OSError as cause:
        raise error(f"{path}: cannot be written: {cause.strerror or cause}") from None


def flush(path: Path) -> None:
    """Wait until a file, or the entries of a folder, are written to disk.

    Windows opens no folder, and flushes only a handle that may write; there a folder's entries need no flush.
    """
    folder = path.is_dir()
    try:
        handle = os.open(path, os.O_RDONLY if folder else os.O_RDWR)
    except PermissionError:
        if folder:
            return
        raise
    try:
        os.fsync(handle)
    except OSError as error:
        if not folder or error.errno not in (errno.EBADF, errno.EINVAL):
            raise
    finally:
        os.close(handle)


def room(folder: Path) -> str:
    """Return in words how much of a folder's disk is free."""
    try:
        return f"{shutil.disk_usage(folder).free / 1e6:.1f} MB are free there"
    except OSError:
        return "nothing is known to be free there"


def lock_file(handle: int) -> None:
    """Lock an open file until it is closed, or its process ends.

    Raises:
        BlockingIOError: another process, or another handle of this one, has locked it.
    """
    try:
        import fcntl
    except ImportError:  # Windows
        import msvcrt

        try:
            msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined]
        except OSError:
            raise BlockingIOError from None
    else:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)


def exists(path: Path) -> bool:
    """Return `Path.exists`, but False instead of an error for names from users' files that the system refuses."""
    try:
        return path.exists()
    except (OSError, ValueError):
        return False


def is_absent(path: Path) -> bool:
    """Return True if there is no such file; False if there is, or if the system cannot tell."""
    try:
        path.stat()
    except OSError as error:
        return error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG)
    return False


def is_hidden(name: str) -> bool:
    """Return True for the name of a file or folder that is no part of any set: one that systems hide or leave behind.

    macOS creates `._a.jpg` beside `a.jpg`, or in `__MACOSX/` of its archives.
    """
    return name.startswith(".") or name.lower() in _LEFT_BEHIND


def alike(name: str) -> str:
    """Return a file's name with its suffix in lower case and its accents composed, which some systems ignore.

    macOS stores names in decomposed letters, and others keep them when they unpack its archives.
    """
    stem, dot, suffix = name.rpartition(".")
    name = stem + dot + suffix.lower()
    return name if name.isascii() else unicodedata.normalize("NFC", name)


def existing() -> Callable[[Path], bool]:
    """Return a function as `exists` for many paths: a folder on disk is listed once it was asked for `FEW` of them."""
    asked: Counter[str] = Counter()
    names: dict[str, set[str]] = {}

    def known(path: Path) -> bool:
        if type(path) is not _ON_DISK:
            return exists(path)
        folder, name = os.path.split(path)
        if folder not in names:
            asked[folder] += 1
            if asked[folder] < FEW:
                return exists(path)
            names[folder] = _files_in(folder)
        return name in names[folder] or exists(path)  # a link, or a system that ignores case

    return known


def _files_in(folder: str) -> set[str]:
    """Return the names of the files in a folder that are no links; none if it cannot be listed."""
    try:
        with os.scandir(folder) as entries:
            return {entry.name for entry in entries if entry.is_file(follow_symlinks=False)}
    except (OSError, ValueError):
        return set()


def inside(name: str) -> str | None:
    """Normalize a relative path, with forward slashes, or return None if it is empty, absolute or leaves its folder."""
    path = os.path.normpath(name.replace("\\", "/"))
    if "\0" in name or path in (".", "..") or path.startswith(("../", "/")) or path[1:3] == ":/":
        return None
    return path


def check_root(root: Path, expected: str) -> None:
    """Check that a folder exists and is not empty.

    Args:
        expected: the layouts that the format supports, for the message.

    Raises:
        FormatError: the folder is missing, a file, unreadable or empty.
    """
    try:
        empty = next(root.iterdir(), None) is None
    except OSError as error:
        reason = "does not exist" if isinstance(error, FileNotFoundError) else f"cannot be read: {error.strerror}"
        reason = "is a URL" if re.match(r"\w{2,}:", root.parts[0] if root.parts else "") else reason
        raise FormatError(f"{root}: {reason}; expected {expected}") from None
    if empty:
        raise FormatError(f"{root}: the folder is empty; expected {expected}")


class Paths(Sequence[Path]):
    """Paths below a folder. Each is made when it is asked for: as text, it takes a fifth of the memory.

    Args:
        names: relative, with forward slashes.
    """

    def __init__(self, folder: Path, names: list[str]) -> None:
        self._folder, self._names = folder, names

    @overload
    def __getitem__(self, n: int) -> Path: ...
    @overload
    def __getitem__(self, n: slice) -> Paths: ...
    def __getitem__(self, n: int | slice) -> Path | Paths:
        return Paths(self._folder, self._names[n]) if isinstance(n, slice) else self._folder / self._names[n]

    def __iter__(self) -> Iterator[Path]:
        return map(self._folder.__truediv__, self._names)

    def __len__(self) -> int:
        return len(self._names)

    def texts(self) -> Iterator[str]:
        """Yield the paths as text, without making them."""
        start = str(self._folder / "x")[:-1]
        return (start + name.replace("/", os.sep) for name in self._names)


def files_below(folder: Path, fits: Callable[[str], bool]) -> Paths:
    """Return the sorted files below a folder whose names match. Links are followed, except circular ones."""
    found: list[str] = []
    seen = set()
    for place, folders, names in walk(folder):
        real = os.path.realpath(place)
        if real in seen or circles(place):
            folders.clear()
            continue
        seen.add(real)
        below = "" if place == folder else place.relative_to(folder).as_posix() + "/"
        found += [below + name for name in names if fits(name)]
    return Paths(folder, sorted(found, key=parts_of))


def parts_of(name: str) -> str:
    """Return a key that sorts relative names as `Path` does on POSIX: by their parts."""
    return name.replace("/", "\0")


def walk(folder: Path) -> Iterator[tuple[Path, list[str], list[str]]]:
    """Yield (folder, names of folders, names of files) from the top down, as `os.walk` does; links are followed.

    Those that are hidden are left out. The caller may remove folders from the list, and leave out circular links by
    `circles`.
    """
    places = folder.walk() if isinstance(folder, ArchivePath) else os.walk(folder, followlinks=True)
    for place, folders, names in places:
        folders[:] = [name for name in folders if not is_hidden(name)]
        names = [name for name in names if not is_hidden(name)]
        yield Path(place) if isinstance(place, str) else place, folders, names


def globbed(folder: Path, *patterns: str) -> list[Path]:
    """Return the sorted paths in a folder that match one of the patterns, without those that are hidden, or in such."""
    paths = {path for pattern in patterns for path in folder.glob(pattern)}
    return sorted(path for path in paths if not any(map(is_hidden, path.parts[len(folder.parts) :])))


def listed(folder: Path) -> tuple[list[str], list[str]]:
    """Return the sorted names of the folders and of the files in a folder; links count as what they lead to.

    Raises:
        OSError: as `os.scandir`.
    """
    if type(folder) is not _ON_DISK:
        inner = list(folder.iterdir())
        return sorted(path.name for path in inner if path.is_dir()), sorted(p.name for p in inner if p.is_file())
    with os.scandir(folder) as entries:
        kinds = [(entry.name, _is(entry.is_dir), _is(entry.is_file)) for entry in entries]
    return sorted(name for name, is_dir, _ in kinds if is_dir), sorted(name for name, _, is_file in kinds if is_file)


def _is(ask: Callable[[], bool]) -> bool:
    try:
        return ask()
    except OSError:  # a circular link
        return False


def mapped(path: Path) -> memoryview:
    """Map a file that is not empty into memory. One in an archive is copied to a temporary file without a name.

    Raises:
        OSError, ValueError: it cannot be read, or is empty.
    """
    with path.spooled() if isinstance(path, ArchivePath) else open(path, "rb") as file:
        return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))


def release(data: memoryview) -> None:
    """Let go of the read pages of a `mapped` file, which count as the process's memory; they can be read again."""
    if isinstance(data.obj, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):  # not on Windows
        data.obj.madvise(mmap.MADV_DONTNEED)


def circles(folder: Path) -> bool:
    """Return True for a link to one of its parent folders, whose files are already found."""
    return folder.is_symlink() and (folder.parent.resolve() / "x").is_relative_to(os.path.realpath(folder))


def parse_start(path: Path, count: int, start: Callable[[bytes], T | None], whole: Callable[[bytes], T]) -> T:
    """Return what `start` makes of a file's first `count` bytes; if that is None, what `whole` makes of all.

    The file is opened once, and no byte is read twice.

    Raises:
        OSError, ValueError: as `open`.
    """
    if type(path) is not _ON_DISK:
        with path.open("rb") as file:
            data = file.read(count)
            return start(data) or whole(data + file.read())
    handle = os.open(str(path), _READ)
    try:
        data = os.read(handle, count)
        while len(data) < count and (more := os.read(handle, count - len(data))):
            data += more
        return start(data) or whole(data + io.FileIO(handle, closefd=False).readall())
    finally:
        os.close(handle)


def read_bytes(path: Path) -> bytes:
    """Return a file's bytes, as `Path.read_bytes` does in three times the processor time for a small file on disk.

    Raises:
        OSError, ValueError: as `open`.
    """
    if type(path) is not _ON_DISK:
        with path.open("rb") as file:
            return file.read()
    handle = os.open(str(path), _READ)
    try:
        size = os.fstat(handle).st_size
        data = os.read(handle, size + 1) if size < SMALL else b""
        return data if len(data) == size else data + io.FileIO(handle, closefd=False).readall()
    finally:
        os.close(handle)


def read_text(path: Path) -> str:
    """Read a UTF-8 text file, with or without a byte order mark; lines end with a line feed.

    Raises:
        FormatError: it cannot be read, or is not UTF-8.
    """
    try:
        with reading(path):
            text = read_bytes(path).removeprefix(codecs.BOM_UTF8).decode()
        return text.replace("\r\n", "\n").replace("\r", "\n") if "\r" in text else text
    except UnicodeDecodeError as error:
        raise FormatError(f"{path}: not UTF-8 text: byte {error.object[error.start]:#04x} at {error.start}") from None


def new_folder(root: Path) -> None:
    """Create the output folder of a format.

    Raises:
        FormatError: it exists and is not empty, or cannot be created.
    """
    with writing(root):
        root.mkdir(parents=True, exist_ok=True)
        taken = next(root.iterdir(), None)
    if taken:
        raise FormatError(f"{root}: is not empty; expected a new folder")


def put_text(path: Path, data: bytes) -> None:
    """Write an annotation file.

    Raises:
        FormatError: it cannot be written, or its path is that of an image.
    """
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "xb") as file:
            file.write(data)
