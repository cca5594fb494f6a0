from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dataforge.errors import ConfigError, FormatError
from dataforge.formats.matlab import read
from dataforge.record import Record
from dataforge.shards.reader import Shards
from tests.cli.test_bad_input import kinds, refused, run
from tests.formats.sets import drain, picture, put
from tests.formats.suite import FormatSuite


class TestMatlabRoundTrip(FormatSuite):
    name = "matlab"

    def compare(self, records: list[Record], shards: Shards) -> None:
        by_class = []  # as a row groups its boxes
        for record in records:
            order = np.argsort(record.labels, kind="stable")
            boxes, labels, flags = record.boxes[order], record.labels[order], record.flags[order]
            by_class.append(replace(record, boxes=boxes, labels=labels, flags=flags))
        super().compare(by_class, shards)


def rows(root: Path, *found: dict[str, Any], name: str = "labels.json") -> Path:
    for row in found:
        put(root / str(row["Var1"]), picture())
    put(root / name, json.dumps(found))
    return root


def test_the_three_ways_to_write_boxes(tmp_path: Path) -> None:
    root = rows(
        tmp_path,
        {"Var1": "a.jpg", "cat": [], "dog": [1, 1, 64, 48]},
        {"Var1": "sub dir/b.c.jpg", "cat": [[2, 3, 10, 20], [1.5, 1, 2, 2]], "dog": []},
        {"Var1": "ä.jpg", "cat": [], "dog": None},
    )
    source = read(root)
    records, findings = drain(source)
    assert not findings and source.classes == ("cat", "dog")
    assert [(r.key, r.split, r.labels.tolist(), r.boxes.tolist()) for r in records] == [
        ("a.jpg", "train", [1], [[0, 0, 64, 48]]),
        ("sub dir/b.c.jpg", "train", [0, 0], [[1, 2, 11, 22], [0.5, 0, 2.5, 2]]),
        ("ä.jpg", "train", [], []),
    ]


def test_both_corners_tell_the_same(tmp_path: Path) -> None:
    x, y, w, h = 3, 7, 10, 20
    matlab = rows(tmp_path / "matlab", {"Var1": "a.jpg", "cat": [x, y, w, h]})
    converter = rows(tmp_path / "converter", {"Var1": "a.jpg", "cat": [[x, y + h, x + w, y]]})
    (one,), _ = drain(read(matlab))
    (other,), _ = drain(read(converter, corners="converter"))
    assert one.boxes.tolist() == other.boxes.tolist() == [[2, 6, 12, 26]]
    with pytest.raises(ConfigError, match="unknown corners 'xyxy'; known: converter, matlab"):
        read(matlab, corners="xyxy")


def test_files_merge_and_an_image_in_two_of_them_is_one(tmp_path: Path) -> None:
    rows(tmp_path, {"Var1": "a.jpg", "cat": [1, 1, 5, 5]}, {"Var1": "b.jpg", "cat": [1, 1, 5, 5]}, name="1.json")
    rows(tmp_path, {"Var1": "a.jpg", "dog": [2, 2, 5, 5], "cat": [[1, 1, 5, 5], [3, 3, 5, 5]]}, name="2.json")
    source = read(tmp_path)
    records, findings = drain(source)
    assert [(r.key, r.labels.tolist(), r.boxes[:, 0].tolist()) for r in records] == [
        ("a.jpg", [0, 0, 1], [0, 2, 1]),
        ("b.jpg", [0], [0]),
    ]
    assert [(f.action, f.code, f.key) for f in findings] == [("repaired", "box-twice", "a.jpg")]
    assert source.total == 2 and source.classes == ("cat", "dog")


def test_folders_are_splits_and_one_file_will_do(tmp_path: Path) -> None:
    for split in ("train", "val"):
        rows(tmp_path / split, {"Var1": "a.jpg", "cat": [1, 1, 5, 5]})
    assert [(r.split, r.key, r.image) for r in drain(read(tmp_path))[0]] == [
        (split, "a.jpg", tmp_path / split / "a.jpg") for split in ("train", "val")
    ]
    assert [r.split for r in drain(read(tmp_path, split=("val",)))[0]] == ["val"]
    (record,), _ = drain(read(tmp_path / "val/labels.json"))
    assert (record.split, record.image) == ("val", tmp_path / "val/a.jpg")


