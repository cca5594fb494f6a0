from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from dataforge.errors import ConfigError, FormatError
from dataforge.formats import voc
from dataforge.formats.lists import read, write
from dataforge.ingest.run import ingest
from dataforge.record import DIFFICULT, Source
from dataforge.shards.reader import Shards
from tests.cli.test_bad_input import refused
from tests.formats.sets import drain, picture, put, voc_object, voc_xml
from tests.formats.suite import FormatSuite

LABELS = {"cat": 1, "dog": 2, "background": 0}


class TestListsRoundTrip(FormatSuite):
    name = "lists"


def entry(*boxes: list[Any], labels: list[int] | None = None, difficulties: list[int] | None = None) -> dict[str, Any]:
    return {
        "boxes": list(boxes),
        "labels": [1] * len(boxes) if labels is None else labels,
        "difficulties": [0] * len(boxes) if difficulties is None else difficulties,
    }


def lists(root: Path, entries: dict[str, Any], split: str = "TRAIN", labels: Any = LABELS) -> Path:
    put(root / f"{split}_images.json", json.dumps(list(entries)))
    put(root / f"{split}_objects.json", json.dumps(list(entries.values())))
    put(root / "label_map.json", json.dumps(labels))
    return root


def test_the_tutorials_numbers_are_vocs_less_one(tmp_path: Path) -> None:
    """The tutorial takes 1 from all four of VOC's numbers; both must give the same edges."""
    corners = [1, 5, 64, 20]
    put(tmp_path / "voc/a.jpg", picture())
    put(tmp_path / "voc/a.xml", voc_xml("a.jpg", voc_object("cat", corners, "<difficult>1</difficult>")))
    put(tmp_path / "lists/a.jpg", picture())
    lists(tmp_path / "lists", {"a.jpg": entry([number - 1 for number in corners], difficulties=[1])})
    (one,), _ = drain(voc.read(tmp_path / "voc"))
    (other,), findings = drain(read(tmp_path / "lists"))
    assert not findings
    assert one.boxes.tolist() == other.boxes.tolist() == [[0, 4, 64, 20]]
    assert one.flags.tolist() == other.flags.tolist() == [DIFFICULT]


def test_splits_labels_and_empty_images(tmp_path: Path) -> None:
    for name in ("a.jpg", "b.jpg", "c.jpg"):
        put(tmp_path / "images" / name, picture())
    labels = {"dog": 7, "background": 0, "cat": 3}
    lists(tmp_path, {"a.jpg": entry([0, 0, 9, 9], labels=[7]), "b.jpg": entry()}, labels=labels)
    lists(tmp_path, {"c.jpg": {"boxes": [[0, 0, 9, 9]], "labels": [3]}}, "TEST", labels)
    source = read(tmp_path)
    records, findings = drain(source)
    assert not findings and source.total == 3
    assert (source.classes, source.class_ids) == (("cat", "dog"), (3, 7))
    assert [(r.split, r.key, r.labels.tolist()) for r in records] == [
        ("test", "c.jpg", [0]),
        ("train", "a.jpg", [1]),
        ("train", "b.jpg", []),
    ]
    assert [r.split for r in drain(read(tmp_path, split=("test",)))[0]] == ["test"]
    with pytest.raises(ConfigError, match="'val'; known: test, train"):
        read(tmp_path, split=("val",))


def test_absolute_paths_are_found_by_name_or_refused(tmp_path: Path) -> None:
    names = ["/data/VOC2007/JPEGImages/1.jpg", "/data/VOC2012/JPEGImages/1.jpg", "/data/gone.jpg", "../secret.jpg"]
    for folder in ("VOC2007", "VOC2012"):
        put(tmp_path / "voc" / folder / "JPEGImages/1.jpg", picture())
    put(tmp_path / "secret.jpg", picture())
    lists(tmp_path / "in", {name: entry([n, 0, 9, 9]) for n, name in enumerate(names)})
    records, findings = drain(read(tmp_path / "in", images=tmp_path / "voc"))
    assert [(r.key, r.boxes[0, 0]) for r in records] == [
        ("VOC2007/JPEGImages/1.jpg", 0),
        ("VOC2012/JPEGImages/1.jpg", 1),
    ]
    assert [(f.action, f.code, f.key or f.value) for f in findings] == [
        ("refused", "image-missing", "/data/gone.jpg"),
        ("refused", "image-path", "../secret.jpg"),
        ("noted", "images-by-name", "2 images"),
    ]
    text = refused(tmp_path / "out", "lists", tmp_path / "in", "--images", tmp_path / "voc")
    assert "refused images: 2" in text and "/data/gone.jpg" in text


