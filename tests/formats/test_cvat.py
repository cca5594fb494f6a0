from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from dataforge.errors import ConfigError, FormatError
from dataforge.formats.cvat import read, write
from dataforge.record import CROWD, DIFFICULT, TRUNCATED, Record, Source
from tests.cli.test_bad_input import kinds, refused, run
from tests.formats.sets import drain, picture, put
from tests.formats.suite import FormatSuite

BOX = '<box label="cat" occluded="0" xtl="1.50" ytl="2.00" xbr="10.00" ybr="20.25" z_order="0"></box>'


class TestCvatRoundTrip(FormatSuite):
    name = "cvat"


def image(name: str, *shapes: str, subset: str = "train") -> str:
    what = f' subset="{subset}"' if subset else ""
    return f'<image id="0" name="{name}"{what} width="64" height="48">{"".join(shapes)}</image>\n'


def xml(*images: str, labels: tuple[str, ...] = ("dog", "cat"), kind: str = "task") -> str:
    listed = "".join(f"<label><name>{name}</name><color>#fff</color></label>" for name in labels)
    return (
        '<?xml version="1.0" encoding="utf-8"?>\n<annotations><version>1.1</version>'
        f"<meta><{kind}><id>1</id><labels>{listed}</labels></{kind}></meta>\n{''.join(images)}</annotations>\n"
    )


@pytest.mark.parametrize("kind", ["task", "job", "project"])
def test_labels_in_their_order_subsets_and_empty_images(tmp_path: Path, kind: str) -> None:
    put(tmp_path / "images/train/sub dir/a.b.jpg", picture())
    put(tmp_path / "images/val/b.jpg", picture())
    put(tmp_path / "images/c.jpg", picture())
    images = [image("sub dir/a.b.jpg", BOX), image("b.jpg", subset="val"), image("c.jpg", BOX, subset="")]
    put(tmp_path / "annotations.xml", xml(*images, kind=kind))
    source = read(tmp_path)
    records, findings = drain(source)
    assert source.classes == ("dog", "cat") and source.total == 3
    assert [(r.split, r.key, r.labels.tolist(), r.boxes.tolist()) for r in records] == [
        ("train", "sub dir/a.b.jpg", [1], [[1.5, 2, 10, 20.25]]),
        ("val", "b.jpg", [], []),
        ("train", "c.jpg", [1], [[1.5, 2, 10, 20.25]]),
    ]
    assert not findings
    assert {(r.height, r.width) for r in records} == {(48, 64)}
    assert [r.split for r in drain(read(tmp_path / "annotations.xml", split=("val",)))[0]] == ["val"]
    with pytest.raises(ConfigError, match="'test'; known: train, val"):
        read(tmp_path, split=("test",))


def test_shapes_become_the_boxes_around_them(tmp_path: Path) -> None:
    shapes = [
        '<polygon label="cat" points="5.00,5.00;9.00,1.00;7.25,8.00"/>',
        '<ellipse label="cat" cx="20" cy="20" rx="4" ry="2"/>',
        '<ellipse label="cat" cx="20" cy="20" rx="4" ry="2" rotation="90.0"/>',
        '<mask label="cat" rle="1, 2" left="3" top="4" width="5" height="6"/>',
        '<box label="cat" xtl="1" ytl="2" xbr="3" ybr="4" rotation="180"/>',
    ]
    put(tmp_path / "a.jpg", picture())
    put(tmp_path / "annotations.xml", xml(image("a.jpg", *shapes)))
    (record,), findings = drain(read(tmp_path))
    assert not findings
    expected = [[5, 1, 9, 8], [16, 18, 24, 22], [18, 16, 22, 24], [3, 4, 8, 10], [1, 2, 3, 4]]
    np.testing.assert_allclose(record.boxes, expected, atol=1e-5)


def test_a_turned_ellipse_is_inside_its_box_and_touches_it(tmp_path: Path) -> None:
    put(tmp_path / "a.jpg", picture())
    put(tmp_path / "a.xml", xml(image("a.jpg", '<ellipse label="cat" cx="30" cy="20" rx="9" ry="3" rotation="33"/>')))
    (record,), _ = drain(read(tmp_path))
    turn, around = math.radians(33), np.linspace(0, 2 * math.pi, 100_000)
    x = 30 + 9 * np.cos(around) * math.cos(turn) - 3 * np.sin(around) * math.sin(turn)
    y = 20 + 9 * np.cos(around) * math.sin(turn) + 3 * np.sin(around) * math.cos(turn)
    np.testing.assert_allclose(record.boxes[0], [x.min(), y.min(), x.max(), y.max()], atol=1e-4)


