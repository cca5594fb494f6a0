"""Sources joined and classes renamed: no record, box or flag is lost or changed on the way."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from dataforge.cli.main import main
from dataforge.errors import ConfigError, FormatError
from dataforge.record import Finding, Record, Source
from dataforge.shards.reader import Shards
from dataforge.sources.join import join, read_class_map, rename, rename_splits
from tests import tiny
from tests.cli.test_bad_input import kinds, refused, run
from tests.formats.sets import CATEGORIES, box, coco, drain, picture, put, voc_object, voc_xml


def record(key: str, labels: Sequence[int], split: str = "train", number: int = -1) -> Record:
    n = len(labels)
    boxes = np.arange(4 * n, dtype=np.float32).reshape(n, 4)
    flags = np.arange(n).astype(np.uint8) % 8
    areas = np.arange(n, dtype=np.float32)
    return Record(key, split, b"", 1, 1, boxes, np.array(labels, np.int32), flags, areas, number, "o")


def source(classes: Sequence[str], *items: Record | Finding, ids: Sequence[int] = (), total: int = 0) -> Source:
    return Source(tuple(classes), iter(items), tuple(ids), total=total)


def names(joined: Source, one: Record) -> list[str]:
    return [joined.classes[label] for label in one.labels]


NAMES = st.lists(st.sampled_from("abcdef"), min_size=1, max_size=4, unique=True)


@given(st.lists(st.tuples(NAMES, st.lists(st.lists(st.integers(0, 99), max_size=5), max_size=4)), max_size=4))
def test_every_record_keeps_its_boxes_and_its_classes_names(sets: list[tuple[list[str], list[list[int]]]]) -> None:
    given = [
        (f"s{n}", classes, [record(f"{i}.jpg", [label % len(classes) for label in one]) for i, one in enumerate(rows)])
        for n, (classes, rows) in enumerate(sets)
    ]
    joined = join([(name, source(classes, *rows)) for name, classes, rows in given])
    found, _ = drain(joined)
    expected = [(classes, one) for _, classes, rows in given for one in rows]
    assert len(found) == len(expected) == len({(one.split, one.key) for one in found})
    for one, (classes, before) in zip(found, expected, strict=True):
        assert names(joined, one) == [classes[label] for label in before.labels]
        assert one.boxes is before.boxes and one.flags is before.flags and one.key.endswith(before.key)
        assert one.labels.dtype == np.int32
    assert set(joined.classes) == {name for classes, _ in sets for name in classes}
    assert len(set(joined.classes)) == len(joined.classes)


def test_keys_and_numbers_that_collide_are_kept_apart_and_noted() -> None:
    one = source(["cat"], record("a.jpg", [0], number=1), record("b.jpg", [0], "val", 2), total=2)
    other = source(
        ["dog"],
        record("a.jpg", [0], number=2),
        record("b.jpg", [0], number=3),
        Finding("noted", "c", "f", "k", "", "r"),
        total=2,
    )
    third = source(["dog"], record("a.jpg", [0], number=9), total=1)
    joined = join([("x", one), ("y", other), ("y", third)])
    found, findings = drain(joined)
    assert [(r.key, r.split, r.id) for r in found] == [
        ("a.jpg", "train", 1),
        ("b.jpg", "val", 2),
        ("y/a.jpg", "train", -1),
        ("b.jpg", "train", 3),
        ("2/y/a.jpg", "train", 9),
    ]
    assert [(f.code, f.file, f.value) for f in findings] == [
        ("c", "f", ""),
        ("keys-prefixed", "y", "1 image"),
        ("ids-given-up", "y", "1 image"),
        ("keys-prefixed", "y", "1 image"),
    ]
    assert joined.total == 5 and join([("x", source(["a"], total=3)), ("y", source(["a"]))]).total == 0


@given(st.lists(st.lists(st.sampled_from(["a", "y/a", "y/y/a", "2/y/a", "x/a"]), max_size=6, unique=True), max_size=4))
def test_no_key_that_a_source_has_once_is_made_twice(sets: list[list[str]]) -> None:
    joined = join([("xyyx"[n], source(["cat"], *(record(key, []) for key in keys))) for n, keys in enumerate(sets)])
    found = [one.key for one in drain(joined)[0]]
    assert len(found) == len(set(found)) == sum(map(len, sets))
    assert all(new.endswith(old) for new, old in zip(found, [key for keys in sets for key in keys], strict=True))


def test_a_prefixed_key_that_the_same_source_has() -> None:
    for keys, expected in (
        (["a.jpg", "y/a.jpg"], ["y/a.jpg", "y/y/a.jpg"]),
        (["y/a.jpg", "a.jpg"], ["y/a.jpg", "2/y/a.jpg"]),
        (["a.jpg", "a.jpg"], ["y/a.jpg", "y/a.jpg"]),  # twice before, twice after: ingest refuses it
    ):
        joined = join(
            [("x", source(["cat"], record("a.jpg", []))), ("y", source(["cat"], *(record(k, []) for k in keys)))]
        )
        assert [one.key for one in drain(joined)[0]] == ["a.jpg", *expected]


def test_a_key_twice_in_one_source_stays_so_that_ingest_refuses_it() -> None:
    found, findings = drain(join([("x", source(["a"], record("a.jpg", []), record("a.jpg", [])))]))
    assert [r.key for r in found] == ["a.jpg", "a.jpg"] and not findings


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        ((3, 17), (17, 90), (3, 17, 90)),
        ((3, 17), (5, 90), (3, 17, 90)),  # dog is 17 and 5: the first counts
        ((3, 17), (17, 3), ()),  # 3 is cat and bird
        ((3, 17), (), ()),
    ],
)
def test_class_numbers(one: tuple[int, ...], other: tuple[int, ...], expected: tuple[int, ...]) -> None:
    joined = join([("x", source(["cat", "dog"], ids=one)), ("y", source(["dog", "bird"], ids=other))])
    assert (joined.classes, joined.class_ids) == (("cat", "dog", "bird"), expected)


def test_unions() -> None:
    def union(*items: Record, **unions: tuple[str, ...]) -> Source:
        return Source(("a",), iter(items), unions=unions)

    both = join([("x", union(trainval=("train", "val"))), ("y", union(trainval=("val", "train")))])
    assert both.unions == {"trainval": ("train", "val")}
    with pytest.raises(FormatError, match=r"'trainval': is train \+ val before, train \+ test in y"):
        join([("x", union(trainval=("train", "val"))), ("y", union(trainval=("train", "test")))])
    joined = join([("x", union(trainval=("train", "val"))), ("y", union(record("a", [], "trainval")))])
    with pytest.raises(FormatError, match="has images of its own in y"):
        drain(joined)


def test_rename_merge_and_drop() -> None:
    rows = record("a.jpg", [0, 1, 2, 3, 1]), record("b.jpg", [2])
    renamed = rename(
        source(["cat", "dog", "car", "van"], *rows, ids=[3, 5, 7, 9]), {"dog": "cat", "car": "", "van": "bus"}
    )
    found, findings = drain(renamed)
    assert (renamed.classes, renamed.class_ids) == (("cat", "bus"), (3, 9))
    assert [names(renamed, r) for r in found] == [["cat", "cat", "bus", "cat"], []]
    kept = [0, 1, 3, 4]
    np.testing.assert_array_equal(found[0].boxes, rows[0].boxes[kept])
    np.testing.assert_array_equal(found[0].flags, rows[0].flags[kept])
    assert found[0].areas is not None and found[0].areas.tolist() == kept
    assert [(f.action, f.code, f.key, f.value) for f in findings] == [("refused", "class-dropped", "car", "2 boxes")]
    with pytest.raises(ConfigError, match=r"no such class: 'dgo', 'x'; known: cat"):
        rename(source(["cat"]), {"dgo": "a", "x": ""})
    with pytest.raises(ConfigError, match="drops every class"):
        rename(source(["cat"]), {"cat": ""})
    swapped = rename(source(["a", "b"], record("k", [0, 1])), {"a": "b", "b": "a"})
    assert names(swapped, drain(swapped)[0][0]) == ["b", "a"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("cat = dog", "not TOML: .*line 1"),
        ("cat = 3", 'cat is 3; expected lines of old = "new"'),
        ('traffic.light = "x"', "traffic is {'light': 'x'}"),
        (b'caf\xe9 = "x"', "not TOML: .*0xe9"),
        (None, "cannot be read: No such file"),
    ],
)
def test_class_maps_that_are_wrong(tmp_path: Path, text: str | bytes | None, said: str) -> None:
    file = tmp_path / "map.toml"
    if text is not None:
        put(file, text)
    with pytest.raises(ConfigError, match=said) as caught:
        read_class_map(file)
    assert str(caught.value).startswith(f"--class-map {file}: ")


@pytest.mark.parametrize(
    ("splits", "alike"),
    [
        (("train", "train2017"), True),
        (("val", "Validation_2012", "valid"), True),
        (("train", "val", "test", "trainval"), False),
        (("2007", "2012"), False),
        (("train_a", "train_b"), False),
    ],
)
def test_splits_whose_names_nearly_agree_are_noted(splits: tuple[str, ...], alike: bool) -> None:
    items = [record(f"{n}.jpg", [0], split) for n, split in enumerate(splits)]
    *kept, last = rename_splits(source(["a"], *items), {}).records
    if not alike:
        assert all(one is other for one, other in zip([*kept, last], items, strict=True))
        return
    assert all(one is other for one, other in zip(kept, items, strict=True))
    assert isinstance(last, Finding) and last.code == "splits-alike"
    assert all(f"{split} (1 image)" in last.value for split in splits) and "--split-map" in last.reason
    merged = list(rename_splits(source(["a"], *items), dict.fromkeys(splits, "x")).records)
    assert [item.split for item in merged if isinstance(item, Record)] == ["x"] * len(splits) == ["x"] * len(merged)


def test_split_maps_of_unions_and_of_what_is_not_there() -> None:
    parts = Source(
        ("a",),
        iter([record("a.jpg", [0], "train"), record("b.jpg", [0], "val")]),
        unions={"trainval": ("train", "val")},
    )
    renamed = rename_splits(parts, {"train": "fit", "trainval": "all"})
    assert renamed.unions == {"all": ("fit", "val")}
    assert [item.split for item in renamed.records if isinstance(item, Record)] == ["fit", "val"]
    for names in ({"trainval": "train"}, {"val": "train"}):
        with pytest.raises(ConfigError, match="--split-map: the parts of split"):
            rename_splits(parts, names)
    with pytest.raises(ConfigError, match="no such split: 'tests'; known: test"):
        list(rename_splits(source(["a"], record("a.jpg", [0], "test")), {"tests": "test"}).records)


def test_the_command_with_split_names(tmp_path: Path) -> None:
    one = coco(tmp_path / "one", {"a.jpg": picture(0)}, [box(10, [1, 1, 5, 5])])
    other = coco(tmp_path / "two", {"b.jpg": picture(1)}, [box(10, [1, 1, 5, 5])])
    (other / "annotations/instances_train.json").rename(other / "annotations/instances_train2017.json")
    (other / "train").rename(other / "train2017")
    result = run("coco", one, "--out", tmp_path / "apart", "--add", f"coco:{other}")
    assert result.exit_code == 0 and "train2017 (1 image)" in result.output
    options = ["--add", f"coco:{other}", "--split-map", "train2017=train"]
    assert run("coco", one, "--out", tmp_path / "out", *options).exit_code == 0
    assert len(Shards(tmp_path / "out", "train")) == 2
    runner = CliRunner()
    same = runner.invoke(main, ["verify", str(tmp_path / "out"), "--source", f"coco:{one}", *map(str, options)])
    assert same.exit_code == 0, same.output
    for text, message in (("train2017", "expected OLD=NEW"), ("x=train", "no such split: 'x'; known: train")):
        wrong = run("coco", one, "--out", tmp_path / "wrong", "--split-map", text)
        assert wrong.exit_code == 2 and message in wrong.output and not (tmp_path / "wrong/index.json").exists()


def test_the_command(tmp_path: Path) -> None:
    one = coco(tmp_path / "one", {"a.jpg": picture(0)}, [box(10, [1, 1, 5, 5]), box(10, [2, 2, 5, 5], 17)])
    other = tmp_path / "my other: set"
    for stem in "ab":
        put(other / f"{stem}.jpg", picture(1))
        put(other / f"{stem}.xml", voc_xml(f"{stem}.jpg", voc_object("traffic light", [1, 1, 9, 9])))
    table = put(tmp_path / "map.toml", '\ufeff"traffic light" = "lamp"\r\ndog = ""\r\n')
    out = tmp_path / "out"
    result = run("coco", one, "--add", f"voc:{other}", "--add", f"auto:{one}", "--class-map", table, "--out", out)
    assert result.exit_code == 0, result.output
    shards = Shards(out)
    assert shards.classes == ("cat", "lamp") and shards.info()["source"] == "coco + voc + coco"
    assert [shards.table.key[i] for i in range(4)] == ["a.jpg", "my other: set/a.jpg", "b.jpg", "one/a.jpg"]
    assert shards.table.labels.tolist() == [0, 1, 1, 0]
    assert [code for _, code in kinds(out)] == ["keys-prefixed", "keys-prefixed", "ids-given-up", "class-dropped"]
    again = tmp_path / "again"
    assert "--add nothing: expected FORMAT:ROOT" in refused(again, "coco", one, "--add", "nothing")
    assert "unknown format 'cocoa'" in refused(again, "coco", one, "--add", f"cocoa:{one}")
    put(table, 'bird = ""')
    known = ", ".join(str(category["name"]) for category in CATEGORIES)
    assert f"no such class: 'bird'; known: {known}" in refused(again, "coco", one, "--class-map", table)


def test_merging_shard_folders(tmp_path: Path) -> None:
    """Every image and box of both arrives, with its bytes and class; what collides is set apart and noted."""
    a, b = tiny.shards(tmp_path / "a"), tiny.shards(tmp_path / "b", splits=("val", "extra"))
    done = CliRunner().invoke(main, ["merge", str(a), str(b), "--out", str(tmp_path / "c")])
    assert done.exit_code == 0, done.output
    one, two, both = Shards(a), Shards(b), Shards(tmp_path / "c")
    assert both.classes == one.classes and both.class_ids == one.class_ids
    assert {name: len(rows) for name, rows in both.splits.items()} == {"train": 10, "val": 20, "extra": 10}
    for part, split, start in ((one, "train", 0), (one, "val", 0), (two, "val", 10), (two, "extra", 0)):
        for n, i in enumerate(part.splits[split].tolist()):
            j = int(both.splits[split][start + n])
            assert bytes(both.blob(j)) == bytes(part.blob(i))
            assert both.table.key[j].endswith(part.table.key[i])
            mine, its = part.table.take(np.array([i])), both.table.take(np.array([j]))
            for name in ("boxes", "labels", "flags", "areas"):
                assert np.array_equal(getattr(mine, name), getattr(its, name))
    assert "keys-prefixed" in done.output
    again = CliRunner().invoke(main, ["merge", str(a), str(tmp_path / "nothing"), "--out", str(tmp_path / "d")])
    assert again.exit_code == 2 and "nothing: does not exist" in again.stderr and not (tmp_path / "d").exists()
