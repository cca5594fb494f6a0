from __future__ import annotations

import random
import xml.etree.ElementTree as ET
from collections import Counter
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dataforge.errors import ConfigError, FormatError
from dataforge.formats import coco, voc
from dataforge.formats.boxes import include_last
from dataforge.formats.voc.files import find_unions
from dataforge.formats.voc.forms import Forms
from dataforge.formats.voc.parser import CORNERS, Parser
from dataforge.formats.voc.reader import read
from dataforge.ingest.run import ingest
from dataforge.record import DIFFICULT, TRUNCATED, Source
from dataforge.shards.reader import Shards
from tests.formats.sets import drain, picture, put, voc_object, voc_xml
from tests.formats.suite import FormatSuite, awkward


class TestVocRoundTrip(FormatSuite):
    name = "voc"

    def test_a_name_without_a_suffix_gets_one(self, tmp_path: Path) -> None:
        records = [replace(record, key=key) for record, key in zip(awkward(("train",))[:2], ("a", "b.2"), strict=True)]
        self.compare(records, self.shards(self.write([*records], tmp_path / "set"), tmp_path / "shards"))
        assert sorted(path.name for path in tmp_path.glob("set/**/*.jpg")) == ["a.jpg", "b.2.jpg"]

    def test_unions_come_back_and_are_stored_once(self, tmp_path: Path) -> None:
        unions = {"trainval": ("train", "val"), "all": ("train",)}
        self.write([*awkward(("train", "val"))], tmp_path / "set", unions=unions)
        source = read(tmp_path / "set")
        assert source.unions == {"trainval": ("train", "val")}
        assert len(drain(source)[0]) == len(awkward(("train", "val")))

    @pytest.mark.parametrize("keys", [("x.jpg", "x.png", "x.png.jpg"), ("x.png.jpg", "x.jpg", "x.png")])
    def test_names_that_clash_twice_are_refused(self, tmp_path: Path, keys: tuple[str, ...]) -> None:
        records = [replace(record, key=key) for record, key in zip(awkward(("train",)), keys, strict=False)]
        with pytest.raises(FormatError, match=r"x\.png.*: VOC cannot hold it beside 'x\."):
            self.write([*records], tmp_path / "set")

    @pytest.mark.parametrize("key", [" a.jpg", ".a.jpg", "a\nb.jpg", "a\x01.jpg", "a\x85b.jpg"])
    def test_names_that_lists_cannot_hold_are_refused(self, tmp_path: Path, key: str) -> None:
        with pytest.raises(FormatError, match="VOC cannot hold it"):
            self.write([replace(awkward(("train",))[0], key=key)], tmp_path / "set")

    def test_names_like_those_of_a_class_list_come_back(self, tmp_path: Path) -> None:
        one, two = awkward(("train", "val"))[0], awkward(("train", "val"))[-1]
        records = [replace(one, key="photo 1.jpg"), replace(two, key="photo 0.jpg")]
        self.compare(records, self.shards(self.write([*records], tmp_path / "set"), tmp_path / "shards"))

    @pytest.mark.parametrize("name", ["", " cat", "a\0b"])
    def test_class_names_that_xml_cannot_hold_are_refused(self, tmp_path: Path, name: str) -> None:
        with pytest.raises(FormatError, match="XML cannot hold it"):
            voc.write(Source((name,), iter(())), tmp_path / "set")


def voc_set(root: Path, lists: dict[str, str], names: str = "abc") -> Path:
    for name in names:
        put(root / f"JPEGImages/{name}.jpg", picture())
        put(root / f"Annotations/{name}.xml", voc_xml(f"{name}.jpg", voc_object("cat", [1, 1, 10, 10])))
    for name, text in lists.items():
        put(root / f"ImageSets/Main/{name}.txt", text)
    return root


