from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dataforge.errors import FormatError
from dataforge.formats.labelstudio import sniff
from dataforge.formats.labelstudio.reader import read
from dataforge.formats.pictures import path_of
from tests.formats.named import run
from tests.formats.sets import drain, picture, put
from tests.formats.suite import FormatSuite

BOX = {"x": 25, "y": 50, "width": 12.5, "height": 25, "rotation": 0}
SIZE = {"original_width": 64, "original_height": 48, "image_rotation": 0}


class TestLabelStudioRoundTrip(FormatSuite):
    name = "labelstudio"


def result(kind: str = "rectanglelabels", labels: list[str] | None = None, **value: Any) -> dict[str, Any]:
    more = {kind: ["cat"] if labels is None else labels}
    return {
        **SIZE,
        "id": "Dx_aB91ISN",
        "from_name": "label",
        "to_name": "image",
        "source": "$image",
        "type": kind,
        "value": {**(value or BOX), **more},
    }


def task(image: str, *results: dict[str, Any], **more: Any) -> dict[str, Any]:
    annotation = {"id": 1001, "result": results, "was_cancelled": False, "ground_truth": False, "completed_by": 10}
    return {"id": 1, "data": {"image": image}, "annotations": [annotation], "predictions": [], **more}


def test_the_guides_tasks(tmp_path: Path) -> None:
    put(tmp_path / "cat.jpg", picture())
    shapes = [
        result(),
        result("polygonlabels", points=[[0, 0], [50, 0], [25, 50]]),
        result("ellipselabels", x=50, y=50, radiusX=25, radiusY=50, rotation=0),
        result("rectanglelabels", ["cat", "pet"]),
        {"id": "c", "type": "choices", "value": {"choices": ["indoors"]}, "from_name": "x", "to_name": "image"},
    ]
    file = put(tmp_path / "project-1.json", json.dumps([task("/data/upload/1/4f1d2c3b-cat.jpg", *shapes)]))
    assert sniff(file)
    (record,), findings = drain(read(tmp_path))
    assert (record.key, record.width, record.height) == ("cat.jpg", 64, 48)
    assert record.boxes.tolist() == [[16, 24, 24, 36], [0, 0, 32, 24], [16, 0, 48, 48], *[[16, 24, 24, 36]] * 2]
    assert record.labels.tolist() == [0, 0, 0, 0, 1] and [f.code for f in findings] == ["images-by-name"]


def test_json_min(tmp_path: Path) -> None:
    put(tmp_path / "cat.jpg", picture())
    values = [{**BOX, "rectanglelabels": ["cat"], "original_width": 64, "original_height": 48}]
    row = {"image": "s3://bucket/in/cat.jpg", "id": 1, "label": values, "note": [{"text": ["x"]}], "tag": ["a", "b"]}
    row |= {"annotator": 1, "annotation_id": 7, "created_at": "2024", "updated_at": "2024", "lead_time": 3.5}
    file = put(tmp_path / "min.json", json.dumps([row]))
    assert sniff(file)
    (record,), findings = drain(read(tmp_path))
    assert record.boxes.tolist() == [[16, 24, 24, 36]] and [f.code for f in findings] == ["images-by-name"]


def test_what_cannot_be_held_is_listed(tmp_path: Path) -> None:
    put(tmp_path / "a.jpg", picture())
    shapes = [
        {**result(**{**BOX, "rotation": 30}), "original_width": None},
        result("brushlabels", format="rle", rle=[1, 2]),
        result("keypointlabels", x=1, y=2, width=0.5),
        {**result(labels=[]), "id": "other"},
        {**result(), "image_rotation": 90},
    ]
    put(tmp_path / "set.json", json.dumps([task("a.jpg", *shapes)]))
    (record,), findings = drain(read(tmp_path))
    assert not len(record.boxes)
    assert [f.code for f in findings] == [
        "box-rotated",
        "shape-unknown",
        "shape-unknown",
        "unknown-class",
        "box-rotated",
    ]
    assert findings[0].xyxy == (16, 24, 24, 36) and [f.box for f in findings] == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("degrees", ["1e999", "Infinity", "-1e400"])
def test_a_rotation_by_no_finite_number_is_listed(tmp_path: Path, degrees: str) -> None:
    put(tmp_path / "a.jpg", picture())
    text = json.dumps([task("a.jpg", result(**{**BOX, "rotation": 30}), result())])
    put(tmp_path / "set.json", text.replace('"rotation": 30', f'"rotation": {degrees}'))
    (record,), findings = drain(read(tmp_path))
    assert len(record.boxes) == 1 and [f.code for f in findings] == ["box-rotated"]


def test_rotated_rectangles_and_polygons_keep_their_corners(tmp_path: Path) -> None:
    put(tmp_path / "a.jpg", picture())
    shapes = [
        result(x=50, y=50, width=25, height=25, rotation=90),
        result("polygonlabels", points=[[0, 0], [50, 0], [25, 50]]),
        result(),
    ]
    put(tmp_path / "set.json", json.dumps([task("a.jpg", *shapes)]))
    (record,), findings = drain(read(tmp_path))
    np.testing.assert_allclose(record.boxes[0], [20, 24, 32, 40], atol=1e-5)  # 16 x 12 pixels, around its corner 32, 24
    assert not findings and record.polygons is not None and record.polygons.counts.tolist() == [1, 1, 0]
    points = [[32, 24], [32, 40], [20, 40], [20, 24], [0, 0], [32, 0], [16, 24]]
    np.testing.assert_allclose(record.polygons.points, points, atol=1e-5)