def test_pictures_of_another_machine_are_found_by_name(tmp_path: Path) -> None:
    data: list[dict[str, Any]] = [
        {"imageFilename": "C:\\Users\\me\\set one\\a.jpg", "cat": [1, 1, 5, 5]},
        {"imageFilename": "/home/me/set two/a.jpg", "cat": [2, 2, 5, 5]},
        {"imageFilename": "/home/me/gone.jpg", "cat": []},
        {"imageFilename": "/home/me/twice.jpg", "cat": []},
        {"imageFilename": "../set one/a.jpg", "cat": []},
    ]
    put(tmp_path / "in/labels.json", json.dumps(data))
    for name in ("set one/a.jpg", "set two/a.jpg", "set one/twice.jpg", "set two/twice.jpg"):
        put(tmp_path / "pictures" / name, picture())
    records, findings = drain(read(tmp_path / "in", images=tmp_path / "pictures"))
    assert [(r.key, r.boxes[0, 0]) for r in records] == [("set one/a.jpg", 0), ("set two/a.jpg", 1)]
    assert [(f.code, f.action) for f in findings] == [
        ("image-missing", "refused"),
        ("image-ambiguous", "refused"),
        ("image-path", "refused"),
        ("images-by-name", "noted"),
    ]
    with pytest.raises(ConfigError, match="--images nowhere: does not exist"):
        read(tmp_path / "in", images=Path("nowhere"))


def test_a_missing_picture_is_not_taken_from_another_split(tmp_path: Path) -> None:
    for split in ("train", "val"):
        rows(tmp_path / split, {"Var1": "a.jpg", "cat": []}, {"Var1": "b.jpg", "cat": []})
    (tmp_path / "val/a.jpg").unlink()
    records, findings = drain(read(tmp_path))
    assert [(r.split, r.key) for r in records] == [("train", "a.jpg"), ("train", "b.jpg"), ("val", "b.jpg")]
    assert [(f.action, f.code, f.key) for f in findings] == [("refused", "image-missing", "a.jpg")]


def test_two_names_for_one_picture_are_refused(tmp_path: Path) -> None:
    put(tmp_path / "l.json", json.dumps([{"Var1": "/x/2007/a.jpg", "c": []}, {"Var1": "/x/2012/a.jpg", "c": []}]))
    put(tmp_path / "a.jpg", picture())
    records, findings = drain(read(tmp_path))
    assert not records and [f.code for f in findings] == ["image-ambiguous"] * 2


@pytest.mark.parametrize(
    ("box", "wrong"),
    [
        ([1, 2, 3], 1),
        ([[1, 1, 5, 5], [1, 2, 3, 4, 5]], 1),
        (["1,5", 2, 3, 4], 1),
        ("text", 1),
        (True, 1),
        ([1, 1, 10**400, 5], 1),
        ({"x": 1}, 1),
    ],
)
def test_what_is_no_box_is_listed(tmp_path: Path, box: object, wrong: int) -> None:
    root = rows(tmp_path / "in", {"Var1": "a.jpg", "cat": box, "dog": [1, 1, 5, 5]})
    (record,), findings = drain(read(root))
    assert [(f.action, f.code) for f in findings] == [("refused", "box-missing")] * wrong
    assert record.labels.tolist()[-1] == 1


def test_nan_is_refused_by_ingest(tmp_path: Path) -> None:
    root = rows(tmp_path / "in", {"Var1": "a.jpg", "cat": [[1, None, 5, 5], [1, 1, 5, 5]]})
    assert run("matlab", root, "--out", tmp_path / "out").exit_code == 0
    assert kinds(tmp_path / "out") == [("refused", "box-nan")]


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ('[{"Var1": "a.jpg", "cat": [1, 2', "not JSON.*line 1"),
        ('[{"cat": []}]', "row 0: no image path"),
        ('[{"Var1": 3, "cat": []}]', "row 0: no image path"),
        ("[1]", r"expected `object`"),
        ("3", "expected a JSON file"),
        ("", "not JSON"),
        (b'[{"Var1": "\xe4.jpg", "cat": []}]', "not JSON.*0xe4"),
        ('[{"Var1": "a.jpg", "cat": ' + "[" * 100_000, "not JSON"),
    ],
)
def test_broken_files(tmp_path: Path, text: str | bytes, where: str) -> None:
    file = put(tmp_path / "in/labels.json", text)
    with pytest.raises(FormatError, match=where) as caught:
        read(tmp_path / "in")
    assert str(file) in str(caught.value) or where.startswith("no row")
    refused(tmp_path / "out", "matlab", tmp_path / "in")


def test_byte_order_mark_and_crlf(tmp_path: Path) -> None:
    put(tmp_path / "a.jpg", picture())
    put(tmp_path / "labels.json", '\ufeff[\r\n{"Var1": "a.jpg",\r\n"cat": [1,1,5,5]}\r\n]\r\n')
    assert len(drain(read(tmp_path))[0][0].boxes) == 1


def test_a_class_that_is_called_as_the_path_cannot_be_written(tmp_path: Path) -> None:
    from dataforge.formats.matlab import write
    from dataforge.record import Source

    with pytest.raises(FormatError, match="'Var1'"):
        write(Source(("Var1",), iter(())), tmp_path / "out")