@pytest.mark.parametrize("name", ["bccd", "fod_a_2k"])
@pytest.mark.parametrize("offset", [0, 1])
def test_agrees_with_an_independent_reading(shared_data: Path, name: str, offset: int) -> None:
    root = shared_data / name
    source = read(root, voc_offset=offset)
    records, findings = drain(source)
    stored = {"bccd": {"train", "val", "test"}, "fod_a_2k": {"trainval", "test"}}[name]
    assert {r.split for r in records} == stored
    assert source.unions == ({"trainval": ("train", "val")} if name == "bccd" else {})
    assert source.total == len(records)
    for split in stored:
        ids = (root / f"ImageSets/Main/{split}.txt").read_text().split()
        assert [Path(r.key).stem for r in records if r.split == split] == ids
    for record in records:
        objects = ET.parse(root / "Annotations" / f"{Path(record.key).stem}.xml").findall(".//object")
        corners = [[float(o.findtext(f"bndbox/{k}") or "x") for k in CORNERS] for o in objects]
        expected = np.array(corners).reshape(-1, 4) - np.array([offset, offset, 0, 0])
        np.testing.assert_array_equal(record.boxes, expected.astype(np.float32))
        assert [source.classes[label] for label in record.labels] == [o[0].text for o in objects]
        assert [bool(f & DIFFICULT) for f in record.flags] == [o.findtext("difficult") == "1" for o in objects]
        assert [bool(f & TRUNCATED) for f in record.flags] == [o.findtext("truncated") == "1" for o in objects]
        assert record.key.startswith("JPEGImages/")
    codes = Counter(f.code for f in findings)
    if offset == 0:
        assert not codes
    elif name == "bccd":
        assert codes == {"box-one-pixel": 2} and all(f.action == "noted" for f in findings)
    else:
        assert (
            codes == {"touches-zero": 1} and findings[0].value == "137 boxes" and "--voc-offset 0" in findings[0].reason
        )


def test_voc_and_coco_tell_the_same(shared_data: Path) -> None:
    root = shared_data / "formats/toy_voc10"
    from_voc, findings = drain(voc.read(root, voc_offset=0))
    file = next((root / "gts_coco_format").iterdir())
    from_coco, _ = drain(coco.read(root, annotations=file, images=root / "images"))
    assert [f.code for f in findings] == ["no-annotation"] * 2
    truth = {Path(r.key).stem: r for r in from_voc}
    assert (len(from_voc), len(from_coco)) == (12, 10) and sum(len(r.boxes) for r in from_voc) == 12
    for record in from_coco:
        mine = truth[Path(record.key).stem]
        assert (record.height, record.width) == (mine.height, mine.width)
        np.testing.assert_array_equal(np.sort(record.boxes, 0), np.sort(mine.boxes, 0))


def test_unions_are_stored_once_only_when_all_parts_are_taken(tmp_path: Path) -> None:
    voc_set(
        tmp_path, {"train": "a\r\n", "val": "b\r\n", "trainval": "b\na\n", "cat_train": "a  1\nb -1\n", "test": "c"}
    )
    source = read(tmp_path)
    assert source.unions == {"trainval": ("train", "val")}
    records, findings = drain(source)
    assert [(r.split, r.key) for r in records] == [
        ("test", "JPEGImages/c.jpg"),
        ("train", "JPEGImages/a.jpg"),
        ("val", "JPEGImages/b.jpg"),
    ]
    assert not findings
    for splits in (("trainval",), ("trainval", "train")):
        source = read(tmp_path, split=splits)
        records, findings = drain(source)
        assert not source.unions and len(records) == 1 + len(splits)
        assert [f.code for f in findings] == ["splits-overlap"] * (len(splits) - 1)


@given(st.dictionaries(st.sampled_from("stuvwxyz"), st.sets(st.integers(0, 7)), max_size=6))
def test_a_union_is_its_disjoint_parts(ids: dict[str, set[int]]) -> None:
    sets = {name: set(map(str, numbers)) for name, numbers in ids.items()}
    unions = find_unions(sets)
    for name, parts in unions.items():
        assert set.union(*(sets[p] for p in parts)) == sets[name]
        assert sum(len(sets[p]) for p in parts) == len(sets[name])
        assert not set(parts) & unions.keys()
    for name in sets.keys() - unions.keys():  # all ways to put it together were tried
        smaller = [ids for other, ids in sets.items() if other not in unions and ids and ids < sets[name]]
        for count in range(1, len(smaller) + 1):
            for parts in combinations(smaller, count):
                disjoint = sum(map(len, parts)) == len(sets[name])
                assert not (disjoint and set.union(*parts) == sets[name])


