from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from dataforge.errors import FormatError
from dataforge.formats.createml import read
from tests.formats.sets import drain, picture, put
from tests.formats.suite import FormatSuite


class TestCreateMLRoundTrip(FormatSuite):
    name = "createml"


def annotation(label: str | None = "cat", *numbers: float | None) -> dict[str, Any]:
    return {"label": label, "coordinates": dict(zip(("x", "y", "width", "height"), numbers, strict=True))}


@pytest.mark.parametrize("key", ["image", "imagefilename"])
def test_roboflows_folders_and_older_keys(tmp_path: Path, key: str) -> None:
    for split in ("train", "valid"):
        rows = [{key: "a.jpg", "annotations": [annotation(split, 20, 15, 10, 20)]}, {key: "b.jpg", "annotations": []}]
        put(tmp_path / split / "_annotations.createml.json", json.dumps(rows))
        for n, name in enumerate("ab"):
            put(tmp_path / split / f"{name}.jpg", picture(n))
    source = read(tmp_path)
    records, findings = drain(source)
    assert not findings and source.classes == ("train", "valid") and source.total == 4
    assert [(r.split, r.key, r.boxes.tolist(), r.labels.tolist()) for r in records] == [
        ("train", "a.jpg", [[15, 5, 25, 25]], [0]),
        ("train", "b.jpg", [], []),
        ("valid", "a.jpg", [[15, 5, 25, 25]], [1]),
        ("valid", "b.jpg", [], []),
    ]
    assert [r.split for r in drain(read(tmp_path / "valid/_annotations.createml.json"))[0]] == ["valid"] * 2


def test_what_has_no_box_or_label_is_listed(tmp_path: Path) -> None:
    made = [
        annotation("cat", 9, 9, 4, 4),
        {"label": "cat"},
        annotation(None, 9, 9, 4, 4),
        annotation("cat", None, 1, 2, 3),
    ]
    rows = [{"image": "a.jpg", "annotations": made}, {"image": "a.jpg", "annotations": made[:1]}]
    put(tmp_path / "a.jpg", picture())
    put(tmp_path / "set.json", json.dumps(rows))
    (record,), findings = drain(read(tmp_path))
    assert len(record.boxes) == 3  # NaN is refused by ingest
    assert [(f.code, f.box) for f in findings] == [("box-missing", 1), ("unknown-class", 2)]


@pytest.mark.parametrize("text", ["{}", '[{"image": "a.jpg"}]', '[{"image": 1, "annotations": []}]', "[", ""])
def test_broken_files(tmp_path: Path, text: str) -> None:
    file = put(tmp_path / "set.json", text)
    with pytest.raises(FormatError, match="expected JSON files") as caught:
        read(tmp_path)
    assert str(file) in str(caught.value)
