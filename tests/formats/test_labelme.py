from __future__ import annotations

import base64
import json
import math
from pathlib import Path
from typing import Any

import pytest

from dataforge.errors import FormatError
from dataforge.formats.labelme import read, reader, write
from dataforge.record import CROWD, DIFFICULT, TRUNCATED, Source
from tests.cli.test_bad_input import kinds, refused, run
from tests.formats.sets import drain, picture, put
from tests.formats.suite import FormatSuite


class TestLabelmeRoundTrip(FormatSuite):
    name = "labelme"


def shape(label: str, points: list[list[float]], kind: str | None = "rectangle", **more: Any) -> dict[str, Any]:
    return {"label": label, "points": points, "shape_type": kind, "group_id": None, "flags": {}, **more}


def facts(image: str, *shapes: dict[str, Any], **more: Any) -> str:
    size = {"imageHeight": 48, "imageWidth": 64}
    return json.dumps(
        {"version": "5.5.0", "flags": {}, "shapes": shapes, "imagePath": image, "imageData": None, **size, **more}
    )


def test_shapes_become_the_boxes_around_them(tmp_path: Path) -> None:
    shapes = [
        shape("dog", [[30, 40.5], [10, 20]]),
        shape("cat", [[5, 5], [9, 1], [7.25, 8]], "polygon"),
        shape("cat", [[20, 20], [23, 24]], "circle"),
        shape("cat", [[1, 2], [3, 2], [3, 4], [1, 4]]),
        {"label": "cat", "points": [[1, 1], [2, 1], [2, 3]]},  # version 3 said nothing of kinds
        shape("cat", [[4, 1], [7, 4], [4, 7], [1, 4]], "rotation"),
        shape("dog", [[1, 1], [2, 1], [2, 3]], "polygon", group_id=7),
        shape("dog", [[5, 1], [6, 1], [6, 3]], "polygon", group_id=7),
        shape("dog", [[1, 1], [2, 1], [2, 3]], "polygon", group_id=8),
        shape("dog", [[5, 1], [6, 3]], group_id=8),
    ]
    put(tmp_path / "a.jpg", picture())
    put(tmp_path / "a.json", facts("a.jpg", *shapes))
    source = read(tmp_path)
    (record,), findings = drain(source)
    assert [f.code for f in findings] == ["shapes-joined"] * 2 and source.classes == ("cat", "dog")
    labels = [1, 0, 0, 0, 0, 0, 1, 1]
    assert (record.key, record.height, record.width, record.labels.tolist()) == ("a.jpg", 48, 64, labels)
    boxes = [[10, 20, 30, 40.5], [5, 1, 9, 8], [15, 15, 25, 25], [1, 2, 3, 4], [1, 1, 2, 3], [1, 1, 7, 7]]
    assert record.boxes.tolist() == [*boxes, [1, 1, 6, 3], [1, 1, 6, 3]]
    assert record.polygons is not None and record.polygons.counts.tolist() == [0, 1, 0, 0, 1, 1, 2, 0]
    assert record.polygons.points[:3].tolist() == [[5, 5], [9, 1], [7.25, 8]]


def test_other_shapes_are_refused_and_listed(tmp_path: Path) -> None:
    others = ["point", "line", "linestrip", "points", "cuboid"]
    wrong = [shape("cat", [[1, 1]]), shape("cat", [[1, 1], [2, 2]], "polygon"), shape("", [[1, 1], [5, 5]])]
    wrong += [shape("cat", [], "circle"), shape("__ignore__", [[1, 1], [5, 5]])]
    shapes = [*(shape("cat", [[1, 1], [2, 2], [3, 3]], kind) for kind in others), *wrong]
    put(tmp_path / "a.jpg", picture())
    put(tmp_path / "a.json", facts("a.jpg", *shapes, shape("dog", [[1, 1], [5, 5]])))
    (record,), findings = drain(read(tmp_path))
    assert len(record.boxes) == 1 and {f.action for f in findings} == {"refused"}
    assert [f.code for f in findings] == [
        *["shape-unknown"] * len(others),
        *["box-missing", "box-missing", "unknown-class", "box-missing", "unknown-class"],
    ]
    assert (findings[0].key, findings[0].box) == ("a.jpg", 0) and "is a point; expected a rectangle" in findings[
        0
    ].reason