def test_a_large_part_does_not_hide_a_union() -> None:
    sets = {"train": {"a", "b"}, "val": {"c", "d"}, "most": {"a", "b", "c"}, "trainval": {"a", "b", "c", "d"}}
    assert find_unions(sets) == {"trainval": ("train", "val")}


def test_lists_with_faults(tmp_path: Path) -> None:
    voc_set(tmp_path, {"train": "\ufeffa\na\nb.jpg\nnone\nd\n"})
    put(tmp_path / "Annotations/d.xml", voc_xml("d.jpg"))
    put(tmp_path / "Annotations/orphan.xml", "broken, but nobody asked")
    records, findings = drain(read(tmp_path))
    assert [r.key for r in records] == ["JPEGImages/a.jpg", "JPEGImages/b.jpg"]
    assert {(f.code, f.key, f.value, f.action, f.scope) for f in findings} == {
        ("listed-twice", "", "a: 2 times", "noted", "set"),
        ("annotation-missing", "", "none", "refused", "image"),
        ("image-missing", "", "d.jpg", "refused", "image"),
        ("annotation-not-listed", "", "c", "noted", "set"),
        ("annotation-not-listed", "", "orphan", "noted", "set"),
        ("image-not-listed", "JPEGImages/c.jpg", "c", "noted", "set"),
    }


@pytest.mark.parametrize("filename", ["other.jpg", r"C:\Users\me\set\other.jpg", "/home/me/set/other.jpg"])
def test_a_picture_that_a_listed_file_names_is_used_and_not_called_unlisted(tmp_path: Path, filename: str) -> None:
    voc_set(tmp_path, {"train": "a\nb\nc\nd\n"})
    put(tmp_path / "Annotations/d.xml", voc_xml(filename))
    put(tmp_path / "JPEGImages/other.jpg", picture())
    records, findings = drain(read(tmp_path))
    assert records[-1].key == "JPEGImages/other.jpg" and findings == []


@pytest.mark.parametrize("layout", [("xml files", "photos"), (".", "."), ("one", "one"), (".", "photos")])
def test_folders_of_any_name(tmp_path: Path, layout: tuple[str, str]) -> None:
    annotations, pictures = layout
    put(tmp_path / annotations / "a.xml", voc_xml("other.png", voc_object("cat", [1, 1, 2, 2])))
    put(tmp_path / annotations / "gone.xml", voc_xml("gone.jpg"))
    put(tmp_path / pictures / "a.jpg", picture())
    put(tmp_path / pictures / "bare.JPG", picture())
    records, findings = drain(read(tmp_path))
    place = Path(pictures, "a.jpg").as_posix()
    assert [(r.key, r.split, len(r.boxes)) for r in records] == [
        (place, "train", 1),
        (Path(pictures, "bare.JPG").as_posix(), "train", 0),
    ]
    assert [(f.code, f.action, f.scope) for f in findings] == [
        ("no-annotation", "noted", "image"),
        ("image-missing", "refused", "image"),
    ]


def test_a_folder_a_split(tmp_path: Path) -> None:
    for split in ("train", "valid"):
        put(tmp_path / split / "a.xml", voc_xml("a.jpg", voc_object(split, [1, 1, 2, 2])))
        put(tmp_path / split / "a.jpg", picture())
        put(tmp_path / "pairs/xml" / split / "a.xml", voc_xml("a.jpg", voc_object(split, [1, 1, 2, 2])))
        put(tmp_path / "pairs/jpg" / split / "a.jpg", picture())
    source = read(tmp_path / "pairs")
    assert source.classes == ("train", "valid")
    assert [(r.split, r.key, r.labels.tolist()) for r in drain(source)[0]] == [
        ("train", "jpg/train/a.jpg", [0]),
        ("valid", "jpg/valid/a.jpg", [1]),
    ]
    for path in (tmp_path / "pairs").rglob("*.*"):
        path.unlink()
    assert [(r.split, r.key) for r in drain(read(tmp_path))[0]] == [("train", "train/a.jpg"), ("valid", "valid/a.jpg")]


