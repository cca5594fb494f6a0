from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import lmdb
import pytest

from dataforge.errors import ShardError
from dataforge.shards.stores.lmdb import LmdbStore
from dataforge.testing import BlobStoreSuite, blob


class TestLmdb(BlobStoreSuite):
    store = LmdbStore

    def test_any_lmdb_reads_it_by_the_documented_keys(self, made: Path) -> None:
        with lmdb.open(str(made / "blobs.mdb"), subdir=False, readonly=True, lock=False) as env, env.begin() as txn:
            found = dict(txn.cursor())
        assert found == {i.to_bytes(8, "big"): blob(i) for i in range(self.COUNT)}

    def test_the_map_grows_when_it_is_full(self, tmp_path: Path) -> None:
        store = LmdbStore.create(tmp_path)
        assert store._writer is not None
        store._writer.set_mapsize(1 << 20)
        for i in range(3):
            store.append(bytes([i]) * (3 << 20))
            store._flush()  # one commit each, so that the map is outgrown in mid-file as well
        store.close()
        assert [store.open(tmp_path)[i][:2] for i in range(3)] == [b"\0\0", b"\1\1", b"\2\2"]

    def test_a_full_disk_is_told_by_the_free_space(self, tmp_path: Path) -> None:
        def begin(write: bool) -> None:
            raise lmdb.Error("mdb_txn_commit: Input/output error")  # what LMDB says of it

        store = LmdbStore.create(tmp_path)
        assert store._writer is not None
        store._writer = SimpleNamespace(begin=begin, close=store._writer.close)  # type: ignore[assignment]
        store.append(b"x")
        with pytest.raises(ShardError, match=r"blobs\.mdb: cannot be written: .*output error; \d+\.\d MB are free"):
            store.close()

    def test_a_count_that_the_file_cannot_hold(self, made: Path) -> None:
        path = made / "blobs.mdb"
        data = bytearray(path.read_bytes())
        for start in (0, 4096):  # the field of the main database in both meta pages
            data[start + 120 : start + 128] = b"\xff" * 8
        path.write_bytes(data)
        with pytest.raises(ShardError, match="is damaged: 18446744073709551615 blobs in"):
            len(LmdbStore.open(made))
