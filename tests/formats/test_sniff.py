from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from dataforge.errors import FormatError
from dataforge.formats import FORMATS, flatbuffer, sqlite, writable, writer
from dataforge.formats.sniff import detect
from dataforge.record import Source
from dataforge.registry import load
from dataforge.shards.reader import Shards
from tests import tiny
from tests.cli.test_bad_input import refused, run
from tests.formats.sets import box, coco, picture, put, voc_object, voc_xml
from tests.formats.test_damage import small


@pytest.mark.parametrize(
    ("name", "expected"),
    [("coco128_yolo", "yolo"), ("coco_mini", "coco"), ("bccd", "voc"), ("fod_a_2k", "voc")],
)
def test_the_real_sets(shared_data: Path, name: str, expected: str) -> None:
    assert detect(shared_data / name)[0] == expected


@pytest.mark.parametrize("name", FORMATS)
def test_a_set_is_seen_as_its_format_alone(tmp_path: Path, name: str) -> None:
    """A small one of others, and what is written."""
    assert detect(small(tmp_path / "small", name))[0] == name
    if name in writable():
        source = Source(tiny.CLASSES, iter(tiny.records("train")[:2]), tiny.CLASS_IDS, total=2)
        writer(name)(source, tmp_path / "set")
        assert detect(tmp_path / "set")[0] == name


def test_it_says_what_it_saw_and_goes_on(tmp_path: Path) -> None:
    coco(tmp_path / "in", {"a.jpg": picture()}, [box(10, [1, 1, 5, 5])])
    result = run("auto", tmp_path / "in", "--out", tmp_path / "out")
    assert result.exit_code == 0, result.output
    assert f"{tmp_path / 'in'}: coco (annotations/instances_train.json: COCO's images" in result.stderr
    assert Shards(tmp_path / "out").info()["source"] == "coco"


def test_two_that_fit_are_named_with_the_commands(tmp_path: Path) -> None:
    root = coco(tmp_path / "my set", {"a.jpg": picture()}, [box(10, [1, 1, 5, 5])])
    put(root / "train/a.xml", voc_xml("a.jpg", voc_object("cat", [1, 1, 5, 5])))
    text = refused(tmp_path / "out", "auto", root)
    assert "coco and voc fit; say which" in text
    assert f"dataforge ingest coco '{root}'    annotations/instances_train.json" in text
    assert f"dataforge ingest voc '{root}'    train/a.xml" in text
    assert run("coco", root, "--out", tmp_path / "out").exit_code == 0


def test_nothing_that_fits(tmp_path: Path) -> None:
    assert "does not exist" in refused(tmp_path / "out", "auto", tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    assert "the folder is empty" in refused(tmp_path / "out", "auto", tmp_path / "empty")
    for name in ("a.json", "b.xml", "c.yaml", "d.csv", "e.jsonl", "f.parquet", "classes.txt", "g.jpg"):
        put(tmp_path / "in" / name, "[1, 2]\n")
    text = refused(tmp_path / "out", "auto", tmp_path / "in")
    assert "no format fits; looked for" in text
    assert all(f"\n  {name}: {load('format', name, FORMATS).LOOKS_FOR}" in text for name in FORMATS)


@pytest.mark.parametrize(
    ("name", "data", "expected"),
    [
        (
            "any.json",
            json.dumps({"info": [0.5, float("nan")], "images": [], "annotations": [], "categories": []}),
            "coco",
        ),
        ("any.json", '\ufeff{"version": "5", "flags": {}, "shapes": []}', "labelme"),
        ("any.json", '{"info": {}, "categories": {"label": {}}, "items": []}', "datumaro"),
        ("any.json", '[\n {"Var1": "a.jpg", "cat": []}]', "matlab"),
        ("any.xml", "<?xml version='1.0'?>\n<annotations>", "cvat"),
        ("any.XML", '<annotation verified="yes"><filename>a.jpg</filename></annotation>', "voc"),
        ("any.yml", "path: .\ntrain: images", "yolo"),
        ("train.csv", "filename,width,height,class,xmin,ymin,xmax,ymax\n", "table"),
        ("train.csv", "a.jpg,1,2,3,4,cat\nb.jpg,,,,,\n", "table"),
    ],
)
def test_files_by_their_heads(tmp_path: Path, name: str, data: str, expected: str) -> None:
    if expected not in FORMATS:
        pytest.skip(f"{expected} is not there")
    put(tmp_path / name, data)
    assert detect(tmp_path)[0] == expected
    if expected != "voc":  # whose sets are folders
        assert detect(tmp_path / name)[0] == expected


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("notes.json", {"categories": [{"id": 0, "name": "cat"}], "info": {"contributor": "Label Studio"}}),
        ("sa_1.json", {"image": {"image_id": 1}, "annotations": [{"bbox": [1, 2, 3, 4]}]}),
        ("images.json", {"images": [{"annotations": [{"categories": [1], "shapes": [2]}]}]}),
        ("list.json", ["images", "annotations"]),
    ],
)
def test_words_are_no_structure(tmp_path: Path, name: str, data: object) -> None:
    """Label Studio's notes, segment-anything: the words of a format deep in a file do not make it one."""
    put(tmp_path / name, json.dumps(data))
    put(tmp_path / "a.xml", "<annotation><object><name>x</name><polygon/></object></annotation>")
    put(tmp_path / "house_prices.csv", "rooms,boundingtax,price\n3,1,2\n")
    with pytest.raises(FormatError, match="no format fits"):
        detect(tmp_path)


