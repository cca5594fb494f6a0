from __future__ import annotations

import json
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from dataforge.errors import ConfigError, FormatError
from dataforge.formats.coco import read, write
from dataforge.record import CROWD
from tests.formats.sets import CATEGORIES, box, coco, coco_json, drain, picture, put
from tests.formats.suite import FormatSuite, awkward


class TestCocoRoundTrip(FormatSuite):
    name = "coco"

    def test_numbers_that_are_missing_or_taken_are_given(self, tmp_path: Path) -> None:
        one, two, three, four = awkward(("train",))[:4]
        records = [replace(one, id=-1), replace(two, id=7), replace(three, id=7), replace(four, id=-1)]
        file = self.write([*records], tmp_path / "set") / "annotations/instances_train.json"
        assert [image["id"] for image in json.loads(file.read_text())["images"]] == [8, 7, 9, 10]
        expected = [replace(one, id=8), two, replace(three, id=9), replace(four, id=10)]
        self.compare([expected[0], replace(two, id=7), *expected[2:]], self.shards(tmp_path / "set", tmp_path / "out"))

    def test_short_numbers_stay_short(self, tmp_path: Path) -> None:
        xywh = [[473.07, 395.93, 38.65, 28.67], [0.1, 0.2, 47.3, 11.9], [1, 2, 3, 4]]
        coco(tmp_path / "in", {"a.jpg": picture()}, [box(10, bbox, area=7.25) for bbox in xywh])
        write(read(tmp_path / "in"), tmp_path / "set")
        rows = json.loads((tmp_path / "set/annotations/instances_train.json").read_text())["annotations"]
        assert [row["bbox"] for row in rows] == xywh and {row["area"] for row in rows} == {7.25}


@pytest.mark.parametrize("split", ["train2017", "val2017"])
def test_agrees_with_pycocotools(shared_data: Path, split: str) -> None:
    from pycocotools.coco import COCO

    root = shared_data / "coco_mini"
    truth = COCO(str(root / f"annotations/instances_{split}.json"))
    source = read(root, split=(split,))
    records, findings = drain(source)
    assert not findings
    assert source.classes == tuple(c["name"] for c in truth.loadCats(sorted(truth.getCatIds())))
    assert source.class_ids == tuple(sorted(truth.getCatIds()))
    assert {r.id for r in records} == set(truth.getImgIds())
    for record in records:
        facts = truth.loadImgs(record.id)[0]
        anns = truth.loadAnns(truth.getAnnIds(imgIds=record.id))
        xywh = np.array([a["bbox"] for a in anns], np.float64).reshape(-1, 4)
        assert (record.key, record.height, record.width) == (facts["file_name"], facts["height"], facts["width"])
        expected = np.concatenate([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]], 1).astype(np.float32)
        np.testing.assert_array_equal(record.boxes, expected)
        assert [source.class_ids[label] for label in record.labels] == [a["category_id"] for a in anns]
        assert record.flags.tolist() == [CROWD * a["iscrowd"] for a in anns]
        assert record.areas is not None
        np.testing.assert_array_equal(record.areas, np.array([a["area"] for a in anns], np.float32))


def test_all_layouts_give_the_same(tmp_path: Path) -> None:
    pictures = {"a.jpg": picture(0), "b.jpg": picture(1)}
    text = json.dumps(coco_json(list(pictures), [box(10, [1, 2, 3, 4]), box(11, [5, 6, 7, 8], 17)]))
    layouts = {
        "usual": ("annotations/instances_train.json", "train"),
        "images_split": ("annotations/instances_train.json", "images/train"),
        "images": ("annotations/instances_train.json", "images"),
        "named": ("annotations/train.json", "images/train"),
        "roboflow": ("train/_annotations.coco.json", "train"),
        "one_in_root": ("labels.JSON", "images"),
        "one_in_annotations": ("annotations/all.json", "pictures/.."),
        "flat": ("_annotations.coco.json", "."),
    }
    for name, (file, folder) in layouts.items():
        root = tmp_path / name
        put(root / file, text)
        for key, data in pictures.items():
            put(root / folder / key, data)
        records, findings = drain(read(root))
        assert not findings
        assert [(r.key, r.split, r.boxes.tolist(), r.labels.tolist()) for r in records] == [
            ("a.jpg", "train", [[1, 2, 4, 6]], [0]),
            ("b.jpg", "train", [[5, 6, 12, 14]], [1]),
        ], name
        assert all(isinstance(r.image, Path) and r.image.is_file() for r in records), name


