"""A set whose boxes are all refused is an error, in every format; unless the user allows it, or chose among them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dataforge.formats import FORMATS
from dataforge.shards.reader import Shards
from tests.formats.named import WRITE, run
from tests.formats.sets import box, coco, picture, put

UNIT = {  # boxes in fractions, which lie in a picture of any size
    "labelstudio": ("set.json", '"x": 1.5625', '"x": 150'),
    "ultralytics": ("set.ndjson", "[0, 0.046875", "[0, 1.5"),
}


def make(root: Path, name: str) -> Path:
    """One picture and one box, which lies beside it."""
    put(root / "a.jpg", picture(0, 1, 1))
    WRITE[name](root, ["a.jpg"])
    if name == "yolo":
        put(root / "a.txt", "0 1.5 1.5 .1 .1")
    for file, text, other in UNIT.values():
        if (root / file).exists() and text in (root / file).read_text():
            put(root / file, (root / file).read_text().replace(text, other))
    for path in (root / "set.json", root / "a.xml") if name in ("matlab", "voc") else ():  # these count from 1
        if path.exists():
            put(path, path.read_text().replace("[1, 1, 5", "[9, 9, 5").replace("<xmin>1<", "<xmin>9<"))
    return root


@pytest.mark.parametrize("name", FORMATS)
def test_all_boxes_lost_publishes_nothing(tmp_path: Path, name: str) -> None:
    root, out = make(tmp_path / "set", name), tmp_path / "out"
    result = run("ingest", name, root, "--out", out)
    assert result.exit_code == 2 and not (out / "index.json").exists()
    assert "no box is left of those annotated, 1 were refused" in result.stderr and "box 0: xyxy" in result.stderr
    result = run("ingest", name, root, "--out", out, "--max-bad-boxes", 1)
    assert result.exit_code == 0 and Shards(out).info()["boxes"] == 0


def test_a_limit_of_boxes_holds_with_others_left(tmp_path: Path) -> None:
    root = coco(tmp_path / "set", {"a.jpg": picture()}, [box(10, [1, 1, 5, 5]), box(10, [99, 1, 5, 5])])
    assert run("ingest", "coco", root, "--out", tmp_path / "1").exit_code == 0
    assert run("ingest", "coco", root, "--out", tmp_path / "2", "--max-bad-boxes", 1).exit_code == 0
    result = run("ingest", "coco", root, "--out", tmp_path / "3", "--max-bad-boxes", 0, "--json")
    assert result.exit_code == 2 and "refused boxes: 1, --max-bad-boxes allows 0" in result.stderr
    facts = json.loads(result.stdout)
    assert (facts["refused_boxes"], facts["findings"]["refused"]) == (1, {"box-outside": 1})


def test_a_view_may_leave_nothing(tmp_path: Path) -> None:
    root = coco(tmp_path / "set", {"a.jpg": picture()}, [box(10, [1, 1, 5, 5]), box(10, [99, 1, 5, 5], 17)])
    result = run("ingest", "coco", root, "--classes", "dog", "--out", tmp_path / "out")
    assert result.exit_code == 0 and Shards(tmp_path / "out").info()["boxes"] == 0


def test_a_set_of_empty_images_is_a_set(tmp_path: Path) -> None:
    root = coco(tmp_path / "set", {"a.jpg": picture()})
    assert run("ingest", "coco", root, "--out", tmp_path / "out").exit_code == 0
