from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest

from dataforge.errors import ConfigError, FormatError
from dataforge.formats.sniff import detect
from dataforge.formats.via import sniff
from dataforge.formats.via.reader import read
from tests.formats.sets import drain, picture, put
from tests.formats.suite import FormatSuite

RECT = {"name": "rect", "x": 4, "y": 8, "width": 10, "height": 20}
SHAPES = {
    "rect": (RECT, [4, 8, 14, 28]),
    "polygon": ({"name": "polygon", "all_points_x": [4, 14, 9], "all_points_y": [8, 8, 28]}, [4, 8, 14, 28]),
    "circle": ({"name": "circle", "cx": 20, "cy": 24, "r": 8}, [12, 16, 28, 32]),
    "ellipse": ({"name": "ellipse", "cx": 20, "cy": 24, "rx": 8, "ry": 4}, [12, 20, 28, 28]),
    "ellipse turned": ({"name": "ellipse", "cx": 20, "cy": 24, "rx": 8, "ry": 4, "theta": 1.5707963}, [16, 16, 24, 32]),
    "point": ({"name": "point", "cx": 20, "cy": 24}, None),
    "polyline": ({"name": "polyline", "all_points_x": [4, 14], "all_points_y": [8, 8]}, None),
}


class TestViaRoundTrip(FormatSuite):
    name = "via"


def region(shape: dict[str, Any], **attributes: Any) -> dict[str, Any]:
    return {"shape_attributes": shape, "region_attributes": attributes}


def entry(*regions: dict[str, Any], name: str = "a.jpg") -> dict[str, Any]:
    return {
        "filename": name,
        "size": 12345,
        "regions": list(regions),
        "file_attributes": {"caption": "", "public": "no"},
    }


def written(file: dict[str, Any], form: str) -> tuple[str, str]:
    """A file of each kind that VIA saves: name and text."""
    if form == "project":
        settings = {"ui": {}, "core": {}, "project": {"name": "p"}}
        about = {"_via_settings": settings, "_via_img_metadata": file, "_via_attributes": {"region": {}, "file": {}}}
        return "via_project.json", json.dumps({**about, "_via_data_format_version": "2.0.10", "_via_image_id_list": []})
    if form == "version 1":
        for one in file.values():
            one["regions"] = {str(n): region for n, region in enumerate(one["regions"])}
        return "via_region_data.json", json.dumps(file)
    if form == "csv":
        text = io.StringIO()
        rows = csv.writer(text)
        start, end = ["filename", "file_size", "file_attributes"], ["region_shape_attributes", "region_attributes"]
        rows.writerow([*start, "region_count", "region_id", *end])
        for one in file.values():
            for n, own in enumerate(one["regions"] or [region({})]):
                values = [json.dumps(value) for value in own.values()]
                rows.writerow([one["filename"], 12345, "{}", len(one["regions"]), n, *values])
        return "via_region_data.csv", text.getvalue()
    return "via_region_data.json", json.dumps(file)


@pytest.mark.parametrize("form", ["json", "project", "version 1", "csv"])
def test_what_via_saves(tmp_path: Path, form: str) -> None:
    shapes = [region(shape, type="cat") for shape, _ in SHAPES.values()]
    name, text = written({"a.jpg12345": entry(*shapes), "b.jpg9": entry(name="b.jpg")}, form)
    put(tmp_path / name, text)
    for picture_name in ("a.jpg", "b.jpg"):
        put(tmp_path / picture_name, picture())
    assert sniff(tmp_path) and detect(tmp_path)[0] == "via"
    (record, empty), findings = drain(read(tmp_path))
    expected = [box for _, box in SHAPES.values() if box]
    assert record.boxes.round(3).tolist() == expected and not len(empty.boxes)
    assert [(f.code, f.box) for f in findings] == [("shape-unknown", 5), ("shape-unknown", 6)]


def test_the_attribute_that_holds_the_class(tmp_path: Path) -> None:
    put(tmp_path / "a.jpg", picture())
    regions = [region(RECT, kind="cat", occluded="no"), region(RECT, kind={"dog": True, "pet": True, "cat": False})]
    put(tmp_path / "set.json", json.dumps({"a": entry(*regions)}))
    with pytest.raises(ConfigError, match=r"several attributes \(kind, occluded\); say with --attribute"):
        read(tmp_path)
    with pytest.raises(ConfigError, match="--attribute class: no region has it; attributes: kind, occluded"):
        read(tmp_path, attribute="class")
    source = read(tmp_path, attribute="kind")
    (record,), findings = drain(source)
    assert [source.classes[label] for label in record.labels] == ["cat", "dog", "pet"] and not findings
    put(tmp_path / "set.json", json.dumps({"a": entry(region(RECT, label="cat", occluded="no"))}))
    assert read(tmp_path).classes == ("cat",)


def test_a_set_without_attributes_has_one_class(tmp_path: Path) -> None:
    """As the balloons that Mask R-CNN's tutorial trains on."""
    put(tmp_path / "a.jpg", picture())
    put(tmp_path / "set.json", json.dumps({"a": entry(region(RECT)), "b": entry(region(RECT))}))
    source = read(tmp_path)
    (record,), findings = drain(source)
    assert source.classes == ("object",) and len(record.boxes) == 2  # two entries of one image
    assert [f.code for f in findings] == ["class-unstated"]


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("a.json", '{"a": {"filename": "a.jpg", "regions": [{}]}}', "shape_attributes"),
        ("a.json", '{"a": {"filename": 1, "regions": []}}', "filename: 1"),
        ("a.csv", "filename,region_shape_attributes\na.jpg,{}", "expected filename, region_shape_attributes, region"),
        ("a.csv", "filename,region_shape_attributes,region_attributes\na.jpg", "line 2: 'a.jpg': fewer columns"),
        ("a.csv", 'filename,region_shape_attributes,region_attributes\na.jpg,"{""x"": 1",{}', "line 2: not JSON"),
    ],
)
def test_broken_files(tmp_path: Path, name: str, text: str, expected: str) -> None:
    file = put(tmp_path / name, text)
    with pytest.raises(FormatError, match=expected) as caught:
        drain(read(tmp_path))
    assert str(file) in str(caught.value)


def test_images_that_are_urls(tmp_path: Path) -> None:
    put(tmp_path / "a.jpg", picture())
    region = {"shape_attributes": {"name": "rect", "x": 1, "y": 1, "width": 4, "height": 4}, "region_attributes": {}}
    put(
        tmp_path / "set.json", json.dumps({"x": {"filename": "https://host/in/a.jpg", "size": -1, "regions": [region]}})
    )
    (record,), _ = drain(read(tmp_path))
    assert record.key == "a.jpg" and len(record.boxes) == 1
