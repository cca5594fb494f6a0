"""What a reader says about a box names the box: the key of its record alone, its number there, and where it is."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dataforge.formats import FORMATS, reader
from dataforge.record import Finding
from tests.formats import named, test_flatbuffer, test_sqlite
from tests.formats.sets import box, coco, drain, picture, put, voc_object, voc_xml

GOOD, BAD = [1, 1, 5, 5], [2, 3, 6, 8]  # the first box is fine, the second's class is not known


def write_createml(root: Path) -> object:
    made = [
        {"label": label, "coordinates": {"x": (x1 + x2) / 2, "y": (y1 + y2) / 2, "width": x2 - x1, "height": y2 - y1}}
        for label, (x1, y1, x2, y2) in (("cat", GOOD), ("", BAD))
    ]
    return put(root / "set.json", json.dumps([{"image": "a.jpg", "annotations": made}]))


def write_cvat(root: Path) -> object:
    shapes = "".join(
        f'<box label="{name}" xtl="{x1}" ytl="{y1}" xbr="{x2}" ybr="{y2}"/>'
        for name, (x1, y1, x2, y2) in (("cat", GOOD), ("dog", BAD))
    )
    labels = "<meta><task><labels><label><name>cat</name></label></labels></task></meta>"
    return put(
        root / "annotations.xml",
        f'<annotations>{labels}<image name="a.jpg" width="64" height="48">{shapes}</image></annotations>',
    )


def write_labelme(root: Path) -> object:
    shapes = [
        {"label": name, "points": [xyxy[:2], xyxy[2:]], "shape_type": "rectangle"}
        for name, xyxy in (("cat", GOOD), ("", BAD))
    ]
    return put(root / "other.json", json.dumps({"shapes": shapes, "imagePath": "a.jpg"}))


def write_kitti(root: Path) -> object:
    return put(root / "a.txt", "cat 0 0 -10 1 1 5 5 -1 -1 -1 -1000 -1000 -1000 -10\ncat 0 0 -10 2 3 6\n")


def labelstudio(boxes: list[tuple[str | None, list[int]]]) -> str:
    values = [
        {
            "x": x1 / 0.64,
            "y": y1 / 0.48,
            "width": (x2 - x1) / 0.64,
            "height": (y2 - y1) / 0.48,
            "labels": [name] * bool(name),
        }
        for name, (x1, y1, x2, y2) in boxes
    ]
    result = [{"type": "rectangle", "value": value} for value in values]
    return json.dumps([{"data": {"image": "a.jpg"}, "annotations": [{"result": result}]}])


def write_lists(root: Path) -> None:
    entry = {"boxes": [GOOD, [2, 3, 5, 7]], "labels": [1, 9], "difficulties": [0, 0]}
    put(root / "TRAIN_images.json", '["a.jpg"]')
    put(root / "TRAIN_objects.json", json.dumps([entry]))
    put(root / "label_map.json", '{"background": 0, "cat": 1}')


def write_matlab(root: Path) -> object:
    row = {"Var1": "a.jpg", "cat": [[1, 1, 5, 5], [3, 4, 4, 5]]}
    return put(root / "set.json", json.dumps([row, {"Var1": "a.jpg", "cat": [[3, 4, 4, 5]]}]))  # a box that is twice


def write_yolo(root: Path) -> None:
    put(root / "data.yaml", "train: .\nnames: [cat]")
    put(root / "a.txt", "0 .5 .5 .1 .1\n\n7 0.0625 0.11458333 0.0625 0.10416667\n")


def second(one: dict[str, Any], **change: Any) -> list[dict[str, Any]]:
    """An annotation, and another with other values."""
    return [one, {**one, **change}]


def write_bdd100k(root: Path) -> object:
    frame = named.bdd_frame("a.jpg")
    frame["labels"] = second(*frame["labels"], category="", box2d={"x1": 2, "y1": 3, "x2": 5, "y2": 7})
    return put(root / "set.json", json.dumps([frame]))


def write_datumaro(root: Path) -> object:
    file = named.datumaro(["a.jpg"])
    file["items"][0]["annotations"] = second(*file["items"][0]["annotations"], label_id=9, bbox=[2, 3, 4, 5])
    return put(root / "default.json", json.dumps(file))


def write_croissant(root: Path) -> None:
    named.write_croissant(root, ["b.jpg", "a.jpg"])
    with open(root / "train.csv", "a") as file:
        file.write('a.jpg,,"2 3 4 5"\n')


def write_groundtruth(root: Path) -> object:
    row = named.groundtruth_row("a.jpg")
    row["box"]["annotations"] = second(*row["box"]["annotations"], class_id=9, left=2, top=3, width=4, height=5)
    return put(root / "set.manifest", named.lines([row]))


def write_labelbox(root: Path) -> object:
    row = named.labelbox_row("a.jpg")
    about = row["projects"]["p"]["labels"][0]["annotations"]
    box = {"left": 2, "top": 3, "width": 4, "height": 5}
    about["objects"] = second(*about["objects"], name=None, bounding_box=box)
    return put(root / "set.ndjson", named.lines([row]))


def write_supervisely(root: Path) -> None:
    named.write_supervisely(root, ["a.jpg"])
    file = root / "ann/a.jpg.json"
    facts = json.loads(file.read_text())
    facts["objects"] = second(*facts["objects"], classTitle="", points={"exterior": [[2, 3], [5, 7]]})
    put(file, json.dumps(facts))
    (root / "b.jpg").unlink()  # that it has no file in ann/ is another finding


def write_ultralytics(root: Path) -> object:
    rows = named.ultralytics_rows(["a.jpg"])
    rows[1]["annotations"]["boxes"].append([9, 4 / 64, 5.5 / 48, 4 / 64, 5 / 48])
    return put(root / "set.ndjson", named.lines(rows))


def write_via(root: Path) -> object:
    entry = named.via_entry("a.jpg")
    shape = {"name": "rect", "x": 2, "y": 3, "width": 4, "height": 5}
    entry["regions"] = second(*entry["regions"], shape_attributes=shape, region_attributes={})
    return put(root / "set.json", json.dumps({"a.jpg9": entry}))


def write_vott(root: Path) -> object:
    file = named.vott(["a.jpg"])
    entry = file["assets"]["0"]
    entry["regions"] = second(*entry["regions"], tags=[], boundingBox={"left": 2, "top": 3, "width": 4, "height": 5})
    return put(root / "set.json", json.dumps(file))


WRITE: dict[str, Callable[[Path], object]] = {
    "bdd100k": write_bdd100k,
    "coco": lambda root: coco(root, {"a.jpg": picture()}, [box(10, [1, 1, 4, 4]), box(10, [2, 3, 4, 5], 99)]),
    "createml": write_createml,
    "cvat": write_cvat,
    "datumaro": write_datumaro,
    "croissant": write_croissant,
    "flatbuffer": lambda root: put(
        root / "train.db",
        test_flatbuffer.build(
            [test_flatbuffer.example(0, test_flatbuffer.box(*GOOD), test_flatbuffer.box(*BAD, 99), file_name="a.jpg")]
        ),
    ),
    "groundtruth": write_groundtruth,
    "kitti": write_kitti,
    "labelbox": write_labelbox,
    "labelme": write_labelme,
    "labelstudio": lambda root: put(root / "set.json", labelstudio([("cat", GOOD), (None, BAD)])),
    "lists": write_lists,
    "matlab": write_matlab,
    "mot": lambda root: put(root / "gt/gt.txt", "1,1,2,2,4,4,1,3,1\n1,2,3,4,4,5,1,99,1\n"),
    "sqlite": lambda root: test_sqlite.database(
        root / "train.db", [("a.jpg", 1)], [("1,1,5,5", 3, 1, 0, None), ("2,3,6,8", 99, 1, 0, None)]
    ),
    "supervisely": write_supervisely,
    "table": lambda root: put(
        root / "train.csv", "filename,class,xmin,ymin,xmax,ymax\nb.jpg,cat,1,1,5,5\na.jpg,cat,1,1,5,5\na.jpg,,2,3,6,8\n"
    ),
    "voc": lambda root: put(
        root / "a.xml", voc_xml("a.jpg", voc_object("cat", [2, 2, 5, 5]) + voc_object("", [3, 4, 6, 8]))
    ),
    "ultralytics": write_ultralytics,
    "via": write_via,
    "visdrone": lambda root: put(root / "a.txt", "1,1,4,4,1,4,0,0\n2,3,4,5,1,99,0,0\n"),
    "vott": write_vott,
    "yolo": write_yolo,
}


ONE_CLASS = {"crowdhuman", "widerface"}  # where a box that is read cannot be wrong


@pytest.mark.parametrize("name", sorted(FORMATS.keys() - ONE_CLASS))
def test_a_finding_about_a_box_has_its_place_in_fields(tmp_path: Path, name: str) -> None:
    put(tmp_path / "a.jpg", picture())
    put(tmp_path / "b.jpg", picture(1))
    WRITE[name](tmp_path)
    records, findings = drain(reader(name)(tmp_path))
    (finding,) = [finding for finding in findings if finding.scope == "box"]
    assert finding.key == "a.jpg" and finding.key in {record.key for record in records}
    assert finding.box == (2 if name == "matlab" else 1)
    assert type(finding.box) is int
    if name in ("kitti", "visdrone"):  # a broken line is all that can be wrong with a box
        assert finding.code == "line-broken" and finding.xyxy is None
        return
    assert finding.xyxy is not None and finding.xyxy == pytest.approx(BAD, abs=1e-4)
    assert all(type(number) is float for number in finding.xyxy)


def test_the_place_in_the_file_is_kept_in_the_value(tmp_path: Path) -> None:
    expected = {
        "coco": "annotation 101: category_id 99",
        "sqlite": "annotations row 2: 99",
        "table": "row 4: ",
        "yolo": "line 3: 7 0.0625",
        "matlab": "cat 0: [3",
    }
    for name, start in expected.items():
        put(tmp_path / name / "a.jpg", picture())
        WRITE[name](tmp_path / name)
        found: list[Finding] = drain(reader(name)(tmp_path / name))[1]
        assert [finding.value.startswith(start) for finding in found if finding.scope == "box"] == [True], found


def test_an_annotation_that_is_given_twice_is_found_in_its_image(tmp_path: Path) -> None:
    boxes = [box(11, [9, 9, 1, 1], id=5), box(10, [1, 1, 4, 4], id=7), box(11, [2, 3, 4, 5], id=7)]
    _, findings = drain(reader("coco")(coco(tmp_path, {"a.jpg": picture(), "b.jpg": picture(1)}, boxes)))
    (twice,) = findings
    assert (twice.code, twice.key, twice.box, twice.xyxy) == ("annotation-twice", "b.jpg", 1, (2, 3, 6, 8))
    assert twice.value == "annotation 7"