def test_flags_and_groups(tmp_path: Path) -> None:
    box = [[1.0, 1.0], [5.0, 5.0]]
    flags = [{"difficult": True, "occluded": True}, {"crowd": True, "truncated": True}, {"difficult": False}, None]
    shapes = [shape("cat", box, flags=one) for one in flags]
    shapes += [shape("cat", box, group_id=1), shape("cat", [[4, 0], [9, 3]], group_id=1, flags={"truncated": True})]
    shapes += [shape("dog", box, group_id=1), shape("cat", box, group_id=2)]
    put(tmp_path / "a.jpg", picture())
    put(tmp_path / "a.json", facts("a.jpg", *shapes))
    (record,), findings = drain(read(tmp_path))
    assert record.flags.tolist() == [DIFFICULT, CROWD | TRUNCATED, 0, 0, TRUNCATED, 0, 0]
    assert record.boxes[4].tolist() == [1, 0, 9, 5] and record.labels.tolist() == [0, 0, 0, 0, 0, 1, 0]
    assert [(f.action, f.code, f.value) for f in findings] == [("noted", "shapes-joined", "cat group 1")]


def test_the_file_wins_and_the_embedded_image_serves_where_it_is_missing(tmp_path: Path) -> None:
    other = base64.b64encode(picture(7)).decode()
    for name in ("there", "gone"):
        put(tmp_path / f"{name}.json", facts(f"{name}.jpg", imageData=other))
    put(tmp_path / "outside.json", facts("/home/me/x.png", imageData=other))
    put(tmp_path / "above.json", facts("..\\..\\above.jpg", imageData=other))
    put(tmp_path / "there.jpg", picture(1))
    put(tmp_path / "labels.txt", "cat\n")
    records, findings = drain(read(tmp_path))
    assert not findings
    assert {r.key: r.image if isinstance(r.image, Path) else bytes(r.image) for r in records} == {
        "there.jpg": tmp_path / "there.jpg",
        "gone.jpg": picture(7),
        "outside.png": picture(7),
        "above.jpg": picture(7),
    }


def test_pictures_that_are_not_there(tmp_path: Path) -> None:
    root = tmp_path / "in"
    put(root / "good.json", facts("good.jpg", shape("cat", [[1, 1], [5, 5]])))
    put(root / "good.jpg", picture())
    put(tmp_path / "secret.jpg", picture())
    for name, image, data in (
        ("above", "../secret.jpg", None),
        ("absolute", str(tmp_path / "secret.jpg"), None),
        ("gone", "gone.jpg", ""),
        ("nameless", "", None),
        ("damaged", "damaged.jpg", "no base64!"),
        ("cut", "cut.jpg", base64.b64encode(picture()[:99]).decode()),
    ):
        put(root / f"{name}.json", facts(image, imageData=data))
    text = refused(tmp_path / "out", "labelme", root)
    assert "refused images: 6" in text
    assert sorted(code for action, code in kinds(tmp_path / "out") if action == "refused") == [
        *["image-missing"] * 2,
        *["image-path"] * 2,
        "image-truncated",
        "image-unreadable",
    ]


def test_labels_apart_from_their_pictures(tmp_path: Path) -> None:
    put(tmp_path / "labels/a.json", facts("..\\images\\a.jpg", shape("cat", [[1, 1], [5, 5]])))
    put(tmp_path / "images/a.jpg", picture())
    (record,), findings = drain(read(tmp_path))
    assert not findings and (record.split, record.key, record.image) == (
        "train",
        "images/a.jpg",
        tmp_path / "images/a.jpg",
    )
    put(tmp_path / "elsewhere/deep/a.jpg", picture())
    (record,), _ = drain(read(tmp_path, images=tmp_path / "elsewhere"))
    assert record.image == tmp_path / "elsewhere/deep/a.jpg"


def test_links_in_a_circle(tmp_path: Path) -> None:
    put(tmp_path / "train/a.json", facts("/home/me/a.jpg", shape("cat", [[1, 1], [5, 5]])))
    put(tmp_path / "train/a.jpg", picture())
    (tmp_path / "train/loop").symlink_to(tmp_path)
    (record,), findings = drain(read(tmp_path))
    assert (record.key, [f.code for f in findings]) == ("a.jpg", ["images-by-name"])


def test_folders_are_splits_and_labels_txt_gives_the_order(tmp_path: Path) -> None:
    for split, name in (("train", "dog"), ("val", "bird")):
        put(tmp_path / split / "sub dir/ä.b.json", facts("ä.b.png", shape(name, [[1, 1], [5, 5]])))
        put(tmp_path / split / "sub dir/ä.b.png", picture())
    put(tmp_path / "labels.txt", "\ufeff__ignore__\r\n_background_\r\ndog\r\ncat\r\n")
    source = read(tmp_path)
    records, findings = drain(source)
    assert not findings and source.classes == ("dog", "cat", "bird")
    assert [(r.split, r.key) for r in records] == [("train", "sub dir/ä.b.png"), ("val", "sub dir/ä.b.png")]
    assert [r.split for r in drain(read(tmp_path, split=("val",)))[0]] == ["val"]


