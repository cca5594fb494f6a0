"""Flushing and locking under the rules of other systems."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from dataforge.files import flush, lock_file

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