def test_the_picture_is_found_by_stem_and_filename_decides(tmp_path: Path) -> None:
    put(tmp_path / "a.xml", voc_xml("a.png"))
    put(tmp_path / "a.jpg", picture())
    put(tmp_path / "a.png", picture())
    put(tmp_path / "b.xml", voc_xml("renamed.jpg"))
    put(tmp_path / "renamed.jpg", picture())
    put(tmp_path / "c.xml", voc_xml("../outside.jpg"))
    records, findings = drain(read(tmp_path))
    assert [r.key for r in records if r.origin.endswith("xml")] == ["a.png", "renamed.jpg"]
    assert ("image-missing", "", "../outside.jpg") in [(f.code, f.key, f.value) for f in findings]


def test_objects_and_flags(tmp_path: Path) -> None:
    inner = "<attributes><attribute><name>track</name></attribute></attributes>"
    part = "<part><name>head</name><bndbox><xmin>0</xmin></bndbox></part>"
    objects = "".join(
        [
            voc_object("b", [5, 6, 7, 8], inner + part + "<difficult>true</difficult><truncated>0</truncated>"),
            voc_object("a", [5.5, 6, 7, 8], "<difficult>False</difficult><truncated>1</truncated>"),
            voc_object("a", [5, 6, 5, 8], "<difficult>maybe</difficult>"),
            voc_object("a", ["", "x", 7, 8]),
            voc_object("", [1, 2, 3, 4]),
        ]
    )
    put(tmp_path / "a.xml", voc_xml("a.jpg", objects))
    put(tmp_path / "a.jpg", picture())
    source = read(tmp_path)
    (record,), findings = drain(source)
    assert source.classes == ("a", "b")
    assert record.boxes.tolist() == [[4, 5, 7, 8], [4.5, 5, 7, 8], [4, 5, 5, 8]]
    assert record.labels.tolist() == [1, 0, 0] and record.flags.tolist() == [DIFFICULT, TRUNCATED, 0]
    assert [(f.action, f.code) for f in findings] == [
        ("noted", "flag-unknown"),
        ("noted", "box-one-pixel"),
        ("refused", "box-missing"),
        ("refused", "unknown-class"),
    ]


BOX = "<bndbox><xmin>{}</xmin><ymin>2</ymin><xmax>8</xmax><ymax>9</ymax></bndbox>"
OBJECTS = [
    "<object>\r\n\t<name>{name}</name><difficult>1</difficult>" + BOX + "</object>\n",
    "<object>" + BOX + "<pose></pose><name> {name}\n</name><truncated>{truncated}</truncated></object>",
    "<object><name>{name}</name>" + BOX + "<part><name>hand</name>" + BOX + "</part></object>",
    "<object><name>{name}</name>" + BOX + BOX + "<occluded>0</occluded></object>",
    "<object id='1'><name>{name}</name>" + BOX + "</object>",
    '<object><name kind="x">{name}</name>' + BOX + "<Name>other</Name><!-- none --></object>",
    "<object><name>{name}</name><name>second</name><box>" + BOX + "</box></object>",
    "<object><name>{name}<b>c</b></name>" + BOX + "<xmin>3</xmin></object>",
    "<object><name>{name}</name>" + BOX + "<attributes><attribute><name>rotation</name><value>30</value>"
    "</attribute></attributes></object>",
    '<object><name xmlns="x">{name}</name>' + BOX + "</object>",
]
HEADS = [
    "<annotation><filename>{name}.jpg</filename><size><width>64</width><height>48</height></size>",
    '<?xml version="1.0" encoding="UTF-8"?>\n<annotation verified="no">\n<filename>{name}</filename>',
    '<?xml version="1.0" encoding="utf-8"?>\n<annotation>\n<size><height>48</height></size><size/>' + BOX,
    '<?xml version="1.0"?> <annotation> text <source><filename>x</filename></source><filename/>',
]


