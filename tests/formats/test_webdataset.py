"""WebDataset tars, and Hugging Face's folders of images: as their own libraries write them."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import pytest

from dataforge.errors import FormatError
from dataforge.formats.sniff import detect
from dataforge.formats.table import read
from dataforge.shards.reader import Shards
from tests.formats.named import run
from tests.formats.sets import drain, picture, put

OBJECTS = {"bbox": [[8, 12, 20, 10]], "category": [1]}


def tar(path: Path, members: dict[str, bytes | str | dict[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as file:
        for name, content in members.items():
            data = json.dumps(content) if isinstance(content, dict) else content
            raw = data.encode() if isinstance(data, str) else data
            info = tarfile.TarInfo(name)
            info.size = len(raw)
            file.addfile(info, io.BytesIO(raw))
    return path


def test_tars_of_two_splits(tmp_path: Path) -> None:
    for n in range(2):
        members = {f"s{n}.jpg": picture(n), f"s{n}.json": {"width": 64, "height": 48, "objects": OBJECTS}}
        tar(tmp_path / f"set/train-00000{n}.tar", {**members, f"s{n}.cls": "3"})
    tar(tmp_path / "set/val-000000.tar", {"a/b.seg.png": picture(5), "a/b.json": {"objects": OBJECTS}})
    result = run("ingest", "auto", tmp_path / "set", "--out", tmp_path / "out")
    assert result.exit_code == 0 and "table (" in result.stderr, result.stderr
    shards = Shards(tmp_path / "out")
    assert [*shards.table.key] == ["s0.jpg", "s1.jpg", "a/b.seg.png"] and {*shards.splits} == {"train", "val"}
    assert shards.table.boxes.tolist() == [[8, 12, 28, 22]] * 3 and shards.classes == ("1",)
    assert bytes(shards.blob(1)) == picture(1)
    assert result.stdout.count("file-unread") >= 1 and "s0.cls" in result.stdout  # a class of a picture has no box


def test_one_tar_as_root(tmp_path: Path) -> None:
    path = tar(tmp_path / "val-0.tar", {"a.jpg": picture(), "a.json": {"objects": OBJECTS}, "c.jpg": picture(2)})
    result = run("ingest", "auto", path, "--out", tmp_path / "out")
    assert result.exit_code == 0 and "table (val-0.tar: a WebDataset of boxes)" in result.stderr, result.stderr
    assert "noted no-label: 1" in result.stdout and "unread" not in result.stdout
    shards = Shards(tmp_path / "out")
    assert [*shards.table.key] == ["a.jpg", "c.jpg"] and [*shards.splits] == ["val"]


def test_lines_of_yolo(tmp_path: Path) -> None:
    tar(tmp_path / "x.tar", {"a.jpg": picture(), "a.txt": "4 0.5 0.5 0.25 0.5\n", "b.jpg": picture(1), "b.txt": ""})
    (first, second), findings = drain(read(tmp_path))
    assert first.boxes.tolist() == [[24, 12, 40, 36]] and len(second.boxes) == 0 and not findings
    tar(tmp_path / "x.tar", {"a.jpg": picture(), "a.txt": "a caption of five words\n"})
    with pytest.raises(FormatError, match=r"a\.txt: line 1: 'a caption of five words': expected class"):
        read(tmp_path)


@pytest.mark.parametrize(
    ("members", "expected"),
    [
        ({"a.jpg": b"x", "a.cls": "1"}, "no picture has a .json or .txt file"),
        ({"a.jpg": b"x", "a.json": "{"}, r"a\.json: not JSON"),
        ({"a.jpg": b"x", "a.json": "[1]"}, r"a\.json: expected an object"),
        ({"a.jpg": b"x", "a.json": {"caption": "a cat"}}, "no column for label"),
    ],
)
def test_what_is_no_set_of_boxes(tmp_path: Path, members: dict[str, Any], expected: str) -> None:
    path = tar(tmp_path / "x.tar", members)
    with pytest.raises(FormatError, match=expected):
        read(path)
    with pytest.raises(FormatError, match="no format fits"):
        detect(tmp_path)


def test_annotations_as_in_coco(tmp_path: Path) -> None:
    row = {"annotations": [{"bbox": [8, 12, 20, 10], "category_id": 7, "iscrowd": 1, "area": 150.0}] * 2}
    (record,), _ = drain(read(tar(tmp_path / "x.tar", {"a.jpg": picture(), "a.json": row})))
    assert record.boxes.tolist() == [[8, 12, 28, 22]] * 2 and record.flags.tolist() == [1, 1]


@pytest.mark.parametrize("prefix", ["", "./", "images/"])
def test_splits_of_an_image_folder_are_the_folders_in_its_names(tmp_path: Path, prefix: str) -> None:
    """One metadata.jsonl above train/ and test/, which `datasets` reads as two splits."""
    names = ["train/a.jpg", "test/b.jpg"]
    lines = [{"file_name": prefix + name, "objects": {"bbox": [[8, 12, 20, 10]], "categories": [0]}} for name in names]
    put(tmp_path / "metadata.jsonl", "\n".join(map(json.dumps, lines)))
    for n, name in enumerate(names):
        put(tmp_path / prefix / name, picture(n))
    records, _ = drain(read(tmp_path))
    assert [(record.split, Path(record.key).name) for record in records] == [("train", "a.jpg"), ("test", "b.jpg")]
    assert [record.split for record in drain(read(tmp_path, split=("test",)))[0]] == ["test"]
    put(tmp_path / "metadata.jsonl", json.dumps(lines[0]) + "\n" + json.dumps({**lines[1], "file_name": "b.jpg"}))
    assert {record.split for record in drain(read(tmp_path))[0]} == {"train"}  # not all names have one


def test_corners_without_stated_sizes_are_checked_against_the_images(tmp_path: Path) -> None:
    boxes = [[10, 20, 60, 46], [30, 10, 62, 40], [20, 20, 50, 44]]
    for n in range(3):
        put(tmp_path / f"{n}.jpg", picture(n))
    lines = [{"file_name": f"{n}.jpg", "objects": {"bbox": [box], "category": [0]}} for n, box in enumerate(boxes)]
    put(tmp_path / "metadata.jsonl", "\n".join(map(json.dumps, lines)))
    with pytest.raises(FormatError, match=r"3 of 3 boxes do not fit their images.*--boxes xyxy"):
        drain(read(tmp_path))
    assert [record.boxes.tolist() for record in drain(read(tmp_path, boxes="xyxy"))[0]] == [[box] for box in boxes]
