from __future__ import annotations

from pathlib import Path

import pytest

from dataforge.errors import FormatError
from dataforge.formats.kitti import read, write
from dataforge.record import CROWD, TRUNCATED, Finding, Record, Source
from tests.formats.sets import drain, picture, put, unreadable
from tests.formats.suite import FormatSuite

# lines of KITTI's training set, 000000 and 000008, shortened to the picture's 64x48
PEDESTRIAN = "Pedestrian 0.00 0 -0.20 12.40 14.00 50.73 47.92 1.89 0.48 1.20 1.84 1.47 8.41 0.01"
CAR = "Car 0.88 3 -0.69 0.00 19.21 40.23 37.00 1.57 1.50 3.68 -1.17 1.65 7.86 1.90"
REGION = "DontCare -1 -1 -10 50.00 1.00 60.50 17.25 -1 -1 -1 -1000 -1000 -1000 -10"


class TestKittiRoundTrip(FormatSuite):
    name = "kitti"


def kitti(root: Path, split: str, names: str, text: str = PEDESTRIAN) -> None:
    for name in names:
        put(root / split / f"image_2/{name}.png", picture())
        put(root / split / f"label_2/{name}.txt", text + "\n")


def test_the_development_kits_lines(tmp_path: Path) -> None:
    kitti(tmp_path, "training", "a", "\n".join([PEDESTRIAN, CAR, REGION, CAR + " 0.97"]))
    put(tmp_path / "testing/image_2/b.png", picture())  # has no labels: it is no split
    source = read(tmp_path)
    (record,), findings = drain(source)
    assert not findings and source.classes == ("Car", "DontCare", "Pedestrian") and source.total == 1
    assert (record.key, record.split, record.labels.tolist()) == ("training/image_2/a.png", "training", [2, 0, 1, 0])
    assert record.flags.tolist() == [0, TRUNCATED, CROWD, TRUNCATED]
    assert record.boxes.round(2).tolist()[0] == pytest.approx([12.4, 14, 50.73, 47.92], abs=1e-5)


@pytest.mark.parametrize(
    ("image", "label"),
    [
        ("image_2/a.png", "label_2/a.txt"),
        ("images/deep/a.png", "labels/deep/a.txt"),
        ("data/a.png", "labels/a.txt"),
        ("a.png", "a.txt"),
    ],
)
def test_layouts(tmp_path: Path, image: str, label: str) -> None:
    put(tmp_path / image, picture())
    put(tmp_path / label, PEDESTRIAN)
    (record,), findings = drain(read(tmp_path))
    assert (record.key, record.split, len(record.boxes), findings) == (image, "train", 1, [])


def test_lists_of_image_sets_are_splits(tmp_path: Path) -> None:
    kitti(tmp_path, "training", "abc")
    for name, lines in {"train": "a\nb\n", "val": "c", "trainval": "a\nb\nc", "test": "x"}.items():
        put(tmp_path / f"ImageSets/{name}.txt", lines)
    source = read(tmp_path)
    records, findings = drain(source)
    assert {r.key[-5]: r.split for r in records} == {"a": "train", "b": "train", "c": "val"}
    assert source.unions == {"trainval": ("train", "val")}
    assert [(f.code, f.key) for f in findings] == [("image-missing", "x")]
    records, _ = drain(read(tmp_path, split=("val",)))
    assert [r.split for r in records] == ["val"]


def test_what_is_wrong_is_listed(tmp_path: Path) -> None:
    kitti(tmp_path, "training", "a", f"{PEDESTRIAN}\n\nCar 0 0 1 2\nCar x{PEDESTRIAN[10:]}\n1 .5 .5 .1 .1")
    put(tmp_path / "training/image_2/b.png", picture())
    put(tmp_path / "training/label_2/c.txt", CAR)
    put(tmp_path / "training/image_2/d.png", picture())
    put(tmp_path / "training/label_2/d.txt", b"\xff\xfe")
    records, findings = drain(read(tmp_path))
    assert [len(record.boxes) for record in records] == [2, 0]  # "Car x" is a type with a blank
    assert [(f.code, f.scope, f.box) for f in findings] == [
        ("label-orphan", "set", None),
        ("line-broken", "box", 1),
        ("line-broken", "box", 3),
        ("no-label", "image", None),
        ("label-broken", "image", None),
    ]
    with pytest.raises(FormatError, match="no label files found"):
        read(put(tmp_path / "other/a.png", picture()).parent)


@pytest.mark.parametrize("name", ["DontCare", "", "a  b", "car 2", "x\ny", "1e5"])
def test_classes_that_it_cannot_hold(tmp_path: Path, name: str) -> None:
    with pytest.raises(FormatError, match="cannot be held"):
        write(Source((name,), iter([])), tmp_path / "set")


def test_a_label_file_that_cannot_be_read_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk or a network that errs: its image is not an empty one."""
    kitti(tmp_path, "training", "ab")
    unreadable(monkeypatch, "b.txt")
    items = list(read(tmp_path).records)
    assert [item.key for item in items if isinstance(item, Record)] == ["training/image_2/a.png"]
    assert [item.code for item in items if isinstance(item, Finding)] == ["label-broken"]


@pytest.mark.parametrize(("image", "label"), [("A.PNG", "A.TXT"), ("gr\u00f6\u00dfe.png", "gro\u0308\u00dfe.txt")])
def test_names_of_labels_that_some_systems_write(tmp_path: Path, image: str, label: str) -> None:
    put(tmp_path / "training/image_2" / image, picture())
    put(tmp_path / "training/label_2" / label, PEDESTRIAN)
    (record,), findings = drain(read(tmp_path))
    assert len(record.boxes) == 1 and record.origin.endswith(label) and not findings
