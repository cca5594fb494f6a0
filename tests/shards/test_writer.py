from __future__ import annotations

import os
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from dataforge.errors import ConfigError, ShardError
from dataforge.images.header import probe
from dataforge.record import Record
from dataforge.shards.index import INDEX, REPORT, read_index
from dataforge.shards.reader import Shards
from dataforge.shards.writer import ShardWriter
from tests import tiny


def files(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def add(writer: ShardWriter, record: Record) -> None:
    assert isinstance(record.image, bytes)
    writer.add(record, record.image, probe(record.image))


def test_what_goes_in_comes_out(tiny_shards: Path) -> None:
    shards = Shards(tiny_shards, "val")
    records = tiny.records("val")
    assert len(shards) == len(records)
    assert shards.classes == tiny.CLASSES and shards.class_ids == tiny.CLASS_IDS
    for i, record in enumerate(records):
        assert isinstance(record.image, bytes)
        assert shards.blob(i) == record.image
        assert shards.table.key[i] == record.key and shards.table.id[i] == record.id
        assert (shards.table.height[i], shards.table.width[i]) == (record.height, record.width)
        assert shards.table.crc[i] == zlib.crc32(record.image) and shards.table.size[i] == len(record.image)
        rows = shards.table.take(np.array([i]))
        np.testing.assert_array_equal(rows.boxes, record.boxes)
        np.testing.assert_array_equal(rows.labels, record.labels)
        np.testing.assert_array_equal(rows.flags, record.flags)
    assert shards.table.orientation[4] == 6


def test_areas_are_the_sources_or_the_boxes(tmp_path: Path) -> None:
    first, second = tiny.records()[:2]
    with ShardWriter(tmp_path / "s", tiny.CLASSES) as writer:
        add(writer, replace(first, areas=np.full(len(first.boxes), 7.5, np.float32)))
        add(writer, second)
        writer.publish()
    areas = Shards(tmp_path / "s").table.areas
    assert areas[: len(first.boxes)].tolist() == [7.5] * len(first.boxes)
    x1, y1, x2, y2 = second.boxes.T
    np.testing.assert_allclose(areas[len(first.boxes) :], (x2 - x1) * (y2 - y1), rtol=1e-6)


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("areas", -1, "area of box 0 is -1; expected 0 or more, and finite"),
        ("areas", np.inf, "area of box 0 is inf"),
        ("areas", np.nan, "area of box 0 is nan"),
        ("boxes", np.nan, r"box 0 is \[nan, .*; expected finite numbers"),
        ("labels", -1, "label of box 0 is -1; expected 0 to 2"),
        ("labels", 3, "label of box 0 is 3"),
    ],
)
def test_what_readers_take_for_damage_is_not_written(tmp_path: Path, name: str, value: float, reason: str) -> None:
    record = tiny.records()[0]
    record = replace(record, areas=np.ones(len(record.boxes), np.float32))
    column = getattr(record, name).copy()
    column[0] = value
    with ShardWriter(tmp_path / "s", tiny.CLASSES) as writer:
        with pytest.raises(ShardError, match=f"{record.split}: {record.key}: {reason}"):
            add(writer, replace(record, **{name: column}))
        add(writer, record)
        writer.publish()
    assert len(Shards(tmp_path / "s").table) == 1


@pytest.mark.parametrize("kind", [RuntimeError, KeyboardInterrupt])
def test_nothing_is_published_on_an_exception(tmp_path: Path, kind: type[BaseException]) -> None:
    out = tmp_path / "s"
    with pytest.raises(kind), ShardWriter(out, tiny.CLASSES, shard_bytes=4000) as writer:
        for record in tiny.records():
            add(writer, record)
        raise kind
    assert set(files(out)) == {REPORT}
    with pytest.raises(ShardError, match="did not finish"):
        Shards(out)
    tiny.shards(out)  # a second run takes the folder
    assert len(Shards(out, "train")) == 10


