from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dataforge.errors import ShardError
from dataforge.shards.stores.rows import RowsStore
from dataforge.testing import BlobStoreSuite


def make(path: Path, lengths: list[int]) -> list[bytes]:
    blobs = [np.random.default_rng(i).bytes(length) for i, length in enumerate(lengths)]
    written = RowsStore.create(path)
    for one in blobs:
        written.append(one)
    written.close()
    return blobs


class TestRows(BlobStoreSuite):
    store = RowsStore


@given(st.lists(st.sampled_from([0, 6, 12]), max_size=20), st.randoms())
def test_gather_is_what_reading_one_by_one_gives(tmp_path_factory, lengths, random) -> None:  # type: ignore[no-untyped-def]
    path = tmp_path_factory.mktemp("rows")
    blobs = make(path, lengths)
    opened = RowsStore.open(path)
    assert [bytes(opened[i]) for i in range(len(opened))] == blobs
    for length in (6, 12):
        index = [i for i, one in enumerate(blobs) if len(one) == length for _ in range(2)]  # some rows twice
        random.shuffle(index)
        out = np.zeros((len(index), length // 6, 2, 3), np.uint8)
        opened.gather(np.array(index, np.int64), out)
        assert [row.tobytes() for row in out] == [blobs[i] for i in index]


def test_files_are_plain_arrays(tmp_path: Path) -> None:
    blobs = make(tmp_path, [12, 6, 12, 12])
    assert sorted(file.name for file in tmp_path.iterdir()) == ["12.rows", "6.rows", "lengths.npy"]
    assert np.load(tmp_path / "lengths.npy").tolist() == [12, 6, 12, 12]
    rows = np.memmap(tmp_path / "12.rows", np.uint8, "r", shape=(3, 2, 2, 3))
    assert [row.tobytes() for row in rows] == [blobs[0], blobs[2], blobs[3]]


@pytest.mark.parametrize("change", [-1, 12])
def test_a_file_of_another_size(tmp_path: Path, change: int) -> None:
    make(tmp_path, [12, 6, 12])
    os.truncate(tmp_path / "12.rows", 24 + change)
    opened = RowsStore.open(tmp_path)
    with pytest.raises(ShardError, match=rf"12.rows: .* {24 + change} of 24 bytes"):
        opened.gather(np.array([0]), np.zeros((1, 12), np.uint8))
    assert len(opened[1]) == 6


def test_threads_fill_one_batch(tmp_path: Path) -> None:
    blobs = make(tmp_path, [3000] * 200)
    opened, out = RowsStore.open(tmp_path), np.zeros((1600, 50, 20, 3), np.uint8)
    index = np.random.default_rng(0).integers(0, 200, 1600)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda a: opened.gather(index[a : a + 100], out[a : a + 100]), range(0, 1600, 100)))
    assert all(out[k].tobytes() == blobs[i] for k, i in enumerate(index.tolist()))
