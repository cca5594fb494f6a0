from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from dataforge.errors import FormatError
from dataforge.formats.sniff import detect
from dataforge.formats.vott.reader import read
from tests.formats.named import run
from tests.formats.sets import drain, picture, put

BOX = {"height": 20.0, "width": 10.0, "left": 4.0, "top": 8.0}
CORNERS = [{"x": 4, "y": 8}, {"x": 14, "y": 8}, {"x": 14, "y": 28}, {"x": 4, "y": 28}]


def entry(name: str, *regions: dict[str, Any], state: int = 2) -> dict[str, Any]:
    path = f"file:/home/me/my%20pictures/{name.replace(' ', '%20')}"
    asset = {"format": "jpg", "id": "0a1b", "name": name, "path": path, "size": {"width": 64, "height": 48}}
    return {"asset": {**asset, "state": state, "type": 1}, "regions": regions, "version": "2.2.0"}


def region(*tags: str, **more: Any) -> dict[str, Any]:
    return {"id": "FdX", "type": "RECTANGLE", "tags": tags, "boundingBox": BOX, "points": CORNERS, **more}


def export(*entries: dict[str, Any]) -> str:
    tags = [{"name": "dog", "color": "#5db300"}, {"name": "cat", "color": "#e81123"}]
    assets = {str(n): one for n, one in enumerate(entries)}
    return json.dumps({"name": "Pets", "securityToken": "t", "tags": tags, "id": "x", "assets": assets})


def test_an_export(tmp_path: Path) -> None:
    put(tmp_path / "a b.jpg", picture(1))
    put(tmp_path / "c.jpg", picture(2))
    entries = [
        entry(
            "a b.jpg", region("cat"), region("dog", "cat", type="POLYGON"), region("cat", boundingBox=None), region()
        ),
        entry("c.jpg", state=1),
        entry("d.jpg", state=0),
    ]
    file = put(tmp_path / "vott-json-export/Pets-export.json", export(*entries))
    assert detect(file)[0] == detect(tmp_path)[0] == "vott"
    source = read(tmp_path, images=tmp_path)
    (record, empty), findings = drain(source)
    assert record.split == "train"
    assert source.classes == ("dog", "cat") and (record.width, record.height) == (64, 48)
    assert record.boxes.tolist() == [[4, 8, 14, 28]] * 4 and record.labels.tolist() == [1, 0, 1, 1]
    assert (empty.key, len(empty.boxes)) == ("c.jpg", 0)
    assert [f.code for f in findings] == ["not-annotated", "images-by-name", "unknown-class"]


def test_files_of_single_images(tmp_path: Path) -> None:
    put(tmp_path / "a.jpg", picture())
    put(tmp_path / "0a1b-asset.json", json.dumps(entry("a.jpg", region("cat"))))
    assert detect(tmp_path)[0] == "vott"
    assert len(drain(read(tmp_path))[0][0].boxes) == 1
    put(tmp_path / "Pets-export.json", export(entry("a.jpg", region("cat"))))
    assert len(drain(read(tmp_path))[0][0].boxes) == 1  # not twice


def test_its_csv_is_a_table(tmp_path: Path) -> None:
    put(tmp_path / "a.jpg", picture())
    put(tmp_path / "Pets-export.csv", '"image","xmin","ymin","xmax","ymax","label"\n"a.jpg",4.5,8,14,28,"cat"\n')
    assert detect(tmp_path)[0] == "table"
    result = run("ingest", "auto", tmp_path, "--out", tmp_path / "out")
    assert result.exit_code == 0 and "1 image, 1 box" in result.stdout, result.output


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('{"assets": {"a": {}}, "tags": []}', "required field `asset`"),
        (export(entry("a.jpg", region("cat", boundingBox={"left": "4"}))), 'left: "4"'),
    ],
)
def test_broken_files(tmp_path: Path, text: str, expected: str) -> None:
    file = put(tmp_path / "set.json", text)
    with pytest.raises(FormatError, match=expected) as caught:
        read(tmp_path)
    assert str(file) in str(caught.value)