def test_explicit_file_and_folder(tmp_path: Path) -> None:
    put(tmp_path / "x/truth.json", json.dumps(coco_json(["a.jpg"], [])))
    put(tmp_path / "y/a.jpg", picture())
    source = read(tmp_path, annotations=tmp_path / "x/truth.json", images=tmp_path / "y", split=("mine",))
    (record,), _ = drain(source)
    assert (record.image, record.split, len(record.boxes)) == (tmp_path / "y/a.jpg", "mine", 0)
    below_root = drain(read(tmp_path, annotations=Path("x/truth.json"), images=Path("y")))[0]
    assert [(r.image, r.split) for r in below_root] == [(tmp_path / "y/a.jpg", "train")]
    with pytest.raises(ConfigError, match=r"--annotations nowhere\.json: does not exist"):
        read(tmp_path, annotations=Path("nowhere.json"))


def test_splits_are_picked_by_name_or_start(tmp_path: Path) -> None:
    coco(tmp_path, {"a.jpg": picture()}, split="train2017")
    coco(tmp_path, {"b.jpg": picture()}, split="val2017")
    put(tmp_path / "annotations/person_keypoints_val2017.json", "{}")  # not asked for, so not opened
    assert [r.split for r in drain(read(tmp_path))[0]] == ["train2017", "val2017"]
    assert [r.key for r in drain(read(tmp_path, split=("val",)))[0]] == ["b.jpg"]
    with pytest.raises(ConfigError, match="'test'; known: train2017, val2017"):
        read(tmp_path, split=("test",))


def test_classes_that_change_are_joined_by_name(tmp_path: Path) -> None:
    coco(tmp_path, {"a.jpg": picture()}, [box(10, [1, 1, 5, 5], 17)])
    other = [{"id": 3, "name": "dog"}, {"id": 90, "name": "bird"}]
    coco(tmp_path, {"b.jpg": picture()}, [box(10, [1, 1, 5, 5], 3), box(10, [2, 2, 5, 5], 90)], "val", categories=other)
    source = read(tmp_path)
    records, findings = drain(source)
    assert source.classes == ("cat", "dog", "bird")
    assert [[source.classes[label] for label in r.labels] for r in records] == [["dog"], ["dog", "bird"]]
    assert Counter(f.code for f in findings) == {"classes-differ": 2}
    assert {Path(f.file).name: f.value for f in findings} == {
        "instances_train.json": "lacks: bird",
        "instances_val.json": "lacks: cat; other numbers: dog (3)",
    }


def test_ids_that_clash_are_given_up(tmp_path: Path) -> None:
    coco(tmp_path, {"a.jpg": picture()})
    coco(tmp_path, {"b.jpg": picture()}, split="val", categories=[{"id": 3, "name": "bird"}])
    source = read(tmp_path)
    assert (set(source.classes), source.class_ids) == ({"cat", "bird", "dog"}, ())


def test_each_wrong_annotation_is_listed_and_the_rest_kept(tmp_path: Path) -> None:
    good = [1, 1, 5, 5]
    wrong = [box(99, good), box(10, good, 4), box(10, None), box(10, [1, 2, 3])]
    coco(tmp_path, {"a.jpg": picture()}, [*wrong, box(10, good, id=7), box(10, good, id=7)])
    (record,), findings = drain(read(tmp_path))
    assert len(record.boxes) == 2
    assert [(f.action, f.code) for f in findings] == [
        ("refused", "unknown-image"),
        ("refused", "unknown-class"),
        ("refused", "box-missing"),
        ("refused", "box-missing"),
        ("noted", "annotation-twice"),
    ]
    assert findings[0].value == "annotation 100: image_id 99" and findings[0].key == ""
    assert findings[1].value == "annotation 101: category_id 4" and findings[1].key == "a.jpg"