def test_what_is_no_upright_box_is_refused_and_listed(tmp_path: Path) -> None:
    shapes = {
        '<points label="cat" points="1,1;2,2;3,3"/>': "shape-unknown",
        '<polyline label="cat" points="1,1;2,2;3,3"/>': "shape-unknown",
        '<cuboid label="cat" xtl1="1"/>': "shape-unknown",
        '<tag label="cat"/>': "shape-unknown",
        '<skeleton label="cat"><points label="nose" points="1,1"/></skeleton>': "shape-unknown",
        '<blob label="cat"/>': "shape-unknown",
        '<box label="bird" xtl="1" ytl="2" xbr="9" ybr="9"/>': "unknown-class",
        '<box label="cat" xtl="1,5" ytl="2" xbr="9" ybr="9"/>': "box-missing",
        '<box label="cat" xtl="1" ytl="2" xbr="9"/>': "box-missing",
        '<box label="cat" xtl="1" ytl="2" xbr="9" ybr="9" rotation="x"/>': "box-missing",
        '<polygon label="cat" points="1,1;2,2"/>': "box-missing",
        '<polygon label="cat" points="1,5,1,5;2,2;3,3"/>': "box-missing",
        '<polygon label="cat" points="x,1;2,2;3,3"/>': "box-missing",
        '<polygon label="cat"/>': "box-missing",
    }
    put(tmp_path / "a.jpg", picture())
    put(tmp_path / "annotations.xml", xml(image("a.jpg", *shapes, BOX)))
    (record,), findings = drain(read(tmp_path))
    assert len(record.boxes) == 1
    assert [f.code for f in findings] == list(shapes.values()) and {f.action for f in findings} == {"refused"}


def test_polygons_and_rotated_boxes_keep_their_points(tmp_path: Path) -> None:
    shapes = [
        BOX,
        '<box label="cat" xtl="10" ytl="10" xbr="20" ybr="30" rotation="90"/>',
        '<polygon label="cat" points="5.00,5.00;9.00,1.00;7.25,8.00"/>',
    ]
    put(tmp_path / "a.jpg", picture())
    put(tmp_path / "annotations.xml", xml(image("a.jpg", *shapes)))
    (record,), findings = drain(read(tmp_path))
    np.testing.assert_allclose(record.boxes[1:], [[5, 15, 25, 25], [5, 1, 9, 8]], atol=1e-5)
    assert not findings and record.polygons is not None and record.polygons.counts.tolist() == [0, 1, 1]
    expected = [[25, 15], [25, 25], [5, 25], [5, 15], [5, 5], [9, 1], [7.25, 8]]
    np.testing.assert_allclose(record.polygons.points, expected, atol=1e-5)


def test_attributes_are_flags_and_occluded_is_not_truncated(tmp_path: Path) -> None:
    def box(*attributes: tuple[str, str], occluded: int = 0) -> str:
        said = "".join(f'<attribute name="{name}">{value}</attribute>' for name, value in attributes)
        return f'<box label="cat" occluded="{occluded}" xtl="1" ytl="2" xbr="9" ybr="9">{said}</box>'

    shapes = [
        box(occluded=1),
        box(("Difficult", "true"), ("colour", "red")),
        box(("truncated", "1"), ("crowd", "True"), ("difficult", "false")),
    ]
    put(tmp_path / "a.jpg", picture())
    put(tmp_path / "annotations.xml", xml(image("a.jpg", *shapes)))
    (record,), _ = drain(read(tmp_path))
    assert record.flags.tolist() == [0, DIFFICULT, TRUNCATED | CROWD]


def test_files_merge_and_names_in_use_serve_where_no_label_is_listed(tmp_path: Path) -> None:
    for name in ("a", "b"):
        put(tmp_path / f"images/{name}.jpg", picture())
    put(tmp_path / "1.xml", xml(image("a.jpg", BOX), labels=()))
    put(tmp_path / "2.xml", "\ufeff" + xml(image("b.jpg", BOX)).replace("\n", "\r\n"))
    source = read(tmp_path)
    records, findings = drain(source)
    assert not findings and source.classes == ("cat", "dog")
    assert [(r.key, r.labels.tolist()) for r in records] == [("a.jpg", [0]), ("b.jpg", [0])]


