"""Flushing and locking under the rules of other systems; folders and files as `pathlib` reads them."""

from __future__ import annotations

import errno
import io
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from dataforge.archives.path import opened
from dataforge.errors import FormatError
from dataforge.files import (
    FEW,
    SMALL,
    existing,
    exists,
    flush,
    globbed,
    listed,
    lock_file,
    parse_start,
    parts_of,
    read_bytes,
    read_text,
)

WINDOWS = """
import errno, fcntl, os, sys
real_open, real_fsync = os.open, os.fsync
def open_(path, flags, *rest, **named):
    if os.path.isdir(path):
        raise PermissionError(errno.EACCES, "Permission denied", str(path))
    return real_open(path, flags, *rest, **named)
def fsync(handle):
    handle = handle if isinstance(handle, int) else handle.fileno()
    if fcntl.fcntl(handle, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY:
        raise OSError(errno.EBADF, "Bad file descriptor")
    real_fsync(handle)
os.open, os.fsync = open_, fsync
from dataforge.cli.main import main
main()
"""


@pytest.mark.skipif(sys.platform == "win32", reason="simulates Windows")
@pytest.mark.parametrize("store", ["lmdb", "memmap", "zarr"])
def test_ingest_where_no_folder_is_opened_and_only_writers_are_flushed(tmp_path: Path, store: str) -> None:
    from dataforge.images import synth

    synth.write(tmp_path / "pictures", images=5)
    command = ["ingest", "coco", tmp_path / "pictures", "--store", store, "--out", tmp_path / "shards"]
    done = subprocess.run([sys.executable, "-c", WINDOWS, *map(str, command)], capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
    assert (tmp_path / "shards/index.json").is_file()


def test_a_flush_that_fails_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a").write_bytes(b"a")

    def failing(_: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "fsync", failing)
    for path in (tmp_path / "a", tmp_path):
        with pytest.raises(OSError, match="Input/output"):
            flush(path)
    with pytest.raises(FileNotFoundError):
        flush(tmp_path / "b")


def test_a_lock_ends_with_its_handle(tmp_path: Path) -> None:
    first, second = (os.open(tmp_path / "lock", os.O_RDWR | os.O_CREAT) for _ in range(2))
    lock_file(first)
    with pytest.raises(BlockingIOError):
        lock_file(second)
    os.close(first)
    lock_file(second)
    os.close(second)


def test_folders_and_texts_are_read_as_by_pathlib(tmp_path: Path) -> None:
    data = "\ufeffé\r\nb\rc\n\n".encode()
    with zipfile.ZipFile(tmp_path / "set.zip", "w") as archive:
        archive.writestr("b/a.txt", data)
        archive.writestr("a.txt", data)
    folder = tmp_path / "folder"
    (folder / "b").mkdir(parents=True)
    (folder / "a.txt").write_bytes(data)
    for name, target in (("linked", "b"), ("link.txt", "a.txt"), ("broken.txt", "nowhere"), ("circle", "circle")):
        (folder / name).symlink_to(target)
    assert listed(folder) == (["b", "linked"], ["a.txt", "link.txt"])
    assert listed(opened(tmp_path / "set.zip")) == (["b"], ["a.txt"])
    for root in (folder, opened(tmp_path / "set.zip")):
        path = root / "a.txt"
        assert read_bytes(path) == data and read_text(path) == "é\nb\nc\n\n" == path.read_text("utf-8-sig")
        with pytest.raises(FormatError, match="nothing: cannot be read: No such file"):
            read_text(root / "nothing")
    (folder / "a.txt").write_bytes(b"\xef\xbb\xbfab\xff")
    with pytest.raises(FormatError, match="not UTF-8 text: byte 0xff at 2"):
        read_text(folder / "a.txt")
    paths = [Path("a/b"), Path("a.txt"), Path("a/b.txt"), Path("a"), Path("B")]
    assert [Path(name) for name in sorted(map(str, paths), key=parts_of)] == sorted(paths)


@pytest.mark.parametrize("size", [0, 1, SMALL - 1, SMALL, SMALL + 1])
def test_a_file_is_read_whole_or_its_start(tmp_path: Path, size: int) -> None:
    path, data = tmp_path / "x", bytes(range(256)) * (size // 256 + 1)
    path.write_bytes(data[:size])
    assert read_bytes(path) == data[:size]
    for count in (1, size, size + 1):
        assert parse_start(path, count, lambda start: ("start", start), lambda whole: ("whole", whole)) == (
            "start",
            data[: min(size, count)],
        )
        assert parse_start(path, count, lambda start: None, bytes) == data[:size]
    for read in (read_bytes, lambda path: parse_start(path, 9, bytes, bytes)):
        with pytest.raises(OSError):
            read(tmp_path)
        with pytest.raises(FileNotFoundError):
            read(tmp_path / "none")


def test_a_file_elsewhere_is_opened_once(tmp_path: Path) -> None:
    """As in an archive or at a URL, where each opening is a fetch."""
    asked: list[tuple[str, int]] = []

    class File(io.BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            asked.append(("read", -1 if size is None else size))
            return super().read(size)

    class Elsewhere(type(tmp_path)):  # type: ignore[misc]
        def open(self, *how: object) -> File:
            asked.append(("open", 1))
            return File(b"abcdef")

    assert parse_start(Elsewhere("x"), 2, lambda start: None, bytes) == b"abcdef"
    assert asked == [("open", 1), ("read", 2), ("read", -1)]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no pipes in folders")
def test_a_pipe_is_read_to_its_end(tmp_path: Path) -> None:
    """Its size is 0, and its bytes come in parts."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with subprocess.Popen(["sh", "-c", f"(printf a; sleep 0.05; printf bc) > '{pipe}'"]):
        assert read_bytes(pipe) == b"abc"


def test_what_is_in_a_hidden_folder_is_hidden(tmp_path: Path) -> None:
    root = tmp_path / ".cache" / "set"  # the folder itself may be in one
    for name in ("a/b.txt", "a.txt", ".hidden/c.txt", "__MACOSX/a.txt", "a/.ipynb_checkpoints/b.txt", "a/._b.txt"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    assert globbed(root, "*.txt", "*/*.txt", "*/*/*.txt") == [root / "a/b.txt", root / "a.txt"]
    assert globbed(root, "**/*.txt") == [root / "a/b.txt", root / "a.txt"]


def test_whether_many_files_exist(tmp_path: Path) -> None:
    """As `exists`, before and after the folder is listed: files, folders, links, and what is missing."""
    names = [f"{n}.jpg" for n in range(FEW)]
    for name in names[:-3]:
        (tmp_path / name).touch()
    (tmp_path / names[-3]).mkdir()
    (tmp_path / names[-2]).symlink_to(names[0])
    (tmp_path / names[-1]).symlink_to("nowhere")
    paths = [tmp_path / name for name in [*names, "none.jpg", "no/folder.jpg", "0.jpg/x", "x" * 300]]
    known = existing()
    for _ in range(FEW + 1):
        assert [known(path) for path in paths] == [exists(path) for path in paths]
