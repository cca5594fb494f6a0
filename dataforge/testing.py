"""The test suite of blob stores, for those that others write too. It needs pytest, which dataforge does not install.

from dataforge.testing import BlobStoreSuite

class TestMyStore(BlobStoreSuite):
    store = MyStore
"""

from __future__ import annotations

import multiprocessing
import os
import pickle
import shutil
import stat
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from dataforge.errors import ShardError
from dataforge.shards.stores.registry import BlobStore

__all__ = ["BlobStoreSuite"]


def blob(i: int) -> bytes:
    """Blob i; the sizes run over 0, 1, a page more or less, and many others."""
    size = (0, 1, 2, 4095, 4096, 4097, 65537)[i] if i < 7 else i * 131 % 9973
    return np.random.default_rng(i).bytes(size)


def files(path: Path) -> list[Path]:
    return sorted(file for file in path.rglob("*") if file.is_file())


def read_in_child(store: type[BlobStore], path: Path, i: int) -> bytes:
    return bytes(store.open(path)[i])


class BlobStoreSuite:
    """What every `BlobStore` must do: order, sizes, threads, processes, forks, torn files, equal bytes.

    Attributes:
        store: the class to test; it must be importable by its module and name, since other processes read it too.
    """

    store: type[BlobStore]
    COUNT = 40

    def make(self, path: Path, count: int = COUNT) -> Path:
        path.mkdir(parents=True, exist_ok=True)
        blobs = self.store.create(path)
        for i in range(count):
            blobs.append(blob(i))
        assert len(blobs) == count
        blobs.close()
        return path

    def open(self, path: Path) -> BlobStore:
        return self.store.open(path)

    @pytest.fixture
    def made(self, tmp_path: Path) -> Path:
        return self.make(tmp_path / "shard")

    def test_gives_back_what_was_appended_in_any_order(self, made: Path) -> None:
        blobs = self.open(made)
        assert len(blobs) == self.COUNT
        for i in np.random.default_rng(0).permutation(self.COUNT).tolist():
            assert isinstance(blobs[i], memoryview)
            assert blobs[i] == blob(i)

    @pytest.mark.parametrize("i", [40, 41, 1 << 40])
    def test_a_number_past_the_end_is_an_error(self, made: Path, i: int) -> None:
        with pytest.raises(ShardError, match=str(i)):
            self.open(made)[i]

    def test_an_empty_store_opens(self, tmp_path: Path) -> None:
        assert len(self.open(self.make(tmp_path / "shard", 0))) == 0

    def test_large_blobs_and_growth(self, tmp_path: Path) -> None:
        large = [np.random.default_rng(i).bytes(5_000_000 + i) for i in range(8)]  # 40 MB: more than one commit
        blobs = self.store.create(tmp_path)
        for data in large:
            blobs.append(data)
        blobs.append(b"")
        blobs.close()
        opened = self.open(tmp_path)
        assert [bytes(opened[i]) == data for i, data in enumerate([*large, b""])] == [True] * 9

    def test_views_outlive_the_store_and_its_neighbours(self, made: Path) -> None:
        blobs = self.open(made)
        views = [blobs[i] for i in range(self.COUNT)]
        blobs.close()
        del blobs
        assert [view == blob(i) for i, view in enumerate(views)] == [True] * self.COUNT

    def test_two_readers_of_one_file_in_one_process(self, made: Path) -> None:
        first, second = self.open(made), self.open(made)
        assert first[9] == second[9] == blob(9)
        first.close()
        assert second[10] == blob(10)

    def test_threads_share_a_reader(self, made: Path) -> None:
        blobs = self.open(made)
        with ThreadPoolExecutor(8) as pool:
            same = list(pool.map(lambda i: blobs[i % self.COUNT] == blob(i % self.COUNT), range(2000)))
        assert all(same)

    def test_threads_that_come_and_go(self, made: Path) -> None:
        blobs = self.open(made)
        for turn in range(300):
            with ThreadPoolExecutor(2) as pool:
                assert list(pool.map(lambda i: bytes(blobs[i]), [turn % 40, 3])) == [blob(turn % 40), blob(3)]

    @pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
    @pytest.mark.parametrize("method", ["fork", "spawn"])
    def test_other_processes_read_it(self, made: Path, method: str) -> None:
        if method not in multiprocessing.get_all_start_methods():
            pytest.skip(f"no {method} here")
        before = self.open(made)
        assert before[8] == blob(8)  # the parent holds it open meanwhile
        with multiprocessing.get_context(method).Pool(2) as pool:
            found = pool.starmap(read_in_child, [(self.store, made, i) for i in range(10)])
            pool.close()  # children that are terminated may have a handler of the parent, as Ray sets one
            pool.join()
        assert found == [blob(i) for i in range(10)]
        assert before[11] == blob(11)

    @pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
    @pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
    def test_a_reader_that_was_open_at_the_fork(self, made: Path) -> None:
        blobs = self.open(made)
        assert blobs[8] == blob(8)
        child = os.fork()
        if child == 0:
            os._exit(0 if all(blobs[i] == blob(i) for i in range(self.COUNT)) else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert blobs[12] == blob(12)

    def test_a_second_store_at_the_path_of_a_deleted_one(self, tmp_path: Path) -> None:
        old = self.open(self.make(tmp_path / "shard", 3))
        view = old[2]
        shutil.rmtree(tmp_path / "shard")
        new = self.open(self.make(tmp_path / "shard"))
        assert len(new) == self.COUNT
        assert new[20] == blob(20)
        assert view == blob(2)

    def test_a_store_without_its_files_is_an_error(self, made: Path) -> None:
        for file in files(made):
            file.unlink()
        with pytest.raises(ShardError, match="shard"):
            self.open(made)[0]

    @pytest.mark.parametrize("keep", [0.0, 0.1, 0.5])
    def test_a_torn_file_is_an_error_and_never_other_bytes(self, made: Path, keep: float) -> None:
        for file in files(made):
            os.truncate(file, int(file.stat().st_size * keep))
        code = f"import sys\nfrom pathlib import Path\nsys.path[:] = {sys.path!r}\n"
        code += f"from dataforge.testing import judge\nfrom {self.store.__module__} import {self.store.__name__}\n"
        code += f"sys.exit(judge({self.store.__name__}, Path({str(made)!r})))"
        # in a process of its own, so that a bus error is seen as a failure
        done = subprocess.run([sys.executable, "-c", code], timeout=60, check=False)
        assert done.returncode == 0

    def test_a_read_only_folder(self, made: Path) -> None:
        for file in files(made):
            file.chmod(stat.S_IRUSR)
        made.chmod(stat.S_IRUSR | stat.S_IXUSR)
        before = files(made)
        try:
            assert self.open(made)[5] == blob(5)
            assert files(made) == before  # no lock file or the like
        finally:
            made.chmod(stat.S_IRWXU)

    def test_it_pickles_as_its_path(self, made: Path) -> None:
        blobs = self.open(made)
        assert blobs[9] == blob(9)  # what is mapped does not travel
        data = pickle.dumps(blobs)
        assert len(data) < 1000 and pickle.loads(data)[9] == blob(9)

    def test_abort_writes_no_more(self, tmp_path: Path) -> None:
        blobs = self.store.create(tmp_path)
        blobs.append(blob(6))
        blobs.abort()
        blobs.abort()
        with pytest.raises(ShardError):
            self.open(tmp_path)[0]

    def test_a_folder_that_is_not_there_cannot_be_created_in(self, tmp_path: Path) -> None:
        with pytest.raises(ShardError, match="nowhere"):
            self.store.create(tmp_path / "nowhere")

    def test_reading_writes_nothing(self, made: Path) -> None:
        def state() -> list[tuple[str, int, int]]:
            return [(f.name, f.stat().st_mtime_ns, f.stat().st_size) for f in files(made)]

        before = state()
        assert self.open(made)[7] == blob(7)
        assert state() == before

    def test_the_same_blobs_make_the_same_files(self, tmp_path: Path) -> None:
        first, second = self.make(tmp_path / "a"), self.make(tmp_path / "b")
        names = [file.relative_to(first) for file in files(first)]
        assert names == [file.relative_to(second) for file in files(second)]
        for name in names:
            assert (first / name).read_bytes() == (second / name).read_bytes()


def judge(store: type[BlobStore], path: Path) -> int:
    """0 when each blob of a torn store is a ShardError or right, and not all can be read."""
    blobs = store.open(path)
    torn = 0
    for i in range(BlobStoreSuite.COUNT):
        try:
            if blobs[i] != blob(i):
                return 1
        except ShardError:
            torn += 1
    return 0 if torn else 2