@pytest.mark.parametrize(
    ("name", "data", "expected"),
    [
        ("any.json", {"images": [{"id": n, "file_name": f"{n}.jpg"} for n in range(9999)], "annotations": [],
                      "categories": []}, "coco"),
        ("any.json", {"imageData": "A" * 200_000, "shapes": []}, "labelme"),
    ],
)  # fmt: skip
def test_keys_behind_much_else(tmp_path: Path, name: str, data: object, expected: str) -> None:
    put(tmp_path / name, json.dumps(data))
    assert detect(tmp_path)[0] == expected


def test_a_set_that_lies_deeper_is_named(tmp_path: Path) -> None:
    root = coco(tmp_path / "all/my set", {"a.jpg": picture()}, [box(10, [1, 1, 5, 5])])
    put(tmp_path / "all/readme.md", "x")
    with pytest.raises(FormatError, match=r"no format fits \(.*my set looks like coco\)"):
        detect(tmp_path / "all")
    assert detect(root)[0] == "coco"


@pytest.mark.parametrize("name", FORMATS)
def test_what_is_recognised_can_be_read_a_single_file_too(tmp_path: Path, name: str) -> None:
    small(tmp_path / "set", name)
    files = [path for path in (tmp_path / "set").rglob("*") if path.is_file()]
    for n, path in enumerate(files):
        try:
            format_name, _ = detect(path)
        except FormatError:
            continue
        assert format_name == ("table" if path.suffix == ".parquet" else name)  # one that Croissant describes
        result = run("auto", path, "--out", tmp_path / f"out{n}")
        assert result.exit_code == 0, result.stderr
        assert Shards(tmp_path / f"out{n}").info()["images"] > 0


def test_databases_are_told_apart(tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "train.db")) as connection:
        connection.execute("CREATE TABLE images (filename TEXT)")
        connection.commit()
    assert sqlite.sniff(tmp_path) and not flatbuffer.sniff(tmp_path)
    put(tmp_path / "train.db", b"\x10\0\0\0 anything")
    assert flatbuffer.sniff(tmp_path) and not sqlite.sniff(tmp_path)


def test_a_link_in_a_circle_and_a_crowd_of_files(tmp_path: Path) -> None:
    for n in range(200):
        put(tmp_path / f"set/labels/{n:03}.txt", "0 .5 .5 .1 .1")
    put(tmp_path / "set/classes.txt", "cat")
    (tmp_path / "set/loop").symlink_to(tmp_path)
    assert detect(tmp_path / "set") == ("yolo", "classes.txt, and labels/000.txt: YOLO's class cx cy w h")
    (tmp_path / "other").mkdir()
    (tmp_path / "other/loop").symlink_to(tmp_path)
    with pytest.raises(FormatError, match="no format fits"):
        detect(tmp_path / "other")