def test_files_of_known_forms_are_read_as_those_parsed_in_full(tmp_path: Path) -> None:
    draw, parser, known = random.Random(1), Parser(1), 0
    forms: Forms = parser._forms
    path = tmp_path / "a.xml"
    for _ in range(1500):
        heads = draw.choices(HEADS, (9, 9, 1, 1))
        parts = [*heads, *draw.choices(OBJECTS, (20, 20, 1, 1, 1, 1, 1, 1, 1, 9), k=draw.randrange(3))]
        text = "".join(
            part.replace("{}", draw.choice(("1", " 8 ", "0", "-3", "nan", "8.5", "", "x", "1&#50;")))
            .replace("{name}", draw.choice(("cat", "caf\xe9", "", "a\r\nb", "a&amp;b", "]]>", "\x07", "\ufffe")))
            .replace("{truncated}", draw.choice(("0", "1", "True", "", "2")))
            for part in parts
        )
        text += draw.choice(["</annotation>"] * 6 + ["</annotation>\n", "</annotation><a/>", "</Annotation>", ""])
        if draw.random() < 0.1:
            at = draw.randrange(len(text))
            text = text[:at] + draw.choice(("", "<", ">", "&", "/", " ", "x")) + text[at + 1 :]
        data = text.encode("latin-1" if draw.random() < 0.1 and "\ufffe" not in text else "utf-8")
        path.write_bytes(data)
        known += forms.read(data) is not None
        alone = Parser(1)
        assert repr(parser.parse(path)) == repr(alone.parse(path)), data
        assert parser.broken.pop(path, "") == alone.broken.get(path, ""), data
        assert parser.zeros.pop(path, 0) == alone.zeros.get(path, 0), data
    assert known > 100


@pytest.mark.parametrize("inner", ["<a>x</a>" * 101, "<a>" + "x" * 4000 + "</a>", "<a>" * 100 + "</a>" * 101])
def test_large_forms_are_not_learned(inner: str) -> None:
    large = f"<object><name>cat</name>{BOX.format(1)}{inner}</object>"
    forms = Forms()
    forms.learn(f"<annotation>{large}</annotation>".encode())
    assert forms._heads and not forms._objects


def test_a_form_is_learned_once_whatever_its_texts() -> None:
    forms = Forms()
    for _ in range(2):
        forms.learn(f"<annotation><object><name>a&amp;b</name>{BOX.format(1)}</object></annotation>".encode())
    assert len(forms._objects) == 1


def test_tags_of_any_case_and_depth_and_several_boxes_of_an_object(tmp_path: Path) -> None:
    one, two, three = ([f"<{t}>{v}</{t}>" for t, v in zip(CORNERS, (n, 2, n + 5, 9), strict=True)] for n in (1, 11, 21))
    several = f"<object><name>a</name><bndbox>{''.join(one)}</bndbox><bndbox>{''.join(two)}</bndbox></object>"
    other = (
        f"<Objects><Object><Name>b</Name><shape><bndBox>{''.join(three).title()}</bndBox></shape></Object></Objects>"
    )
    stray = f"<bndbox>{''.join(one)}</bndbox>"
    put(tmp_path / "a.xml", voc_xml("a.jpg", several + other + stray).replace("annotation>", "Annotation>"))
    put(tmp_path / "a.jpg", picture())
    source = read(tmp_path)
    (record,), (finding,) = drain(source)
    assert record.boxes.tolist() == [[0, 1, 6, 9], [10, 1, 16, 9], [20, 1, 26, 9]]
    assert [source.classes[label] for label in record.labels] == ["a", "a", "b"]
    assert (finding.action, finding.code, finding.box) == ("refused", "box-missing", 3)


def test_a_rotation_of_cvat_turns_the_box(tmp_path: Path) -> None:
    def turned(degrees: object) -> str:
        attribute = f"<attribute><name>rotation</name><value>{degrees}</value></attribute>"
        return voc_object("a", [1, 2, 9, 9], f"<attributes>{attribute}</attributes>")

    put(tmp_path / "a.xml", voc_xml("a.jpg", "".join(map(turned, ("0.0", "30.0", "-180", "much")))))
    put(tmp_path / "a.jpg", picture())
    (record,), findings = drain(read(tmp_path))
    assert record.boxes[[0, 2]].tolist() == [[0, 1, 9, 9]] * 2
    assert [(f.action, f.code, f.box) for f in findings] == [("refused", "box-rotated", 3)]
    assert record.polygons is not None and record.polygons.counts.tolist() == [0, 1, 0]
    np.testing.assert_allclose(record.polygons.hulls()[1], record.boxes[1], atol=1e-5)
    np.testing.assert_allclose(record.polygons.points.mean(0), [4.5, 5], atol=1e-5)


