from __future__ import annotations

import json
import shutil
import unicodedata
from collections import Counter
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from dataforge.errors import ConfigError, FormatError
from dataforge.formats.coco import read, write
from dataforge.formats.sniff import detect
from dataforge.ingest.run import ingest
from dataforge.record import CROWD
from dataforge.shards.reader import Shards
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
    assert {(f.action, f.scope) for f in findings} == {("refused", "image")}
    assert {f.key: f.code for f in findings} == {
        "../secret.jpg": "image-path",
        "/etc/passwd": "image-missing",
        "sub/../../x.jpg": "image-path",
        "C:\\a.jpg": "image-ambiguous",  # its last part is that of sub\a.jpg
        "a\0.jpg": "image-path",
    }


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
        ('{"images": [], "annotations": [{"image_id": 1, "category_id": [5]}], "categories": []}',
         r"annotations entry 0: category_id: .5.; expected"),
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


@pytest.mark.parametrize(
    ("image_ids", "of_boxes", "ids"),
    [
        (["1", "2"], [1, 2], [1, 2]),
        ([1, 2], ["1", "2"], [1, 2]),
        ([1.0, 2.0], [1, 2], [1, 2]),
        ([1, 2], [1.0, "2"], [1, 2]),
        (["01", "x"], ["01", "x"], [-1, -1]),
    ],
)
@pytest.mark.parametrize("category", [(3, 17), (3.0, 17.0), ("3", "17"), ("c3", "c17")])
def test_ids_are_the_same_as_numbers_text_and_floats(
    tmp_path: Path, image_ids: list[object], of_boxes: list[object], ids: list[int], category: tuple[object, object]
) -> None:
    facts = coco_json(["a.jpg", "b.jpg"], [box(0, [1, 1, 4, 4]), box(0, [1, 1, 5, 5])])
    for image, image_id in zip(facts["images"], image_ids, strict=True):
        image["id"] = image_id
    for annotation, image_id, number in zip(facts["annotations"], of_boxes, category, strict=True):
        annotation |= {"image_id": image_id, "category_id": number, "iscrowd": 0.0, "segmentation": None}
    facts["categories"] = [{"id": number, "name": name} for number, name in zip(category, ("cat", "dog"), strict=True)]
    put(tmp_path / "train/a.jpg", picture())
    put(tmp_path / "annotations/instances_train.json", json.dumps(facts))
    source = read(tmp_path)
    records, findings = drain(source)
    assert not findings and [(r.id, r.boxes.tolist()) for r in records] == [
        (ids[0], [[1, 1, 5, 5]]), (ids[1], [[1, 1, 6, 6]])]  # fmt: skip
    assert source.class_ids == (() if "c3" in category else (3, 17))


def test_null_fields_and_names_from_urls(tmp_path: Path) -> None:
    """LVIS has URLs alone; the folder in them is that of COCO's own split."""
    facts = coco_json(
        ["", ""], [box(10, [1, 1, 4, 4], iscrowd=None, area=None), box(11, None), box(None, [1, 1, 2, 2])]
    )
    for image, folder in zip(facts["images"], ("train2017", "val2017"), strict=True):
        image |= {"file_name": None, "width": None, "coco_url": f"http://images.cocodataset.org/{folder}/a.jpg"}
        put(tmp_path / folder / "a.jpg", picture())
        put(tmp_path / "flat" / f"{folder}.jpg", picture())
    put(tmp_path / "lvis_v1_val.json", json.dumps(facts))
    records, findings = drain(read(tmp_path))
    assert [(r.split, r.key, len(r.boxes)) for r in records] == [
        ("val", "train2017/a.jpg", 1),
        ("val", "val2017/a.jpg", 0),
    ]
    assert [f.code for f in findings] == ["box-missing", "unknown-image"]
    for image in facts["images"]:
        image["coco_url"] = (
            image["coco_url"].replace("/a.jpg", ".jpg").replace("cocodataset.org/", "cocodataset.org/x/")
        )
    put(tmp_path / "lvis_v1_val.json", json.dumps(facts))
    assert [r.key for r in drain(read(tmp_path, images=tmp_path / "flat"))[0]] == ["train2017.jpg", "val2017.jpg"]


