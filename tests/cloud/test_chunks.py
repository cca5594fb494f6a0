"""Files at URLs by chunks: what is fetched, and what becomes of chunks that cannot be kept or are damaged."""

from __future__ import annotations

import os
import resource
import time
from pathlib import Path

import pytest

from dataforge.cloud import chunks
from dataforge.cloud.chunks import Cache, RemoteFile
from dataforge.cloud.path import located
from dataforge.cloud.requests import requests
from tests.cloud.double import BUCKET, Double

CHUNK = 1 << 10
DATA = os.urandom(64 * CHUNK)


@pytest.fixture
def file(s3: Double, monkeypatch: pytest.MonkeyPatch) -> RemoteFile:
    """64 chunks, of which 8 are fetched ahead."""
    monkeypatch.setattr(chunks, "CHUNK", CHUNK)
    monkeypatch.setattr(chunks, "REQUEST", 4 * CHUNK)
    monkeypatch.setattr(chunks, "AHEAD", 8 * CHUNK)
    path = located(f"s3://{BUCKET}/chunks")
    with requests(path) as obstore:
        obstore.put(path.bucket, path.key, DATA)
    return RemoteFile(path)


def read(file: RemoteFile, *numbers: int) -> set[int]:
    """Read a few bytes of each of these chunks, and return those that were fetched."""
    for number in numbers:
        assert file.read(number * CHUNK + 100, 50) == DATA[number * CHUNK + 100 :][:50]
    while file._flying:
        time.sleep(0.01)
    return {int(path.name.rpartition("-")[2]) for path in file._cache.folder.glob("*/*")}


def test_random_reads_fetch_no_more_than_they_need(file: RemoteFile) -> None:
    assert read(file, 0) == {0}, "one read, at the start of the file, is no order"
    assert read(file, 40, 42, 39, 2) == {0, 2, 39, 40, 42}


def test_successive_reads_fetch_ahead(file: RemoteFile) -> None:
    assert read(file, 20) == {20}
    assert read(file, 20, 21) == set(range(20, 30))
    assert read(file, 22, 25, 29) == set(range(20, 30)), "those that have come are read without a request"
    assert read(file, 30) == set(range(20, 39))
    assert read(file, 5, 6) == {*range(5, 15), *range(20, 39)}


def test_reads_of_a_directory_between_do_not_hide_the_order(file: RemoteFile) -> None:
    """As LMDB's pages, which say where each blob lies."""
    assert read(file, 50, 10) == {10, 50}
    assert read(file, 50, 11, 50) == {*range(10, 20), 50}


def test_a_whole_file_is_fetched_by_large_requests(s3: Double, file: RemoteFile) -> None:
    s3.requests.clear()
    assert file.read(0, file.size) == DATA and len(s3.requests) == 64 // 4


def test_a_chunk_that_does_not_fit_the_disk_is_not_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Which is told once: nothing fails, but bytes are fetched again and again."""
    cache = Cache(tmp_path, 1 << 30)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, limits[1]))  # the system writes so many bytes, then refuses
    try:
        for _ in range(2):
            cache.write("set/1", memoryview(bytes(50_000)))
        cache.write("set/2", memoryview(bytes(30_000)))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    told = f"DATAFORGE_CACHE {tmp_path}: cannot be written: File too large; what is not kept there is fetched again\n"
    assert capsys.readouterr().err == told
    assert [path.name for path in tmp_path.glob("*/*")] == ["2"]
    assert cache.read("set/1", 0, 10) is None and cache.read("set/2", 0, 10) == bytes(10)


@pytest.mark.parametrize("damage", ["bit", "cut", "longer", "zeros", "empty"])
def test_a_damaged_chunk_is_removed(tmp_path: Path, damage: str) -> None:
    writer, cache = Cache(tmp_path, 1 << 30), Cache(tmp_path, 1 << 30)
    writer.write("set/1", memoryview(os.urandom(300_000)))
    path = tmp_path / "set/1"
    whole = path.read_bytes()
    flipped = whole[:200_000] + bytes([whole[200_000] ^ 1]) + whole[200_001:]
    other = {"bit": flipped, "cut": whole[:-1], "longer": whole + b"\0", "zeros": bytes(len(whole)), "empty": b""}
    path.write_bytes(other[damage])
    assert cache.read("set/1", 0, 10) is None and not path.exists()


def test_use_is_noted_at_intervals(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = Cache(tmp_path, 1 << 30)
    cache.write("set/1", memoryview(bytes(10)))
    os.utime(tmp_path / "set/1", (0, 0))
    Cache(tmp_path, 1 << 30).read("set/1", 0, 1)
    assert (tmp_path / "set/1").stat().st_mtime > 0, "by another process at its first use"
    os.utime(tmp_path / "set/1", (0, 0))
    cache.read("set/1", 0, 1)
    assert (tmp_path / "set/1").stat().st_mtime == 0, "it was noted when it was written"
    monkeypatch.setattr(chunks, "USED", -1)
    cache.read("set/1", 0, 1)
    assert (tmp_path / "set/1").stat().st_mtime > 0


def test_a_chunk_whose_use_cannot_be_noted_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a disk that is mounted to be read only, or where the chunk is another user's."""
    Cache(tmp_path, 1 << 30).write("set/1", memoryview(b"0123456789"))

    def denied(*_: object) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "utime", denied)
    assert Cache(tmp_path, 1 << 30).read("set/1", 2, 3) == b"234"


def test_a_set_that_another_process_removes_while_chunks_are_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache, scandir = Cache(tmp_path, 1000), os.scandir
    cache.write("set/1", memoryview(bytes(900)))
    cache.write("other/1", memoryview(bytes(90)))

    def late(folder: str | Path) -> object:
        if Path(folder).name == "set":
            (tmp_path / "set/1").unlink()
            (tmp_path / "set").rmdir()
        return scandir(folder)

    monkeypatch.setattr(os, "scandir", late)
    cache.write("other/2", memoryview(bytes(90)))
    assert {str(path.relative_to(tmp_path)) for path in tmp_path.glob("*/*")} == {"other/1", "other/2"}