def test_corners_are_ordered_before_the_offset(tmp_path: Path) -> None:
    corners = [[40, 60, 11, 21], [40, 21, 11, 60], [11, 21, 40, 60]]
    put(tmp_path / "a.xml", voc_xml("a.jpg", "".join(voc_object("a", one) for one in corners), (100, 100)))
    put(tmp_path / "a.jpg", picture(0, 100, 100))
    summary = ingest(read(tmp_path), tmp_path / "out")
    assert Shards(tmp_path / "out").table.boxes.tolist() == [[10, 20, 40, 60]] * 3
    assert summary.findings["repaired", "box-inverted"] == 2


@pytest.mark.parametrize("layout", ["ImageSets/{}.txt", "ImageSets/Layout/{}.txt", "{}.txt"])
@pytest.mark.parametrize(
    "line", ["{}", "{}.jpg", "./JPEGImages/{0}.jpg ./Annotations/{0}.xml", "/data/voc/JPEGImages/{}.jpg"]
)
def test_lists_elsewhere_and_of_paths(tmp_path: Path, layout: str, line: str) -> None:
    voc_set(tmp_path, {}, "ab")
    for split, name in (("train", "a"), ("val", "b")):
        put(tmp_path / layout.format(split), line.format(name) + "\n")
    records, findings = drain(read(tmp_path))
    assert [(r.split, r.key) for r in records] == [("train", "JPEGImages/a.jpg"), ("val", "JPEGImages/b.jpg")]
    assert not findings


def test_lists_of_classes_alone_tell_the_splits(tmp_path: Path) -> None:
    voc_set(tmp_path, {"cat_train": "a  1\n", "dog_train": "a -1\n", "cat_val": "b  1\nc  0\n"})
    assert [(r.split, r.key[-5]) for r in drain(read(tmp_path))[0]] == [("train", "a"), ("val", "b"), ("val", "c")]
    put(tmp_path / "ImageSets/Main/cat.txt", "c 1")
    with pytest.raises(FormatError, match=r"cat\.txt: a list of one class"):
        read(tmp_path)
    for name in ("Layout", "Segmentation"):
        put(tmp_path / f"other/ImageSets/{name}/train.txt", "a")
    with pytest.raises(FormatError, match="lists in Layout, Segmentation, but not in Main"):
        read(voc_set(tmp_path / "other", {}))


def test_a_filename_that_names_another_image(tmp_path: Path) -> None:
    put(tmp_path / "x/1.xml", voc_xml("photo.jpg", voc_object("cat", [1, 1, 5, 5])))  # which has no file of its own
    put(tmp_path / "x/2.xml", voc_xml("3.jpg", voc_object("cat", [1, 1, 5, 5])))
    put(tmp_path / "x/3.xml", voc_xml("3.jpg", voc_object("cat", [1, 1, 6, 6])))
    put(tmp_path / "x/4.xml", voc_xml("/mnt/elsewhere/renamed.jpg", voc_object("cat", [1, 1, 7, 7])))
    for name in ("1", "2", "3", "photo", "renamed"):
        put(tmp_path / f"x/{name}.jpg", picture())
    records, findings = drain(read(tmp_path))
    assert [(r.key, r.boxes[:, 2].tolist()) for r in records if len(r.boxes)] == [
        ("x/2.jpg", [5]), ("x/3.jpg", [6]), ("x/renamed.jpg", [7])]  # fmt: skip
    assert [(f.action, f.code, f.key) for f in findings] == [
        ("refused", "image-ambiguous", "x/1.jpg"),
        ("noted", "filename-differs", "x/2.jpg"),
        ("refused", "image-ambiguous", "x/photo.jpg"),
        ("noted", "no-annotation", "x/renamed.jpg"),
    ]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("<annotation>\n<object></annotation>", "line 2, column 10"),
        ("", "no element found: line 1, column 0"),
        ('<!DOCTYPE a [<!ENTITY x "y">]><annotation>&x;</annotation>', "entity"),
        ('<?xml version="1.0" encoding="nonsense"?><annotation/>', "not XML"),
        ("<annotations/>", "<annotations>; expected <annotation>"),
    ],
)
def test_a_broken_xml_refuses_its_image_alone(tmp_path: Path, text: str, reason: str) -> None:
    voc_set(tmp_path, {"train": "a\nb\nc\n"})
    file = put(tmp_path / "Annotations/b.xml", text)
    records, (finding,) = drain(read(tmp_path))
    assert len(records) == 2 and (finding.action, finding.scope, finding.file) == ("refused", "image", str(file))
    assert reason in finding.reason