def test_broken_files_are_refused_one_by_one(tmp_path: Path) -> None:
    root = tmp_path / "in"
    whole = facts("a.jpg", shape("cat", [[1, 1], [5, 5]]))
    broken = {
        "cut": whole[:-20],
        "coco": '{"images": [], "annotations": []}',
        "comma": whole.replace("[5, 5]", '["5,5", 5]'),
        "latin": whole.replace("cat", "k\xe4").encode("latin-1"),
        "empty": "",
    }
    for name, text in broken.items():
        put(root / f"{name}.json", text)
    with pytest.raises(FormatError, match=r"coco\.json|comma\.json|cut\.json"):
        read(root)
    put(root / "a.json", "\ufeff" + whole.replace(",", ",\r\n"))
    put(root / "a.jpg", picture())
    assert f"refused images: {len(broken)}" in refused(tmp_path / "out", "labelme", root)
    result = run("labelme", root, "--out", tmp_path / "out", "--max-bad", len(broken))
    assert result.exit_code == 0 and kinds(tmp_path / "out") == [("refused", "annotation-broken")] * len(broken)


def test_strange_numbers_are_refused_by_ingest(tmp_path: Path) -> None:
    shapes = [shape("cat", [[1, 1], [math.nan, 5]]), shape("cat", [[1, 1], [5, 5]])]
    put(tmp_path / "in/a.json", facts("a.jpg", *shapes))
    put(tmp_path / "in/a.jpg", picture())
    assert run("labelme", tmp_path / "in", "--out", tmp_path / "out").exit_code == 0
    assert kinds(tmp_path / "out") == [("refused", "box-nan")]


@pytest.mark.parametrize("name", ["", " ", "two\nlines", "__ignore__", "_background_", "a\u2028b"])
def test_classes_that_labels_txt_cannot_hold(tmp_path: Path, name: str) -> None:
    with pytest.raises(FormatError, match="cannot be held"):
        write(Source((name,), iter(())), tmp_path / "out")


def test_embedded_images_in_lines_of_76_characters(tmp_path: Path) -> None:
    data = base64.encodebytes(picture()).decode()
    assert "\n" in data.strip()
    put(tmp_path / "a.json", facts("a.jpg", shape("cat", [[1, 1], [5, 5]]), imageData=data))
    (record,), findings = drain(read(tmp_path))
    assert record.image == picture() and not findings


def test_few_embedded_images_are_held_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    large = base64.b64encode(bytes(3 << 20)).decode()
    for n in range(7):
        put(tmp_path / f"{n}.json", facts(f"{n}.jpg", imageData=large))
    decoded: list[Path] = []
    embedded = reader._embedded
    monkeypatch.setattr(reader, "_embedded", lambda path: (decoded.append(path), embedded(path))[1])
    ahead = [len(decoded) - n for n, _ in enumerate(read(tmp_path).records)]
    assert ahead == [3, 2, 1, 3, 2, 1, 1]


def test_one_file_is_a_set(tmp_path: Path) -> None:
    put(tmp_path / "a.jpg", picture())
    for name in ("a", "b"):
        put(tmp_path / f"{name}.json", facts("a.jpg", shape("cat", [[1, 1], [5, 5]])))
    (record,), findings = drain(read(tmp_path / "a.json"))
    assert (record.key, record.split, findings) == ("a.jpg", "train", [])


def test_oriented_rectangles_masks_and_difficult_shapes(tmp_path: Path) -> None:
    put(tmp_path / "a.jpg", picture())
    shapes = [
        shape("cat", [[20, 10], [30, 20], [20, 30], [10, 20]], "oriented_rectangle"),
        shape("cat", [[4, 8], [13, 19]], "mask", mask="iVBORw0KGgo="),
        shape("cat", [[1, 2], [5, 2], [5, 6], [1, 6]], difficult=True, score=None, attributes={}),
    ]
    put(tmp_path / "a.json", facts("a.jpg", *shapes))
    (record,), findings = drain(read(tmp_path))
    assert record.boxes.tolist() == [[10, 10, 30, 30], [4, 8, 14, 20], [1, 2, 5, 6]] and not findings
    assert record.flags.tolist() == [0, 0, DIFFICULT]
    assert record.polygons is not None and [len(rings) for rings in record.polygons.lists()] == [1, 0, 0]