def test_without_publish_there_is_no_index(tmp_path: Path) -> None:
    with ShardWriter(tmp_path / "s", tiny.CLASSES) as writer:
        add(writer, tiny.records()[0])
    assert not (tmp_path / "s" / INDEX).exists()


def test_the_index_is_written_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, bytes] = {}
    replaced = os.replace

    def watch(source: Path, target: Path) -> None:
        assert Path(target).name == INDEX and not Path(target).exists()
        seen.update(files(Path(target).parent))
        replaced(source, target)

    monkeypatch.setattr(os, "replace", watch)
    out = tiny.shards(tmp_path / "s", shard_bytes=9000)
    after = files(out)
    assert seen.pop(INDEX + ".tmp") == after.pop(INDEX)
    assert seen == after and len(after) > 8


def test_the_same_records_make_the_same_bytes(tmp_path: Path) -> None:
    assert files(tiny.shards(tmp_path / "a", shard_bytes=9000)) == files(tiny.shards(tmp_path / "b", shard_bytes=9000))


def test_the_fingerprint_follows_the_content(tmp_path: Path) -> None:
    def fingerprint(name: str, records: list[Record]) -> str:
        with ShardWriter(tmp_path / name, tiny.CLASSES) as writer:
            for record in records:
                add(writer, record)
            writer.publish()
        return Shards(tmp_path / name).fingerprint

    records = tiny.records()[:3]
    moved = replace(records[0], boxes=records[0].boxes + np.float32(0.25))
    repainted = replace(records[0], image=tiny.encode(tiny.pixels(48, 64, 99)))
    prints = [fingerprint(f"{i}", first) for i, first in enumerate([records, records[:2], [moved], [repainted]])]
    prints += [fingerprint("again", records), fingerprint("turned", records[::-1])]
    assert prints[0] == prints[4]
    assert len(set(prints)) == 5


def test_folders_that_are_taken(tmp_path: Path) -> None:
    made = tiny.shards(tmp_path / "made")
    before = files(made)
    with pytest.raises(ShardError, match="already holds shards"):
        ShardWriter(made, tiny.CLASSES)
    assert files(made) == before
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/thesis.txt").write_text("years of work")
    with pytest.raises(ShardError, match="not made by"):
        ShardWriter(tmp_path / "mine", tiny.CLASSES)
    with pytest.raises(ShardError, match="is a file"):
        ShardWriter(tmp_path / "mine/thesis.txt", tiny.CLASSES)
    assert files(tmp_path / "mine") == {"thesis.txt": b"years of work"}
    with pytest.raises(ConfigError, match="unknown store 'tape'; known: lmdb"):
        ShardWriter(tmp_path / "new", tiny.CLASSES, store_name="tape")


def test_unions_are_not_stored_twice(tmp_path: Path) -> None:
    with ShardWriter(tmp_path / "s", tiny.CLASSES, unions={"trainval": ("train", "val")}) as writer:
        for split in ("train", "val", "test"):
            for record in tiny.records(split)[:3]:
                add(writer, record)
        writer.publish()
    both = Shards(tmp_path / "s", "trainval")
    assert len(both) == 6 and both.splits["trainval"].tolist() == [0, 1, 2, 3, 4, 5]
    everything = Shards(tmp_path / "s")
    assert len(everything) == 9
    assert everything.info()["splits"]["trainval"]["images"] == 6
    assert read_index(tmp_path / "s")["splits"].keys() == {"train", "val", "test"}


def test_a_split_by_the_start_of_its_name(tmp_path: Path) -> None:
    out = tiny.shards(tmp_path / "s", splits=("train2017", "val2017"))
    assert Shards(out, "train").split == "train2017"
    for name in ("t2017", "", "test"):
        with pytest.raises(ConfigError, match=r"unknown split .*; known: train2017, val2017"):
            Shards(out, name)
