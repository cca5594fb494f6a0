from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dataforge.errors import ShardError
from dataforge.shards.cache_origin import Origin
from dataforge.shards.reader import Shards
from dataforge.shards.table import Jagged, Table, check_values, read_tables, write_table
from tests import tiny

OBJECTS = ("boxes", "labels", "flags", "areas")


def jagged(counts: list[int], seed: int = 0) -> Jagged:
    n = sum(counts)
    rng = np.random.default_rng(seed)
    return Jagged(
        rng.uniform(0, 99, (n, 4)).astype(np.float32),
        rng.integers(0, 9, n).astype(np.int32),
        rng.integers(0, 8, n).astype(np.uint8),
        rng.uniform(0, 99, n).astype(np.float32),
        np.cumsum([0, *counts]),
    )


def facts(n: int, first: int = 0) -> dict[str, list[object]]:
    numbers = range(first, first + n)
    return {
        "key": [f"ordner/bild äöü {i}.jpg" for i in numbers],
        "id": [(1 << 60) + i for i in numbers],
        "height": [100 + i for i in numbers],
        "width": [200 + i for i in numbers],
        "orientation": [1 + i % 8 for i in numbers],
        "size": [(1 << 33) + i for i in numbers],
        "crc": [(1 << 32) - 1 - i for i in numbers],
    }


def write(path: Path, counts: list[int], first: int = 0, seed: int = 0) -> Jagged:
    rows = jagged(counts, seed)
    write_table(path, facts(len(counts), first), rows)
    return rows


def same(table: Table, columns: dict[str, list[object]], rows: Jagged) -> None:
    for name, values in columns.items():
        assert getattr(table, name).tolist() == values, name
    for name in (*OBJECTS, "offsets"):
        np.testing.assert_array_equal(getattr(table, name), getattr(rows, name), name)


counts_of_images = st.lists(st.integers(0, 5), max_size=12)


@settings(max_examples=50, deadline=None)
@given(counts_of_images, st.data())
def test_take_is_slicing_by_hand(tmp_path_factory: pytest.TempPathFactory, counts: list[int], data: st.DataObject):
    path = tmp_path_factory.mktemp("table") / "table.arrow"
    rows = write(path, counts)
    table = read_tables([path])
    same(table, facts(len(counts)), rows)
    if not counts:
        return
    index = data.draw(st.lists(st.integers(0, len(counts) - 1), max_size=9))
    taken = table.take(np.array(index, np.int64))
    assert np.diff(taken.offsets).tolist() == [counts[i] for i in index]
    for name in OBJECTS:
        whole = getattr(rows, name)
        parts = [whole[rows.offsets[i] : rows.offsets[i + 1]] for i in index]
        np.testing.assert_array_equal(getattr(taken, name), np.concatenate([whole[:0], *parts]))
    assert table.image.tolist() == [i for i, n in enumerate(counts) for _ in range(n)]


@settings(max_examples=40, deadline=None)
@given(st.lists(counts_of_images, min_size=1, max_size=4))
def test_several_shards_read_as_one(tmp_path_factory: pytest.TempPathFactory, shards: list[list[int]]):
    folder = tmp_path_factory.mktemp("tables")
    paths, parts, first = [], [], 0
    for number, counts in enumerate(shards):
        paths.append(folder / f"{number}.arrow")
        parts.append(write(paths[-1], counts, first, seed=number))
        first += len(counts)
    counts = [n for part in shards for n in part]
    whole = Jagged(
        *(np.concatenate([getattr(part, name) for part in parts]) for name in OBJECTS), np.cumsum([0, *counts])
    )
    same(read_tables(paths), facts(len(counts)), whole)


