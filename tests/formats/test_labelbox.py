from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from dataforge.errors import ConfigError, FormatError
from dataforge.formats.labelbox.reader import read
from dataforge.formats.sniff import detect
from tests.formats.sets import drain, picture, put

BOX = {
    "feature_id": "clf98gj90000qp38ka34yhptl",
    "feature_schema_id": "clef9cwnx16vw07xbebjw6hrp",
    "name": "cat",
    "value": "cat",
    "annotation_kind": "ImageBoundingBox",
    "classifications": [],
    "bounding_box": {"top": 8.0, "left": 4.0, "height": 20.0, "width": 10.0},
}
POLYGON = {
    "name": "dog",
    "annotation_kind": "ImagePolygon",
    "polygon": [{"x": 4, "y": 8}, {"x": 14, "y": 8}, {"x": 9, "y": 28}],
}
MASK = {"name": "dog", "annotation_kind": "ImageSegmentationMask", "mask": {"url": "https://api.labelbox.com/x"}}


def label(*objects: dict[str, Any], **details: Any) -> dict[str, Any]:
    kinds = {"label_kind": "Default", "version": "1.0.0", "id": "l"}
    about = {"created_at": "2023-03-15T16:50:20", "created_by": "a@b.c", **details}
    annotations = {"objects": list(objects), "classifications": [], "relationships": []}
    return {**kinds, "label_details": about, "annotations": annotations}


def row(*labels: dict[str, Any], name: str = "a.jpg", **more: Any) -> dict[str, Any]:
    return {
        "data_row": {"id": "clf6j9", "external_id": name, "global_key": "k", "row_data": f"https://host/in/{name}"},
        "media_attributes": {"height": 48, "width": 64, "asset_type": "image", "mime_type": "image/jpeg"},
        "attachments": [],
        "metadata_fields": [],
        "projects": {"clf6": {"name": "Pets", "labels": list(labels), "project_details": {"ontology_id": "c"}}},
        **more,
    }


def export(root: Path, *rows: dict[str, Any]) -> Path:
    put(root / "a.jpg", picture())
    return put(root / "export.ndjson", "".join(json.dumps(one) + "\n" for one in rows))


def test_the_documented_export(tmp_path: Path) -> None:
    file = export(tmp_path, row(label(BOX, POLYGON, MASK)))
    assert detect(file)[0] == detect(tmp_path)[0] == "labelbox"
    source = read(tmp_path)
    (record,), findings = drain(source)
    assert source.classes == ("cat", "dog") and (record.width, record.height) == (64, 48)
    assert record.boxes.tolist() == [[4, 8, 14, 28]] * 2 and record.labels.tolist() == [0, 1]
    assert record.polygons is not None and record.polygons.counts.tolist() == [0, 1]
    assert record.polygons.points.tolist() == [[4, 8], [14, 8], [9, 28]]
    assert [(f.code, f.value) for f in findings] == [("shape-unknown", "annotation 2: ImageSegmentationMask")]


def test_images_are_sought_by_what_names_a_picture(tmp_path: Path) -> None:
    one = row(label(BOX), name="image 7")
    one["data_row"] |= {"row_data": "https://host/in/a.jpg?sig=x"}
    export(tmp_path, one)
    (record,), _ = drain(read(tmp_path))
    assert record.key == "a.jpg"


def test_of_several_labels_one_is_read(tmp_path: Path) -> None:
    export(tmp_path, row(label(BOX, is_benchmark_reference=True), label()), row(name="b.jpg"))
    (record,), findings = drain(read(tmp_path))
    assert len(record.boxes) == 1
    assert [(f.code, f.key) for f in findings] == [("annotations-several", "a.jpg"), ("not-annotated", "b.jpg")]


@pytest.mark.parametrize("first", [(BOX,), (POLYGON,), (MASK, BOX), ()])
@pytest.mark.parametrize("second", [(BOX,), (POLYGON, MASK), ()])
def test_several_rows_of_one_image_are_as_one(tmp_path: Path, first: tuple[Any, ...], second: tuple[Any, ...]) -> None:
    export(tmp_path / "two", row(label(*first)), row(label(*second)), row(label(BOX, POLYGON), name="b.jpg"))
    export(tmp_path / "one", row(label(*first, *second)), row(label(BOX, POLYGON), name="b.jpg"))
    put(tmp_path / "two/b.jpg", picture())
    put(tmp_path / "one/b.jpg", picture())
    (two, _), about_two = drain(read(tmp_path / "two"))
    (one, _), about_one = drain(read(tmp_path / "one"))
    assert (two.boxes.tolist(), two.labels.tolist()) == (one.boxes.tolist(), one.labels.tolist())
    for record in (one, two):
        kinds = [shape is POLYGON for shape in (*first, *second) if shape is not MASK]
        assert (record.polygons.counts.astype(bool).tolist() if record.polygons else [False] * len(kinds)) == kinds
    assert [(f.code, f.box) for f in about_two] == [(f.code, f.box) for f in about_one]


def test_of_several_projects_one_is_chosen(tmp_path: Path) -> None:
    one = row(label(BOX))
    one["projects"]["other"] = {"name": "Cars", "labels": [label()]}
    export(tmp_path, one)
    with pytest.raises(ConfigError, match=r"line 1: labels of several projects: Pets \(clf6\), Cars \(other\)"):
        read(tmp_path)
    assert [len(drain(read(tmp_path, project=name))[0][0].boxes) for name in ("Pets", "other")] == [1, 0]


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([row(label(BOX)), {"data_row": {}}], "line 2: .*required field `projects`"),
        ([row({"annotations": {"frames": {"1": {}}}})], "line 1: annotations of a video"),
        ([row(label({**BOX, "bounding_box": {"top": "8"}}))], 'line 1: .*top: "8"'),
        (
            [row(experiments={"e": {"runs": {n: {"run_data_row_split": n} for n in ("TEST", "TRAINING")}}})],
            "line 1: model runs give it the splits test, train",
        ),
    ],
)
def test_broken_lines(tmp_path: Path, rows: list[dict[str, Any]], expected: str) -> None:
    file = export(tmp_path, *rows)
    with pytest.raises(FormatError, match=expected) as caught:
        drain(read(file))
    assert str(file) in str(caught.value)