def test_each_wrong_entry_is_listed(tmp_path: Path) -> None:
    put(tmp_path / "a.jpg", picture())
    put(tmp_path / "b.jpg", picture())
    wrong = entry([0, 0, 9, 9], [0, 0, 9], [0, 0, 9, 9], [1, 1, 9, 9], labels=[0, 1, 9, 2], difficulties=[0, 0, 0, 1])
    lists(tmp_path, {"a.jpg": wrong, "b.jpg": entry([0, 0, 9, 9], labels=[])})
    (record,), findings = drain(read(tmp_path))
    assert (record.labels.tolist(), record.flags.tolist()) == ([1], [DIFFICULT])
    assert [(f.code, f.scope) for f in findings] == [
        ("unknown-class", "box"),
        ("box-missing", "box"),
        ("unknown-class", "box"),
        ("lists-differ", "image"),
    ]
    assert findings[-1].value == "1 boxes, 0 labels, 1 difficulties"


@pytest.mark.parametrize(
    ("labels", "reason"),
    [
        ({"cat": 0, "dog": 1}, "expected 0 to be the number"),
        ({"cat": 1, "dog": 1}, "'cat' and 'dog' have one number, 1"),
        ({"background": 1, "cat": 2}, "expected 0 to be the number"),
        (["cat"], "expected `object`"),
        ({"cat": "1"}, "expected `int`"),
    ],
)
def test_label_maps_that_are_wrong(tmp_path: Path, labels: object, reason: str) -> None:
    put(tmp_path / "in/a.jpg", picture())
    lists(tmp_path / "in", {"a.jpg": entry()}, labels=labels)
    with pytest.raises(FormatError, match=reason) as caught:
        read(tmp_path / "in")
    assert "label_map.json" in str(caught.value)
    refused(tmp_path / "out", "lists", tmp_path / "in")


def test_broken_files(tmp_path: Path) -> None:
    root = lists(tmp_path / "in", {"a.jpg": entry(), "b.jpg": entry()})
    objects = root / "TRAIN_objects.json"
    whole = objects.read_text()
    for text, reason in (
        (whole[:-5], "not JSON"),
        ("[]", "0 entries; expected 2, as TRAIN_images.json has"),
        ('[{"boxes": [["1,5", 2, 3, 4]], "labels": [1]}]', "expected `float"),
        ("\xff", "not JSON|Expected"),
    ):
        put(objects, text.encode("latin-1"))
        said = refused(tmp_path / "out", "lists", root)
        assert str(objects) in said and any(part in said for part in reason.split("|"))
    objects.unlink()
    assert "No such file" in refused(tmp_path / "out", "lists", root)
    (root / "TRAIN_images.json").unlink()
    assert "no *_images.json found; expected TRAIN_images.json" in refused(tmp_path / "out", "lists", root)


def test_byte_order_mark_and_crlf(tmp_path: Path) -> None:
    put(tmp_path / "a b.jpg", picture())
    lists(tmp_path, {"a b.jpg": entry([0, 0, 9, 9])})
    for path in tmp_path.glob("*.json"):
        put(path, "\ufeff" + path.read_text().replace(",", ",\r\n"))
    assert len(drain(read(tmp_path))[0][0].boxes) == 1


def test_a_class_called_background_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match="'background'"):
        write(Source(("background",), iter(())), tmp_path / "out")


def test_corners_are_ordered_before_the_offset(tmp_path: Path) -> None:
    put(tmp_path / "a.jpg", picture())
    put(tmp_path / "TRAIN_images.json", '["a.jpg"]')
    boxes = [[39, 40, 10, 20], [10, 40, 39, 20], [10, 20, 39, 40]]
    put(tmp_path / "TRAIN_objects.json", json.dumps([{"boxes": boxes, "labels": [1] * 3, "difficulties": [0] * 3}]))
    put(tmp_path / "label_map.json", '{"background": 0, "cat": 1}')
    summary = ingest(read(tmp_path), tmp_path / "out")
    assert Shards(tmp_path / "out").table.boxes.tolist() == [[10, 20, 40, 41]] * 3
    assert summary.findings["repaired", "box-inverted"] == 2