def test_an_entity_in_utf16_is_seen(tmp_path: Path) -> None:
    voc_set(tmp_path, {"train": "a\nb\n"}, "ab")
    bomb = '<?xml version="1.0" encoding="utf-16"?><!DOCTYPE a [<!ENTITY x "y">]><annotation>&x;</annotation>'
    put(tmp_path / "Annotations/b.xml", bomb.encode("utf-16"))
    _, (finding,) = drain(read(tmp_path))
    assert "entity" in finding.reason


def test_wrong_folders(tmp_path: Path) -> None:
    put(tmp_path / "VOC2007/ImageSets/Main/train.txt", "a")
    with pytest.raises(FormatError, match=r"no XML files found; expected ImageSets/Main.*did you mean .*VOC2007"):
        read(tmp_path)
    put(tmp_path / "a.xml", voc_xml("a.jpg"))
    with pytest.raises(FormatError, match="no pictures found"):
        read(tmp_path)
    put(tmp_path / "a.jpg", b"")
    with pytest.raises(ConfigError, match="--voc-offset 2: expected 1 or 0"):
        read(tmp_path, voc_offset=2)


@settings(max_examples=200, deadline=None)
@given(st.tuples(*[st.integers(-3, 6) | st.floats(-3, 6)] * 4), st.sampled_from([0, 1]))
def test_one_box_has_the_edges_that_include_last_gives(corners: tuple[float, ...], offset: int) -> None:
    """The parser's scalar rule is the one of all formats."""
    expected = include_last(np.array([corners], np.float64), -offset, 0)[0]
    np.testing.assert_array_equal(Parser(offset)._edges(*corners), expected)


def test_lists_of_classes_that_name_files(tmp_path: Path) -> None:
    """VoTT's: cat_train.txt has lines of "a.jpg 1"."""
    for n, name in enumerate("ab"):
        put(tmp_path / f"Annotations/{name}.xml", voc_xml(f"{name}.jpg", voc_object("cat", [2, 2, 5, 5])))
        put(tmp_path / f"JPEGImages/{name}.jpg", picture(n))
    put(tmp_path / "ImageSets/Main/cat_train.txt", "a.jpg 1\n")
    put(tmp_path / "ImageSets/Main/cat_val.txt", "b.jpg -1\n")
    records, findings = drain(read(tmp_path))
    assert [(r.split, r.key) for r in records] == [("train", "JPEGImages/a.jpg"), ("val", "JPEGImages/b.jpg")]
    assert not findings


@pytest.mark.parametrize("names", [("Annotations", "JPEGImages"), ("annotations", "images")])
def test_folders_of_splits_with_both_folders_in_them(tmp_path: Path, names: tuple[str, str]) -> None:
    for n, split in enumerate(("train", "val")):
        put(tmp_path / split / names[0] / "a.xml", voc_xml("a.jpg", voc_object("cat", [2 + n, 2, 5, 5])))
        put(tmp_path / split / names[1] / "a.jpg", picture(n))
    records, findings = drain(read(tmp_path))
    assert [(r.split, r.boxes[0, 0]) for r in records] == [("train", 1), ("val", 2)] and not findings
