from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from dataforge.errors import FormatError
from dataforge.formats.sniff import detect
from dataforge.formats.ultralytics.reader import read
from tests.formats.sets import drain, picture, put
from tests.formats.suite import FormatSuite

HEAD = {"type": "dataset", "task": "detect", "name": "Pets", "class_names": {"0": "cat", "1": "dog"}, "version": 0}


class TestUltralyticsRoundTrip(FormatSuite):
    name, one_way = "ultralytics", True


def line(name: str = "a.jpg", split: str = "train", **annotations: Any) -> dict[str, Any]:
    url = f"https://www.url.com/path/to/{name}"
    size = {"width": 64, "height": 48}
    return {"type": "image", "file": name, "url": url, **size, "split": split, "annotations": annotations}


def write(root: Path, *lines: object) -> Path:
    for name in ("a.jpg", "b.jpg"):
        put(root / name, picture())
    return put(root / "dataset.ndjson", "".join(json.dumps(one) + "\n" for one in (HEAD, *lines)))


def test_the_documented_lines_of_all_tasks(tmp_path: Path) -> None:
    lines = [
        line(
            boxes=[[1, 0.5, 0.5, 0.25, 0.5], [0, 0.25, 0.25, 0.5, 0.5]],
            segments=[[0, 0.25, 0.25, 0.75, 0.25, 0.5, 0.75]],
            pose=[[1, 0.5, 0.5, 0.25, 0.5, 0.1, 0.1, 2, 0.2, 0.2, 1]],
            obb=[[0, 0.5, 0.25, 0.75, 0.5, 0.5, 0.75, 0.25, 0.5]],
        ),
        line("b.jpg", "val"),
    ]
    file = write(tmp_path, *lines)
    assert detect(file)[0] == detect(tmp_path)[0] == "ultralytics"
    source = read(tmp_path)
    (record, empty), findings = drain(source)
    box = [24, 12, 40, 36]
    assert record.boxes.tolist() == [box, [0, 0, 32, 24], box, *[[16, 12, 48, 36]] * 2]
    assert source.classes == ("cat", "dog") and record.labels.tolist() == [1, 0, 1, 0, 0] and not findings
    assert (record.split, empty.split, len(empty.boxes)) == ("train", "val", 0)


def test_fractions_are_of_the_image_not_of_the_stated_size(tmp_path: Path) -> None:
    write(tmp_path, {**line(boxes=[[0, 0.5, 0.5, 0.25, 0.5]]), "width": 640, "height": 480})
    (record,), _ = drain(read(tmp_path))
    assert record.boxes.tolist() == [[24, 12, 40, 36]] and (record.width, record.height) == (64, 48)


def test_rows_that_are_no_boxes_are_listed(tmp_path: Path) -> None:
    rows = [[7, 0.5, 0.5, 0.2, 0.2], [], [0, 0.5, None, 0.2, 0.2], [0.5, 0.5, 0.5, 0.2, 0.2], [0, 0.5]]
    write(tmp_path, line(boxes=rows))
    (record,), findings = drain(read(tmp_path))
    assert len(record.boxes) == 2  # which are NaN, and refused by ingest
    assert [(f.code, f.box) for f in findings] == [("unknown-class", 0), ("unknown-class", 1), ("unknown-class", 3)]


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ([{"type": "video"}], "line 2: type 'video', file None"),
        ([{"type": "image"}], "line 2: type 'image', file None"),
        ([line(boxes=[["0"]])], 'line 2: .*"0"'),
        ([{**HEAD, "class_names": {"cat": "0"}}], "line 2: class_names cat; expected numbers as keys"),
    ],
)
def test_broken_lines(tmp_path: Path, lines: list[Any], expected: str) -> None:
    file = write(tmp_path, *lines)
    with pytest.raises(FormatError, match=expected) as caught:
        drain(read(file))
    assert str(file) in str(caught.value)
