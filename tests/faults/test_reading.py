"""Files that fail under a running loader: an error that names the file, never a wrong batch, a hang or a signal."""

from __future__ import annotations

import errno
import os
import resource
import shutil
import sys
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from dataforge import Batch, Loader, Shards
from dataforge.formats.coco import read
from dataforge.images import synth
from dataforge.ingest.run import ingest
from dataforge.shards.file_bytes import FileBytes
from dataforge.shards.stores.zarr import ZarrStore
from dataforge.transform.bake import Form, bake
from tests.faults.inject import run

pytestmark = [
    pytest.mark.skipif(sys.platform == "win32", reason="forks"),
    pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning"),
]
BLOBS = {"lmdb": "blobs.mdb", "memmap": "blobs.bin", "zarr": "blobs.zarr", "raw": "64x64x3", "yuv420": "96x64"}


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A set of each store, of 10 pictures to train with, in shards of one; a raw cache has one shard."""
    root = tmp_path_factory.mktemp("sets")
    synth.write(root / "pictures", images=12, size=(64, 96))
    for store in ("lmdb", "memmap", "zarr"):
        ingest(read(root / "pictures"), root / store, store_name=store, shard_bytes=1, source_name="coco")
    for name in ("raw", "yuv420"):
        bake(Shards(root / "lmdb"), root / name, Form(shapes=((64, 64),), raw=True, yuv420=name == "yuv420"))
    return root


OPENS = {"lmdb": FileBytes, "memmap": FileBytes, "raw": FileBytes, "yuv420": FileBytes, "zarr": ZarrStore}


@pytest.mark.parametrize("name", BLOBS)
def test_a_fork_while_a_thread_opens_a_store(sets: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The thread holds the store's locks, and is not in the child."""
    shards, parent, begun, go = Shards(sets / name), os.getpid(), threading.Event(), threading.Event()
    what, method = OPENS[name], "_check" if name == "zarr" else "__init__"
    real = getattr(what, method)

    def slow(*arguments: Any, **options: Any) -> Any:
        if os.getpid() == parent:
            begun.set()
            go.wait()
        return real(*arguments, **options)

    monkeypatch.setattr(what, method, slow)
    thread = threading.Thread(target=shards.blob, args=(0,))
    thread.start()
    begun.wait()
    ended = run(lambda: sys.exit(zlib.crc32(shards.blob(0)) != shards.table.crc[0]), sets)
    go.set()
    thread.join()
    assert ended.ended == "done", ended


def test_a_forked_process_does_not_wait_for_batches_of_its_parent(sets: Path) -> None:
    loader = Loader(sets / "lmdb", batch_size=2, size=(64, 64), threads=2)
    batches = iter(loader)
    next(batches)
    ended = run(lambda: print(next(batches)), sets)
    assert ended.ended == "refused" and f"threads of process {os.getpid()}" in ended.text, ended
    assert run(lambda: print(next(iter(loader))), sets).ended == "done"
    assert len(list(batches)) == len(loader) - 1


def batches(root: Path) -> Iterator[Batch]:
    """Two equal epochs; the second does not compare images with their CRC-32."""
    loader = Loader(root, batch_size=2, size=(64, 64), threads=2, on_error="skip")
    for _ in range(2):
        loader.set_epoch(0)
        yield from loader


def cut(files: list[Path]) -> None:
    used = 0.0
    while time.process_time() - used > 0.01:  # until the threads have read ahead: a cut during a read of mapped pixels
        used = time.process_time()  # is a bus error
        time.sleep(0.2)
    for file in files:
        os.truncate(file, 1)


def remove(files: list[Path]) -> None:
    for file in files:
        file.unlink()


def lock(files: list[Path]) -> None:
    for file in files:
        file.chmod(0)
    if os.getuid() == 0:
        os.setuid(65534)


def open_no_more(files: list[Path]) -> None:
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, 0))


def fail(files: list[Path]) -> None:
    for owner, name in ((os, "pread"), (Path, "open"), (Path, "read_bytes")):  # the latter two are Zarr's
        mock.patch.object(owner, name, side_effect=OSError(errno.EIO, os.strerror(errno.EIO))).start()


@pytest.mark.parametrize("after", [0, 5], ids=["first epoch", "second epoch"])
@pytest.mark.parametrize("fault", [cut, remove, lock, open_no_more, fail])
@pytest.mark.parametrize("name", BLOBS)
def test_a_file_that_fails(
    sets: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    fault: Callable[[list[Path]], None],
    after: int,
) -> None:
    monkeypatch.setattr("dataforge.loading.ahead.READ_AHEAD", 0)  # with more, all files of a small set are open
    root = tmp_path / name
    shutil.copytree(sets / name, root)
    expected = [batch.images.clone() for batch in batches(root)]

    def command() -> None:
        for n, batch in enumerate(batches(root)):
            assert batch.images.equal(expected[n]), f"batch {n} differs"
            if n == after:
                files = [file for file in root.glob(f"train/*/{BLOBS[name]}/**/*") if file.is_file()]
                fault(files or list(root.glob(f"train/*/{BLOBS[name]}")))

    ended = run(command, root)
    # what is open goes on: a file that was removed is there until it is closed, and a mapped one needs no reading
    goes_on = fault is not cut and (after > 0 or name in ("raw", "yuv420"))
    assert ended.ended == "refused" or (ended.ended == "done" and goes_on), ended
    assert ended.ended == "done" or BLOBS[name] in ended.text, ended.text
