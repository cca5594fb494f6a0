from __future__ import annotations

import json
import math
import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tensordict import TensorDict

from dataforge.errors import ShardError
from dataforge.shards.stores.rows import RowsStore
from dataforge.testing import BlobStoreSuite

Shape = tuple[int, ...]


def make(path: Path, shapes: list[Shape]) -> list[np.ndarray]:
    blobs = [np.random.default_rng(i).integers(0, 256, shape, np.uint8) for i, shape in enumerate(shapes)]
    written = RowsStore.create(path)
    for blob in blobs:
        written.append(blob.data)
    written.close()
    return blobs


class TestRows(BlobStoreSuite):
    store = RowsStore


SHAPES = [(2, 3, 1), (3, 2, 1), (6,), (2, 2, 3), (0,), (4, 0, 3)]  # three of one length, two of none


@settings(deadline=None)
@given(st.lists(st.sampled_from(SHAPES), max_size=20), st.randoms())
def test_gather_is_what_reading_one_by_one_gives(tmp_path_factory, shapes, random) -> None:  # type: ignore[no-untyped-def]
    path = tmp_path_factory.mktemp("rows")
    blobs = make(path, shapes)
    opened = RowsStore.open(path)
    assert [bytes(opened[i]) for i in range(len(opened))] == [blob.tobytes() for blob in blobs]
    for shape in filter(math.prod, set(shapes)):
        index = [i for i, other in enumerate(shapes) if other == shape for _ in range(2)]  # some rows twice
        random.shuffle(index)
        out = np.zeros((len(index), *shape), np.uint8)
        opened.gather(np.array(index, np.int64), out)
        np.testing.assert_array_equal(out, [blobs[i] for i in index])


@settings(deadline=None)
@given(shapes=st.lists(st.sampled_from(SHAPES), max_size=12))
def test_tensordict_opens_it(tmp_path_factory, shapes) -> None:  # type: ignore[no-untyped-def]
    path = tmp_path_factory.mktemp("rows")
    blobs = make(path, shapes)
    stored = TensorDict.load_memmap(path)
    assert set(stored.keys()) == {"x".join(map(str, shape)) for shape in shapes}
    numbers = []
    for part in stored.values():
        assert part.batch_size == part["record"].shape
        for pixels, number in zip(part["pixels"].numpy(), part["record"].tolist(), strict=True):
            np.testing.assert_array_equal(pixels, blobs[number])
            numbers.append(number)
    assert sorted(numbers) == list(range(len(blobs)))


def test_it_is_written_as_tensordict_writes(tmp_path: Path) -> None:
    for folder in ("ours", "theirs"):
        (tmp_path / folder).mkdir()
    blobs = make(tmp_path / "ours", [(4, 5, 3), (5, 4, 3), (0,), (4, 5, 3)])

    def part(*numbers: int) -> TensorDict:
        pixels = torch.from_numpy(np.stack([blobs[i] for i in numbers]))
        return TensorDict({"pixels": pixels, "record": torch.tensor(numbers)}, batch_size=[len(numbers)])

    parts = {"4x5x3": part(0, 3), "5x4x3": part(1), "0": part(2)}
    TensorDict(parts, batch_size=[]).memmap(tmp_path / "theirs")
    files = [
        {
            str(file.relative_to(tmp_path / folder)): (
                json.loads(file.read_text()) if file.suffix == ".json" else file.read_bytes()
            )
            for file in (tmp_path / folder).rglob("*")
            if file.is_file()
        }
        for folder in ("ours", "theirs")
    ]
    assert files[0] == files[1]


def test_files_are_plain_arrays(tmp_path: Path) -> None:
    blobs = make(tmp_path, [(2, 2, 3), (6,), (2, 2, 3), (2, 2, 3)])
    assert sorted(file.name for file in tmp_path.iterdir()) == ["2x2x3", "6", "meta.json"]
    assert np.fromfile(tmp_path / "2x2x3/record.memmap", "<i8").tolist() == [0, 2, 3]
    rows = np.memmap(tmp_path / "2x2x3/pixels.memmap", np.uint8, "r", shape=(3, 2, 2, 3))
    np.testing.assert_array_equal(rows, [blobs[0], blobs[2], blobs[3]])


@pytest.mark.parametrize("change", [-1, 12])
def test_a_file_of_another_size(tmp_path: Path, change: int) -> None:
    make(tmp_path, [(12,), (6,), (12,)])
    os.truncate(tmp_path / "12/pixels.memmap", 24 + change)
    opened = RowsStore.open(tmp_path)
    with pytest.raises(ShardError, match=rf"12/pixels.memmap: .* {24 + change} of 24 bytes"):
        opened.gather(np.array([0]), np.zeros((1, 12), np.uint8))
    assert len(opened[1]) == 6


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("meta.json", b"{", "is damaged"),
        ("meta.json", b"[1]", "is damaged"),
        ("meta.json", b'{"7": {"type": "TensorDict"}}', "7/meta.json: cannot be read"),
        ("12/meta.json", b'{"pixels": {"shape": ["a"]}}', "no shape of pixels"),
        ("12/meta.json", b'{"pixels": {"shape": 3}}', "no shape of pixels"),
        ("12/meta.json", b'{"pixels": {"shape": []}}', "no shape of pixels"),
        ("12/meta.json", b'{"pixels": 3}', "no shape of pixels"),
        ("12/meta.json", b"{}", "no shape of pixels"),
        ("12/record.memmap", np.array([0], "<i8").tobytes(), "1 of 2 numbers"),
        ("12/record.memmap", np.array([0, 1], "<i8").tobytes(), "are not 0 to 2"),
        ("12/record.memmap", np.array([0, 1 << 40], "<i8").tobytes(), "are not 0 to 2"),
    ],
)
def test_a_damaged_list(tmp_path: Path, file: str, content: bytes, message: str) -> None:
    make(tmp_path, [(12,), (6,), (12,)])
    (tmp_path / file).write_bytes(content)
    with pytest.raises(ShardError, match=message) as raised:
        RowsStore.open(tmp_path)[0]
    assert str(tmp_path) in str(raised.value)


def test_the_layout_before_tensordict_is_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "lengths.npy", np.array([6, 6]))
    (tmp_path / "6.rows").write_bytes(bytes(12))
    with pytest.raises(ShardError, match="older layout; remove the cache and bake it again"):
        RowsStore.open(tmp_path)[0]


def test_a_folder_without_its_pixels(tmp_path: Path) -> None:
    make(tmp_path, [(12,), (6,), (12,)])
    shutil.rmtree(tmp_path / "12")
    with pytest.raises(ShardError, match=r"12/meta\.json: cannot be read: No such file"):
        RowsStore.open(tmp_path)[1]


def test_threads_fill_one_batch(tmp_path: Path) -> None:
    blobs = make(tmp_path, [(50, 20, 3)] * 200)
    opened, out = RowsStore.open(tmp_path), np.zeros((1600, 50, 20, 3), np.uint8)
    index = np.random.default_rng(0).integers(0, 200, 1600)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda a: opened.gather(index[a : a + 100], out[a : a + 100]), range(0, 1600, 100)))
    assert all((out[k] == blobs[i]).all() for k, i in enumerate(index.tolist()))
