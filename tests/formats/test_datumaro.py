from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dataforge.errors import FormatError
from dataforge.formats.datumaro.reader import read
from dataforge.formats.sniff import detect
from dataforge.record import CROWD, DIFFICULT
from tests.formats.sets import drain, picture, put
from tests.formats.suite import FormatSuite


class TestDatumaroRoundTrip(FormatSuite):
    name = "datumaro"


def annotation(kind: str = "bbox", label: int | None = 0, **more: Any) -> dict[str, Any]:
    about = {"id": 0, "type": kind, "attributes": {}, "group": 0, "label_id": label, "z_order": 0}
    return {**about, "bbox": [4.0, 8.0, 10.0, 20.0], **more}


def file(*annotations: dict[str, Any], names: tuple[str, ...] = ("cat", "dog"), key: str = "image") -> str:
    labels = [{"name": name, "parent": "", "attributes": []} for name in names]
    item = {"id": "a", "annotations": annotations, "attr": {"frame": 0}, key: {"path": "a.jpg", "size": [48, 64]}}
    categories = {"label": {"labels": labels, "attributes": ["occluded"]}, "points": {"items": []}}
    return json.dumps({"info": {}, "categories": categories, "items": [item]})


@pytest.mark.parametrize("key", ["image", "media"])
@pytest.mark.parametrize(("name", "split"), [("default", "train"), ("Test", "Test"), ("subset 1", "subset 1")])
def test_cvats_export(tmp_path: Path, name: str, split: str, key: str) -> None:
    shapes = [
        annotation(attributes={"occluded": False, "rotation": 0.0, "is_crowd": True, "difficult": "True"}),
        annotation("polygon", 1, points=[4.0, 8.0, 14.0, 8.0, 9.0, 28.0]),
        annotation("ellipse", 1, points=[4.0, 8.0, 14.0, 28.0]),
        annotation("label"),
    ]
    put(tmp_path / f"images/{name}/a.jpg", picture())
    path = put(tmp_path / f"annotations/{name}.json", file(*shapes, key=key))
    assert detect(path)[0] == detect(tmp_path)[0] == "datumaro"
    for root in (tmp_path, path):
        source = read(root)
        (record,), findings = drain(source)
        assert source.classes == ("cat", "dog") and not findings
        assert (record.split, record.height, record.width) == (split, 48, 64)
        assert record.boxes.tolist() == [[4, 8, 14, 28]] * 3 and record.labels.tolist() == [0, 1, 1]
        assert record.flags.tolist() == [CROWD | DIFFICULT, 0, 0]


def test_what_cannot_be_held_is_listed(tmp_path: Path) -> None:
    shapes = [
        annotation(attributes={"rotation": "x"}),
        annotation("mask", rle={"counts": "~", "size": [48, 64]}),
        annotation("polyline", points=[1, 2, 3, 4]),
        annotation(label=None),
        annotation(label=9),
    ]
    put(tmp_path / "a.jpg", picture())
    put(tmp_path / "set.json", file(*shapes))
    (record,), findings = drain(read(tmp_path))
    codes = ["box-rotated", "box-missing", "shape-unknown", "unknown-class", "unknown-class"]
    assert not len(record.boxes) and [(f.code, f.box) for f in findings] == list(zip(codes, range(5), strict=True))


def test_rotated_boxes_are_their_corners(tmp_path: Path) -> None:
    shapes = [annotation("rotated_bbox", points=[20, 20, 10, 6, 90]), annotation(attributes={"rotation": 90})]
    put(tmp_path / "a.jpg", picture())
    put(tmp_path / "set.json", file(*shapes))
    (record,), findings = drain(read(tmp_path))
    np.testing.assert_allclose(record.boxes, [[17, 15, 23, 25], [-1, 13, 19, 23]], atol=1e-5)
    assert not findings and record.polygons is not None and record.polygons.counts.tolist() == [1, 1]


def test_files_with_other_lists_of_classes_are_united_by_name(tmp_path: Path) -> None:
    for split, names in (("train", ("cat", "dog")), ("val", ("dog", "cow"))):
        put(tmp_path / f"images/{split}/a.jpg", picture())
        put(tmp_path / f"annotations/{split}.json", file(annotation(), names=names))
    source = read(tmp_path)
    records, findings = drain(source)
    assert source.classes == ("cat", "dog", "cow") and [r.labels.tolist() for r in records] == [[0], [1]]
    assert {f.code for f in findings} == {"classes-differ"}
    assert read(tmp_path, split=("val",)).classes == source.classes


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('{"categories": {}, "items": [{}]}', "items entry 0: .*required field `id`"),
        (file(annotation(bbox=[1, 2, 3])), "length 4"),
        (file(annotation(bbox=[1, 2, 3, "4"])), 'bbox\\[3\\]: "4"'),
    ],
)
def test_broken_files(tmp_path: Path, text: str, expected: str) -> None:
    path = put(tmp_path / "set.json", text)
    with pytest.raises(FormatError, match=expected) as caught:
        read(tmp_path)
    assert str(path) in str(caught.value)