def test_a_rotation_of_cvat_turns_the_box(tmp_path: Path) -> None:
    attributes = [
        {"occluded": False, "rotation": 0.0},
        {"rotation": 30.0},
        {"rotation": "180"},
        {},
        [],
        None,
        {"rotation": "x"},
    ]
    boxes = [box(10, [1, 1, 4, 4 + n], attributes=one) for n, one in enumerate(attributes)]
    (record,), findings = drain(read(coco(tmp_path, {"a.jpg": picture()}, boxes)))
    assert record.boxes[[0, 2, 3, 4, 5], 3].tolist() == [5, 7, 8, 9, 10]
    assert [(f.action, f.code, f.box) for f in findings] == [("refused", "box-rotated", 6)]
    assert record.polygons is not None and record.polygons.counts.tolist() == [0, 1, 0, 0, 0, 0]
    np.testing.assert_array_equal(record.polygons.hulls()[1], record.boxes[1])
    corner = [3 - 2 * 3**0.5 / 2 + 2.5 / 2, 3.5 - 2 / 2 - 2.5 * 3**0.5 / 2]
    np.testing.assert_allclose(record.polygons.points[0], corner, atol=1e-5)


def test_segmentations_are_kept_and_masks_are_not(tmp_path: Path) -> None:
    ring, other = [1, 1, 4, 1, 4, 5], [2, 2, 3, 2.5, 2, 3, 1, 1]
    given = [[ring], [ring, other], [], None, {"counts": "x", "size": [48, 64]}, ring, [[1, 1, 2]], "x", [[1, 2, 3, 4]]]
    boxes = [box(10, [1, 1, 4, 4 + n], segmentation=one) for n, one in enumerate(given)]
    (record,), findings = drain(read(coco(tmp_path / "set", {"a.jpg": picture()}, [box(10, [0, 0, 1, 1]), *boxes])))
    assert not findings and record.polygons is not None
    shapes = [[part.reshape(-1).tolist() for part in rings] for rings in record.polygons.lists()]
    assert shapes[:7] == [[], [ring], [ring, other], [], [], [], [ring]]
    summary = ingest(read(tmp_path / "set"), tmp_path / "out")
    assert summary.findings == {("repaired", "polygon-broken"): 2}
    kept = Shards(tmp_path / "out").table.polygons
    assert kept.counts.tolist() == [0, 1, 2, 0, 0, 0, 1, 0, 0, 0]


@pytest.mark.parametrize(
    ("file", "split"),
    [("annotations/val.json", "val"), ("x/instances_dev.json", "dev"), ("coco-test2017.json", "test2017"),
     ("valid/labels.json", "valid"), ("truth.json", "train"), ("trainer.json", "train")],
)  # fmt: skip
def test_a_file_alone_tells_its_split(tmp_path: Path, file: str, split: str) -> None:
    put(tmp_path / "data/a.jpg", picture())
    path = put(tmp_path / file, json.dumps(coco_json(["a.jpg"], [box(10, [1, 1, 4, 4])])))
    (record,), _ = drain(read(tmp_path, annotations=Path(file)))
    assert (record.split, record.image) == (split, tmp_path / "data/a.jpg")
    if path.parent.name == "annotations":
        put(tmp_path / "images/a.jpg", picture())
        assert [(r.split, r.image) for r in drain(read(path))[0]] == [(split, tmp_path / "data/a.jpg")]


def test_fiftyones_and_other_folders_of_a_split(tmp_path: Path) -> None:
    for split in ("train", "validation"):
        put(tmp_path / split / "data/a.jpg", picture())
        put(tmp_path / split / "labels.json", json.dumps(coco_json(["a.jpg"], [box(10, [1, 1, 4, 4])])))
        put(tmp_path / split / "notes.json", "{}")
    records, findings = drain(read(tmp_path))
    assert [(r.split, r.image) for r in records] == [(s, tmp_path / s / "data/a.jpg") for s in ("train", "validation")]
    assert not findings
    shutil.copy(tmp_path / "train/labels.json", tmp_path / "train/labels (2).json")
    with pytest.raises(FormatError, match=r"several JSON files \(labels \(2\)\.json, labels\.json\)"):
        read(tmp_path)


def test_a_second_file_of_boxes_is_not_passed_over(tmp_path: Path) -> None:
    text = json.dumps(coco_json(["a.jpg"], [box(10, [1, 1, 4, 4])]))
    put(tmp_path / "images/a.jpg", picture())
    put(tmp_path / "instances.json", text)
    for other in ("instances_extra.json", "more.json"):
        put(tmp_path / other, text)
        with (
            pytest.raises(FormatError, match=r"several JSON files .*instances.*--annotations")
            if other[0] == "i"
            else nullcontext()
        ):
            read(tmp_path)
        (tmp_path / other).unlink()
    for name in ("train.json", "val.json", "info.json"):  # names of splits, and what is no COCO
        put(tmp_path / "annotations" / name, "{}" if name == "info.json" else text)
    assert [r.split for r in drain(read(tmp_path))[0]] == ["train", "val"]
    put(tmp_path / "annotations/more.json", text)
    with pytest.raises(FormatError, match=r"several JSON files \(info\.json, more\.json, train"):
        read(tmp_path)