def test_paths_that_leave_the_folder_are_refused(tmp_path: Path) -> None:
    names = ["../secret.jpg", "/etc/passwd", "sub\\a.jpg", "sub/../../x.jpg", "C:\\a.jpg", "a\0.jpg"]
    put(tmp_path / "train/sub/a.jpg", picture())
    put(tmp_path / "annotations/instances_train.json", json.dumps(coco_json(names, [])))
    records, findings = drain(read(tmp_path))
    assert [r.key for r in records] == ["sub/a.jpg"]
    assert [f.key for f in findings] == [n for n in names if n != "sub\\a.jpg"]
    assert {(f.code, f.action, f.scope) for f in findings} == {("image-path", "refused", "image")}


def test_byte_order_mark_strange_ids_and_sizes(tmp_path: Path) -> None:
    facts = coco_json(["a.jpg", "b.jpg"], [box(10, [1, 1, 2, float("nan")])])
    facts["images"][0]["width"] = float("inf")
    facts["images"][1]["id"] = "b"
    facts["annotations"].append({"image_id": "b", "category_id": 3, "bbox": [1, 1, 2, 2], "id": None})
    put(tmp_path / "train/a.jpg", picture())
    put(tmp_path / "annotations/instances_train.json", "\ufeff" + json.dumps(facts))
    records, findings = drain(read(tmp_path))
    assert not findings and records[0].width == 0 and np.isnan(records[0].boxes[0, 3])
    assert records[1].id == -1 and len(records[1].boxes) == 1


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ('{"images": [],\n "annotations": [}', "line 2 column 18"),
        ('{"images": [{"id": 1, "file_name": 3}], "annotations": [], "categories": []}', "images entry 0: file_name"),
        ('{"images": [], "annotations": [{"image_id": 1, "category_id": "x"}], "categories": []}',
         r"annotations entry 0: category_id: .x.; expected"),
        ('{"images": [], "annotations": [], "categories": []}', "categories is empty"),
        ('{"images": [], "categories": []}', "annotations"),
        ("[]", "object"),
        ("", "not JSON"),
        ('{"images": [{"id": 1, "file_name": "a"}, {"id": 1, "file_name": "b"}], "annotations": [], "categories": ['
         '{"id": 1, "name": "x"}]}', "id 1 is given twice"),
        ('{"images": [], "annotations": [], "categories": [{"id": 1, "name": "x"}, {"id": 1, "name": "y"}]}', "id 1"),
    ],
)  # fmt: skip
def test_a_broken_file_is_named_with_the_place(tmp_path: Path, text: str, where: str) -> None:
    file = put(tmp_path / "annotations/instances_train.json", text)
    with pytest.raises(FormatError, match=where) as caught:
        drain(read(tmp_path))
    assert str(file) in str(caught.value)


def test_several_files_without_a_clue(tmp_path: Path) -> None:
    put(tmp_path / "a.json", "{}")
    put(tmp_path / "b.json", "{}")
    with pytest.raises(FormatError, match=r"a\.json, b\.json.*--annotations"):
        read(tmp_path)
    shutil.rmtree(tmp_path)
    with pytest.raises(FormatError, match="does not exist"):
        read(tmp_path)
    (tmp_path / "sub").mkdir(parents=True)
    with pytest.raises(FormatError, match=r"no COCO annotations found; expected annotations/instances_"):
        read(tmp_path)


def test_one_name_with_two_ids_is_one_class(tmp_path: Path) -> None:
    coco(
        tmp_path,
        {"a.jpg": picture()},
        [box(10, [1, 1, 2, 2], 3), box(10, [1, 1, 2, 2], 5)],
        categories=[*CATEGORIES, {"id": 5, "name": "cat"}],
    )
    source = read(tmp_path)
    (record,), findings = drain(source)
    assert source.classes == ("cat", "dog") and record.labels.tolist() == [0, 0]
    assert [f.code for f in findings] == ["class-twice"]
