from __future__ import annotations

import base64
import json
import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dataforge.errors import FormatError
from dataforge.formats.sniff import detect
from dataforge.formats.supervisely.reader import read
from dataforge.formats.supervisely.writer import write as put_supervisely
from dataforge.record import Source
from tests import tiny
from tests.formats.sets import drain, picture, put
from tests.formats.suite import FormatSuite

META = {
    "classes": [{"title": "dog", "shape": "rectangle"}, {"title": "cat", "shape": "any"}],
    "tags": [],
    "projectType": "images",
}


class TestSupervisely(FormatSuite):
    name = "supervisely"


def figure(kind: str = "rectangle", exterior: Any = ((4, 8), (13, 27)), **more: Any) -> dict[str, Any]:
    about = {"id": 503004154, "classId": 1693021, "labelerLogin": "alexxx", "createdAt": "2020-08-21T15:15:28.092Z"}
    points = {"exterior": exterior, "interior": []}
    return {**about, "geometryType": kind, "tags": [], "classTitle": "cat", "points": points, **more}


def write(root: Path, *objects: dict[str, Any], tags: tuple[str, ...] = ()) -> Path:
    put(root / "meta.json", json.dumps(META))
    put(root / "ds0/img/a.jpg", picture())
    own = [{"id": 1, "name": tag, "value": None} for tag in tags]
    facts = {"description": "", "tags": own, "size": {"height": 48, "width": 64}, "objects": objects}
    return put(root / "ds0/ann/a.jpg.json", json.dumps(facts))


def test_the_documented_figures(tmp_path: Path) -> None:
    png = tiny.encode(np.full((20, 10), 255, np.uint8), "PNG")
    bitmap = {"data": base64.b64encode(zlib.compress(png)).decode(), "origin": [4, 8]}
    figures = [
        figure(),
        figure(exterior=[[13, 27], [4, 8]]),
        figure(exterior=[[4, 8], [13, 8], [13, 27], [4, 27]]),
        figure("polygon", [[4, 8], [13, 8], [9, 27]]),
        figure("bitmap", (), bitmap=bitmap),
    ]
    write(tmp_path, *figures)
    assert detect(tmp_path)[0] == "supervisely"
    source = read(tmp_path)
    (record,), findings = drain(source)
    assert source.classes == ("dog", "cat") and not findings and record.labels.tolist() == [1] * 5
    boxes = np.sort(record.boxes.reshape(-1, 2, 2), 1).reshape(-1, 4).tolist()  # ingest puts corners in order
    assert record.polygons is not None and record.polygons.counts.tolist() == [0, 0, 0, 1, 0]
    assert record.polygons.points.tolist() == [[4.5, 8.5], [13.5, 8.5], [9.5, 27.5]]  # centers of pixels
    assert boxes == [[4, 8, 14, 28]] * 5 and (record.split, record.key) == ("train", "ds0/img/a.jpg")


def test_polygons_with_the_box_of_their_pixels_are_written(tmp_path: Path) -> None:
    shapes = [[4, 8], [13, 8], [9, 27]], [[1, 2], [3.25, 2], [3, 40.5], [2, 4]]
    write(tmp_path / "in", *(figure("polygon", shape) for shape in shapes), figure("rectangle"))
    put_supervisely(read(tmp_path / "in"), tmp_path / "out")
    (record,), _ = drain(read(tmp_path / "in"))
    (again,), findings = drain(read(tmp_path / "out"))
    for polygons in (record.polygons, again.polygons):
        assert polygons is not None and polygons.counts.tolist() == [1, 1, 0]
        assert (polygons.points[:3] == np.array(shapes[0]) + 0.5).all() and not findings
    assert (again.boxes == record.boxes).all() and (again.polygons.points == record.polygons.points).all()
    other = replace(record, boxes=record.boxes + np.float32(0.25))
    put_supervisely(Source(("dog", "cat"), iter([other])), tmp_path / "moved")
    (moved,), _ = drain(read(tmp_path / "moved"))
    assert (moved.boxes == other.boxes).all() and moved.polygons is None


def test_what_cannot_be_held_is_listed(tmp_path: Path) -> None:
    broken = {"data": "AAAA", "origin": [1, 2]}
    figures = [figure("point"), figure("line"), figure("bitmap", bitmap=broken), figure(classTitle=None)]
    file = write(tmp_path, *figures)
    put(tmp_path / "ds0/img/b.jpg", picture())
    put(tmp_path / "ds0/ann/c.jpg.json", file.read_bytes())
    (record,), findings = drain(read(tmp_path))
    assert not len(record.boxes)
    assert [f.code for f in findings] == ["no-label", "label-orphan", *["shape-unknown"] * 3, "unknown-class"]


def test_splits_by_tags(tmp_path: Path) -> None:
    write(tmp_path, figure(), tags=("val", "night"))
    assert drain(read(tmp_path))[0][0].split == "val"
    write(tmp_path / "other", figure(), tags=("val", "train"))
    with pytest.raises(FormatError, match=r"a\.jpg\.json: tags train, val: expected one split"):
        read(tmp_path / "other")


def test_broken_files(tmp_path: Path) -> None:
    file = write(tmp_path, figure(exterior=[["4", 8], [13, 27]]))
    with pytest.raises(FormatError, match=r'objects entry 0: .*"4"') as caught:
        read(tmp_path)
    assert str(file) in str(caught.value)
    put(tmp_path / "meta.json", "{}")
    with pytest.raises(FormatError, match=r"meta\.json: .*required field `classes`"):
        read(tmp_path)