XYXY = [[10, 20, 40, 46], [30, 10, 62, 40], [1, 1, 64, 48], [40, 30, 60, 47]]


def test_a_convention_that_the_areas_or_sizes_contradict_stops(tmp_path: Path) -> None:
    def of(boxes: list[list[float]], areas: list[float | None], root: Path) -> Path:
        return coco(root, {"a.jpg": picture()}, [box(10, b, area=a) for b, a in zip(boxes, areas, strict=True)])

    def area(b: list[float]) -> float:
        return (b[2] - b[0]) * (b[3] - b[1])

    root = of(XYXY, [area(b) for b in XYXY], tmp_path / "areas")
    with pytest.raises(
        FormatError, match=r"stated areas of 4 boxes.* fit x1, y1, x2, y2 .*\[10, 20, 50, 66\] or \[10, 20, 40, 46\]"
    ):
        drain(read(root))
    assert drain(read(root, boxes="xyxy"))[0][0].boxes.tolist() == XYXY
    assert drain(read(root, boxes="xywh", unit="pixel"))[0][0].boxes[0].tolist() == [10, 20, 50, 66]
    root = of(XYXY, [None] * 4, tmp_path / "sizes")
    with pytest.raises(
        FormatError, match=r"instances_train\.json: boxes read as x, y, width.* do not fit their images"
    ):
        drain(read(root))
    unit = [[0.125, 0.25, 0.5, 0.5]]
    root = of(unit, [None], tmp_path / "unit")
    with pytest.raises(FormatError, match=r"--boxes xywh --unit pixel or --boxes xywh --unit unit"):
        drain(read(root))
    assert drain(read(root, unit="unit"))[0][0].boxes.tolist() == [[8, 12, 40, 36]]
    xywh = [[b[0], b[1], b[2] - b[0], b[3] - b[1]] for b in XYXY]
    for n, areas in enumerate(([None] * 4, [area(b) * 0.6 for b in XYXY], [area(b) for b in XYXY])):  # masks, boxes
        assert drain(read(of([*xywh], [*areas], tmp_path / f"good{n}")))[0][0].boxes.tolist() == XYXY


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


def test_lvis_states_which_classes_were_looked_for(tmp_path: Path) -> None:
    """Its federated fields are counted, and what that means for evaluation is said."""
    facts = coco_json(["a.jpg", "b.jpg"], [box(10, [1, 2, 3, 4])])
    for image, absent, partial in zip(facts["images"], ([17], []), ([3], []), strict=True):
        split_url = f"http://images.cocodataset.org/val2017/{image.pop('file_name')}"
        image |= {"coco_url": split_url, "neg_category_ids": absent, "not_exhaustive_category_ids": partial}
    for one in facts["categories"]:
        one |= {"frequency": "r", "synset": f"{one['name']}.n.01", "image_count": 1, "instance_count": 1}
    put(tmp_path / "lvis_v1_val.json", json.dumps(facts))
    for name in ("a.jpg", "b.jpg"):
        put(tmp_path / "val2017" / name, picture())
    records, findings = drain(read(tmp_path))
    assert [(r.split, len(r.boxes)) for r in records] == [("val", 1), ("val", 0)]
    (finding,) = [one for one in findings if one.code == "classes-federated"]
    assert finding.value == "1 image with neg_category_ids, 1 with not_exhaustive_category_ids"
    assert "--protocol lvis" in finding.reason


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"bbox": "x"}, r"annotations entry 5: bbox: .x.; expected `array"),
        ({"category_id": None}, None),
        ({"area": float("nan")}, None),
        ({"segmentation": [[float("nan"), 1, 2, 3, 4, 5]]}, None),
    ],
)
def test_an_entry_that_is_wrong_is_the_one_that_is_named(
    tmp_path: Path, change: dict[str, object], words: str | None
) -> None:
    """Text of polygons, which is decoded later, once hid which entry it was."""
    rows = [box(10, [1, 1, 5, 5], segmentation=[[1, 1, 6, 1, 6, 6]]) for _ in range(9)]
    rows[5] |= change
    coco(tmp_path, {"a.jpg": picture()}, rows)
    with pytest.raises(FormatError, match=words) if words else nullcontext():
        (record,), _ = drain(read(tmp_path))
        assert len(record.boxes) >= 8


