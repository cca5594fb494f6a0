from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from dataforge.errors import FormatError
from dataforge.formats.bdd100k.reader import read
from dataforge.formats.sniff import detect
from dataforge.record import CROWD, TRUNCATED
from tests.formats.sets import drain, picture, put
from tests.formats.suite import FormatSuite


class TestBdd100kRoundTrip(FormatSuite):
    name = "bdd100k"


def label(category: str = "traffic light", **attributes: Any) -> dict[str, Any]:
    about = {"occluded": False, "truncated": False, "trafficLightColor": "green"} | attributes
    return {"id": "0", "category": category, "attributes": about, "box2d": {"x1": 4, "y1": 8.5, "x2": 13, "y2": 27}}


LANE = {
    "category": "lane",
    "attributes": {"laneTypes": "crosswalk"},
    "poly2d": [{"vertices": [[1, 2]], "closed": False}],
}
NAME = "0000f77c-6257be58.jpg"
ABOUT = {"attributes": {"weather": "clear", "scene": "city street", "timeofday": "daytime"}, "timestamp": 10000}


def written(form: str, *labels: dict[str, Any]) -> tuple[str, object]:
    """The releases of 2020 and 2018, Scalabel's data set, and the release by image: path and content."""
    frame = {"name": NAME, **ABOUT, "labels": labels}
    empty = {"name": "b.jpg", **ABOUT, "labels": None}
    if form == "by image":
        objects = [{**ABOUT, "objects": labels}]
        return f"labels/100k/train/{NAME[:-4]}.json", {"name": NAME[:-4] + ".jpg", "frames": objects, "attributes": {}}
    frames = [frame, empty]
    return {
        "2020": ("labels/det_20/det_train.json", frames),
        "2018": ("labels/bdd100k_labels_images_train.json", frames),
        "scalabel": ("labels/det_train.json", {"frames": frames, "groups": None, "config": {"categories": []}}),
    }[form]


@pytest.mark.parametrize("form", ["2020", "2018", "scalabel", "by image"])
def test_the_releases(tmp_path: Path, form: str) -> None:
    labels = [label(), label("car", truncated=True), label("person", crowd=True), LANE]
    path, content = written(form, *labels)
    file = put(tmp_path / path, json.dumps(content))
    for name in (NAME, "b.jpg"):
        put(tmp_path / f"images/100k/train/{name}", picture())
    assert detect(file)[0] == detect(tmp_path)[0] == "bdd100k"
    source = read(tmp_path)
    records, findings = drain(source)
    assert source.classes == ("car", "person", "traffic light")
    assert (records[0].key, records[0].split) == (NAME, "train")
    assert [len(r.boxes) for r in records[1:]] == ([] if form == "by image" else [0])
    assert records[0].boxes.tolist() == [[4, 8.5, 14, 28]] * 3 and records[0].flags.tolist() == [0, TRUNCATED, CROWD]
    assert [(f.code, f.value) for f in findings] == [("labels-without-box", "1 of 'lane'")]


@pytest.mark.parametrize(
    ("frames", "expected"),
    [
        ([{"name": "a.jpg", "labels": [{"box2d": {"x1": "4"}}]}], 'entry 0: labels.*x1: "4"'),
        ([{"name": "a.jpg", "labels": []}, {"labels": []}], "entry 1: .*required field `name`"),
    ],
)
def test_broken_files(tmp_path: Path, frames: object, expected: str) -> None:
    file = put(tmp_path / "set.json", json.dumps(frames))
    with pytest.raises(FormatError, match=expected) as caught:
        read(tmp_path)
    assert str(file) in str(caught.value)