def test_labels_that_are_results_of_their_own(tmp_path: Path) -> None:
    put(tmp_path / "a.jpg", picture())
    shapes = [{**result("rectangle"), "value": BOX}, result("labels")]
    put(tmp_path / "set.json", json.dumps([task("a.jpg", *shapes)]))
    (record,), findings = drain(read(tmp_path))
    assert record.boxes.tolist() == [[16, 24, 24, 36]] and not findings


def test_several_skipped_and_no_annotations(tmp_path: Path) -> None:
    for name in "abcd":
        put(tmp_path / f"{name}.jpg", picture())
    tasks = [task("a.jpg"), task("b.jpg"), task("c.jpg"), task("d.jpg", annotations=[])]
    tasks[0]["annotations"] = [{"result": [result()], "updated_at": "2"}, {"result": [], "updated_at": "1"}]
    tasks[1]["annotations"] = [{"result": [result()], "ground_truth": True}, {"result": [], "updated_at": "1"}]
    tasks[2]["annotations"] = [{"result": [], "was_cancelled": True}]
    put(tmp_path / "set.json", json.dumps(tasks))
    records, findings = drain(read(tmp_path))
    assert [(r.key, len(r.boxes)) for r in records] == [("a.jpg", 1), ("b.jpg", 1)]
    assert [(f.code, f.value) for f in findings] == [
        ("annotations-several", "2"),
        ("annotations-several", "2"),
        ("not-annotated", "2 tasks"),
    ]
    assert run("ingest", "auto", tmp_path, "--out", tmp_path / "out").exit_code == 0


def test_notes_beside_an_export_of_another_format(tmp_path: Path) -> None:
    """notes.json of a YOLO export is no set of Label Studio's, and does not stop the reading of one beside it."""
    put(tmp_path / "a.jpg", picture())
    put(tmp_path / "notes.json", json.dumps({"categories": [{"id": 0, "name": "cat"}], "info": {"version": "1.0"}}))
    assert not sniff(tmp_path)
    with pytest.raises(FormatError, match="no such file"):
        read(tmp_path)
    put(tmp_path / "set.json", json.dumps([task("a.jpg", result())]))
    assert len(drain(read(tmp_path))[0]) == 1


@pytest.mark.parametrize(
    ("url", "path"),
    [
        ("/data/local-files/?d=sets/a%20b.jpg", "sets/a b.jpg"),
        ("http://localhost:8080/data/local-files/?d=a.jpg", "a.jpg"),
        ("https://host/x/a.jpg?token=1", "/host/x/a.jpg"),
        ("gs://bucket/100%.jpg", "/bucket/100%.jpg"),
        ("a#b?c.jpg", "a#b?c.jpg"),
        ("http://[", "/["),
    ],
)
def test_urls(url: str, path: str) -> None:
    assert path_of(url) == path


@pytest.mark.parametrize(
    ("tasks", "expected"),
    [
        ([{"data": {}, "annotations": []}], "entry 0: data: no image"),
        ([task("a.jpg"), task("a.jpg", {"value": {"x": "1"}})], r"entry 1: .*value.x: \"1\""),
        ([[]], "entry 0"),
    ],
)
def test_broken_tasks(tmp_path: Path, tasks: list[Any], expected: str) -> None:
    file = put(tmp_path / "set.json", json.dumps(tasks))
    with pytest.raises(FormatError, match=expected) as caught:
        drain(read(file))
    assert str(file) in str(caught.value)


def test_relations_between_regions_are_no_boxes(tmp_path: Path) -> None:
    put(tmp_path / "a.jpg", picture())
    relation = {"from_id": "Dx_aB91ISN", "to_id": "x", "type": "relation", "direction": "right", "labels": ["on"]}
    put(tmp_path / "set.json", json.dumps([task("a.jpg", result(), relation, {"type": "rectanglelabels"})]))
    (record,), findings = drain(read(tmp_path))
    assert len(record.boxes) == 1 and [(f.code, f.box) for f in findings] == [("box-missing", 1)]


@pytest.mark.parametrize("name", ["4f1d2c3b-caf\u00e9 1.jpg", "caf\u00e9 1.jpg"])
def test_names_of_uploads_with_percent_signs(tmp_path: Path, name: str) -> None:
    put(tmp_path / name, picture())
    put(tmp_path / "set.json", json.dumps([task("/data/upload/1/4f1d2c3b-caf%C3%A9%201.jpg", result())]))
    assert [r.key for r in drain(read(tmp_path))[0]] == [name]


def test_an_image_goes_before_other_addresses(tmp_path: Path) -> None:
    put(tmp_path / "a.jpg", picture())
    data = {"source": "https://example.com/gallery?id=3", "photo": "https://example.com/in/a.jpg"}
    put(tmp_path / "set.json", json.dumps([{**task("", result()), "data": data}]))
    assert [r.key for r in drain(read(tmp_path))[0]] == ["a.jpg"]