def test_folders_in_names_that_the_set_does_not_have(tmp_path: Path) -> None:
    """Objects365's names begin with images/v1/; Label Studio's and others' with the folder of the set."""
    names = ["images/v1/patch8/a.jpg", "images/v2/patch16/b.jpg"]
    put(
        tmp_path / "annotations/train.json",
        json.dumps(coco_json(names, [box(10, [1, 1, 4, 4]), box(11, [2, 2, 4, 4])])),
    )
    for n, name in enumerate(("patch8/a.jpg", "patch16/b.jpg")):
        put(tmp_path / "train" / name, picture(n))
    records, findings = drain(read(tmp_path))
    assert [(r.key, r.boxes.tolist()) for r in records] == [
        ("patch8/a.jpg", [[1, 1, 5, 5]]),
        ("patch16/b.jpg", [[2, 2, 6, 6]]),
    ]
    (finding,) = findings
    assert (finding.code, finding.value) == ("images-by-name", "2 images")
    assert "without the folders images/v1/, images/v2/" in finding.reason
    assert all(Path(str(r.image)).is_file() for r in records)


def test_no_folder_is_left_out_of_names_if_an_image_is_where_its_name_says(tmp_path: Path) -> None:
    """Of val2017/ only a part is there; those in images/ may be other pictures."""
    names = ["train2017/1.jpg", "val2017/2.jpg", "val2017/3.jpg"]
    put(tmp_path / "annotations/instances_train.json", json.dumps(coco_json(names, [box(10, [1, 1, 4, 4])])))
    for n, name in enumerate(("train2017/1.jpg", "images/2.jpg", "images/3.jpg")):
        put(tmp_path / name, picture(n))
    records, findings = drain(read(tmp_path))
    assert [r.key for r in records] == names and not findings


def test_images_that_are_there_count_wherever_the_file_names_them(tmp_path: Path) -> None:
    names = [f"val2017/{n}.jpg" for n in range(60)]
    put(tmp_path / "annotations/instances_val.json", json.dumps(coco_json(names, [box(10, [1, 1, 4, 4])])))
    for n, name in enumerate((*names[-6:], "images/0.jpg", "images/2.jpg")):
        put(tmp_path / name, picture(n))
    records, findings = drain(read(tmp_path))
    assert [r.key for r in records] == names and not findings


def test_names_stay_apart(tmp_path: Path) -> None:
    """Two cameras' 1.jpg are not the one that is there."""
    put(tmp_path / "train.json", json.dumps(coco_json(["left/1.jpg", "right/1.jpg"], [box(10, [1, 1, 4, 4])])))
    put(tmp_path / "images/1.jpg", picture())
    assert [r.key for r in drain(read(tmp_path))[0]] == ["left/1.jpg", "right/1.jpg"]  # which ingest does not find


@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_names_in_other_letters_than_the_files(tmp_path: Path, form: str) -> None:
    other = "NFD" if form == "NFC" else "NFC"
    names = [unicodedata.normalize(form, "gr\u00f6\u00dfe/\u00e9.jpg"), "\u732b.jpg"]
    put(tmp_path / "train.json", json.dumps(coco_json(names, [box(10, [1, 1, 4, 4])])))
    for n, name in enumerate(names):
        put(tmp_path / "train" / unicodedata.normalize(other, name), picture(n))
    records, findings = drain(read(tmp_path))
    assert [len(r.boxes) for r in records] == [1, 0] and not findings
    assert all(Path(str(r.image)).is_file() for r in records)


def test_a_url_as_file_name(tmp_path: Path) -> None:
    put(tmp_path / "train.json", json.dumps(coco_json(["https://host/b/a%20b.jpg?x=1"], [box(10, [1, 1, 4, 4])])))
    put(tmp_path / "train/a b.jpg", picture())
    (record,), findings = drain(read(tmp_path))
    assert record.key == "train/a b.jpg" and [f.code for f in findings] == ["images-by-name"]


def test_folders_of_splits_with_annotations_in_them(tmp_path: Path) -> None:
    for n, name in enumerate(("train", "val")):
        put(tmp_path / name / "annotations/instances.json", json.dumps(coco_json(["a.jpg"], [box(10, [n, 1, 4, 4])])))
        put(tmp_path / name / "images/a.jpg", picture(n))
    put(tmp_path / ".ipynb_checkpoints/x-checkpoint.json", json.dumps(coco_json(["a.jpg"], [])))
    assert detect(tmp_path)[0] == "coco"
    records, findings = drain(read(tmp_path))
    assert [(r.split, r.boxes[0, 0]) for r in records] == [("train", 0), ("val", 1)] and not findings