def test_dtypes_of_one_and_of_several_shards(tmp_path: Path) -> None:
    write(tmp_path / "a", [2, 0, 1])
    write(tmp_path / "b", [1])
    expected = {"id": "i8", "height": "i4", "width": "i4", "orientation": "u1", "size": "i8", "crc": "u4"}
    expected |= {"offsets": "i8", "boxes": "f4", "labels": "i4", "flags": "u1", "areas": "f4"}
    for paths in ([], [tmp_path / "a"], [tmp_path / "a", tmp_path / "b"]):
        table = read_tables(paths)
        assert {name: getattr(table, name).dtype.str[1:] for name in expected} == expected
        assert table.boxes.shape == (len(table.labels), 4)


def test_a_single_shards_columns_are_not_copied(tmp_path: Path) -> None:
    write(tmp_path / "table.arrow", [3] * 50_000)
    before = pa.total_allocated_bytes()
    table = read_tables([tmp_path / "table.arrow"])
    assert pa.total_allocated_bytes() - before < 10_000  # of 5 MB
    for name in ("id", "height", "width", "orientation", "size", "crc", *OBJECTS):
        column = getattr(table, name)
        assert not column.flags.owndata and not column.flags.writeable, name


def test_a_table_outlives_the_file(tmp_path: Path) -> None:
    (tmp_path / "t").mkdir()
    rows = write(tmp_path / "t/table.arrow", [2, 3])
    table = read_tables([tmp_path / "t/table.arrow"])
    shutil.rmtree(tmp_path / "t")
    same(table, facts(2), rows)


def test_damaged_and_foreign_files_are_errors(tmp_path: Path) -> None:
    file = tmp_path / "table.arrow"
    with pytest.raises(ShardError, match=r"table\.arrow: cannot be read"):
        read_tables([file])
    for content in (b"", b"ARROW1", b"x" * 5000):
        file.write_bytes(content)
        with pytest.raises(ShardError, match=r"table\.arrow: cannot be read"):
            read_tables([file])
    write(file, [1, 2])
    whole = file.read_bytes()
    for part in (0.3, 0.9):
        file.write_bytes(whole[: int(len(whole) * part)])
        with pytest.raises(ShardError, match=r"table\.arrow: cannot be read"):
            read_tables([file])
    other = pa.table({"key": ["a"], "height": [1]})
    with pa.OSFile(str(file), "wb") as sink, pa.ipc.new_file(sink, other.schema) as writer:
        writer.write_table(other)
    with pytest.raises(ShardError, match=r"columns \['key', 'height'\]; expected \['key', 'id'"):
        read_tables([file])


@pytest.mark.parametrize("area", [-1.0, float("inf"), float("nan")])
def test_an_area_that_none_can_have(tmp_path: Path, area: float) -> None:
    rows = jagged([2, 1])
    rows.areas[2] = area
    write_table(tmp_path / "table.arrow", facts(2), rows)
    with pytest.raises(ShardError, match=rf"record 1 \(ordner/bild äöü 1.jpg\) has areas {area}"):
        check_values(read_tables([tmp_path / "table.arrow"]), 9, tmp_path)


def test_the_largest_area_stays_finite_in_source_pixels(tmp_path: Path) -> None:
    rows = jagged([1])
    rows.areas[0] = np.finfo(np.float32).max
    write_table(tmp_path / "table.arrow", facts(1), rows)
    size, halved = np.array([1000], np.int32), np.diag([0.5, 0.5, 1.0])[None]
    table = Origin(size, size, halved).home(read_tables([tmp_path / "table.arrow"]))
    assert np.isfinite(table.areas).all()


def test_shards_of_one_set_hold_the_same_as_one_shard(tmp_path: Path) -> None:
    one = Shards(tiny.shards(tmp_path / "one"))
    many = Shards(tiny.shards(tmp_path / "many", shard_bytes=4000))
    assert len(many.index["splits"]["train"]) > 3
    same(many.table, {name: getattr(one.table, name).tolist() for name in facts(0)}, one.table)  # type: ignore[arg-type]
    for i in range(len(one)):
        assert one.blob(i) == many.blob(i)
    left, right = one.info(), many.info()
    for name in ("fingerprint", "index_crc"):
        assert left.pop(name) != right.pop(name)
    assert left == right