BOMB = '<!DOCTYPE annotations [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;">]>'


@pytest.mark.parametrize(
    ("text", "where"),
    [
        (xml(image("a.jpg", BOX))[:-40], "not XML: .*line"),
        ("", "not XML"),
        (xml(image("a.jpg", BOX)).replace("?>", "?>" + BOMB).replace("cat", "&b;"), "document type or an entity"),
        (xml(image("a.jpg", BOX)).replace("?>", "?>" + BOMB).replace("utf-8", "utf-16").encode("utf-16"), "entity"),
        (xml(image("\xe4.jpg", BOX)).encode("latin-1"), "not XML: .*invalid token"),
        (xml(image("a.jpg", BOX)).replace("utf-8", "klingon"), "not XML: unknown encoding"),
        (xml("<track><box/></track>"), "tracks of a video"),
        (xml(), "has no <image>"),
        (xml(image("", BOX)), "image 0: has no name"),
        ("<annotation><object/></annotation>", "root element is <annotation>; expected CVAT's"),
    ],
)
def test_broken_files(tmp_path: Path, text: str | bytes, where: str) -> None:
    file = put(tmp_path / "in/annotations.xml", text)
    put(tmp_path / "in/images/a.jpg", picture())
    with pytest.raises(FormatError, match=where) as caught:
        read(tmp_path / "in")
    assert str(file) in str(caught.value)
    refused(tmp_path / "out", "cvat", tmp_path / "in")


def test_a_bomb_behind_a_long_comment(tmp_path: Path) -> None:
    text = f'<?xml version="1.0"?><!--{" " * ((1 << 16) - 31)}-->{BOMB}<annotations/>'
    assert text.index("<!DOCTYPE") < 1 << 16 < text.index("<!DOCTYPE") + 9
    with pytest.raises(FormatError, match="entity"):
        read(put(tmp_path / "a.xml", text))


def test_paths_that_leave_the_folder_are_refused(tmp_path: Path) -> None:
    put(tmp_path / "secret.jpg", picture())
    put(tmp_path / "in/images/a.jpg", picture())
    names = ["a.jpg", "../secret.jpg", "images/../../secret.jpg", str(tmp_path / "secret.jpg")]
    put(tmp_path / "in/annotations.xml", xml(*(image(name, BOX) for name in names)))
    assert "refused images: 3" in refused(tmp_path / "out", "cvat", tmp_path / "in")
    assert kinds(tmp_path / "out") == [
        ("refused", "image-path"),
        ("refused", "image-path"),
        ("refused", "image-missing"),
    ]
    assert run("cvat", tmp_path / "in", "--out", tmp_path / "out", "--max-bad", 3).exit_code == 0


def test_missing_and_empty_folders(tmp_path: Path) -> None:
    assert "does not exist; expected annotations.xml" in refused(tmp_path / "out", "cvat", tmp_path / "nowhere")
    put(tmp_path / "in/readme.md", "x")
    assert "no XML file found; expected annotations.xml" in refused(tmp_path / "out", "cvat", tmp_path / "in")


@pytest.mark.parametrize("name", ["bell\a", "\ufffe", "\ud800"])
def test_names_that_xml_cannot_hold(tmp_path: Path, name: str) -> None:
    with pytest.raises(FormatError, match="cannot hold"):
        write(Source((name,), iter(())), tmp_path / "out")


def test_names_with_marks_come_back(tmp_path: Path) -> None:
    classes = ("a \"b\" <c> & 'd'", "line\nbreak\r\n", " blank ")
    labels = np.arange(3, dtype=np.int32)
    boxes = np.array([[1, 1, 5, 5]] * 3, np.float32)
    record = Record('q "x" & <y>.jpg', "train", picture(), 48, 64, boxes, labels, np.zeros(3, np.uint8))
    write(Source(classes, iter([record])), tmp_path / "out")
    source = read(tmp_path / "out")
    (found,), findings = drain(source)
    assert not findings and source.classes == classes
    assert (found.key, found.labels.tolist()) == (record.key, [0, 1, 2])
