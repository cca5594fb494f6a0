from __future__ import annotations

import unicodedata
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import yaml

from dataforge.errors import FormatError
from dataforge.formats.sniff import detect
from dataforge.formats.yolo import read, write
from dataforge.formats.yolo.plain import parse
from dataforge.record import Finding, Record
from tests import tiny
from tests.formats.sets import drain, picture, put, unreadable
from tests.formats.suite import FormatSuite, awkward


class TestYoloRoundTrip(FormatSuite):
    name, one_way = "yolo", True

    def test_a_name_without_a_suffix_gets_one(self, tmp_path: Path) -> None:
        records = [replace(record, key=key) for record, key in zip(awkward(("train",))[:2], ("a", "b.2"), strict=True)]
        self.compare(records, self.shards(self.write([*records], tmp_path / "set"), tmp_path / "shards"))
        assert sorted(path.name for path in tmp_path.glob("set/**/*.jpg")) == ["a.jpg", "b.2.jpg"]

    @pytest.mark.parametrize(
        "key", ["images/a.jpg", "cam/images/a.jpg", "images/train/images/sub/a.jpg", "labels/a.jpg"]
    )
    def test_keys_with_folders_of_yolos_own_names(self, tmp_path: Path, key: str) -> None:
        records = [
            replace(record, key=name) for record, name in zip(awkward(("train",))[:2], (key, "b.jpg"), strict=True)
        ]
        self.compare(records, self.shards(self.write([*records], tmp_path / "set"), tmp_path / "shards"))

    def test_splits_of_any_name(self, tmp_path: Path) -> None:
        records = awkward(("train2017", "val2017", "odd one"))
        root = self.write([*records], tmp_path / "set")
        self.compare(records, self.shards(root, tmp_path / "shards"))
        facts = yaml.safe_load((root / "data.yaml").read_text())
        assert (facts["train"], facts["val"]) == ("images/train2017", "images/val2017") and "test" not in facts

    def test_short_numbers_stay_short(self, tmp_path: Path) -> None:
        line = "0 0.517969 0.413542 0.101563 0.270833\n"
        put(tmp_path / "in/images/train/a.jpg", picture())
        put(tmp_path / "in/labels/train/a.txt", line)
        put(tmp_path / "in/data.yaml", "train: images/train\nnames: [cat]")
        write(read(tmp_path / "in"), tmp_path / "set")
        assert (tmp_path / "set/labels/train/a.txt").read_text() == line

    @pytest.mark.parametrize("wrong", [{"key": ".a.jpg"}, {"height": 0}])
    def test_what_it_cannot_hold_is_refused(self, tmp_path: Path, wrong: dict[str, Any]) -> None:
        with pytest.raises(FormatError, match="YOLO cannot hold it"):
            self.write([replace(awkward(("train",))[0], **wrong)], tmp_path / "set")


def independent(root: Path, labels: str, split: str) -> tuple[Counter[int], int]:
    counts: Counter[int] = Counter()
    images = sorted((root / "images" / split).iterdir())
    for image in images:
        file = root / labels / split / f"{image.stem}.txt"
        counts.update(int(line.split()[0]) for line in file.read_text().splitlines() if line) if file.exists() else None
    return counts, len(images)


def test_agrees_with_an_independent_reading(shared_data: Path) -> None:
    root = shared_data / "coco128_yolo"
    names = yaml.safe_load((root / "data.yaml").read_text())["names"]
    source = read(root)
    records, findings = drain(source)
    assert source.classes == tuple(names.values()) and source.class_ids == tuple(names)
    for split, boxes in (("train", 929), ("val", 898)):
        mine = [r for r in records if r.split == split]
        counts, images = independent(root, "labels", f"{split}2017")
        assert (len(mine), sum(len(r.boxes) for r in mine)) == (images, boxes) == (128, boxes)
        assert Counter(int(label) for r in mine for label in r.labels) == counts
    unlabelled = [record for record in records if not record.origin.endswith("txt")]
    for record in (*records[:20], *unlabelled):
        assert isinstance(record.image, Path)
        with PIL.Image.open(record.image) as image:
            assert image.size == (record.width, record.height)
        unit = np.loadtxt(record.origin, ndmin=2)[:, 1:] if record.origin.endswith("txt") else np.zeros((0, 4))
        x, y, w, h = (unit * np.tile(image.size, 2)).T
        np.testing.assert_allclose(record.boxes, np.stack([x - w / 2, y - h / 2, x + w / 2, y + h / 2], 1), atol=1e-3)
    listed = {(f.code, f.action, Path(f.file).stem) for f in findings}
    assert listed == {
        ("label-orphan", "refused", "000000000656"),
        ("label-orphan", "refused", "000000000659"),
        ("no-label", "noted", "000000000250"),
        ("no-label", "noted", "000000000508"),
    }


def test_polygons_and_sparse_numbers(shared_data: Path, tmp_path: Path) -> None:
    real = shared_data / "coco128_yolo"
    (tmp_path / "images").symlink_to(real / "images")
    (tmp_path / "labels").symlink_to(real / "labels_seg")
    (tmp_path / "data.yaml").write_bytes((real / "data_seg.yaml").read_bytes())
    source = read(tmp_path)
    records, findings = drain(source)
    names = yaml.safe_load((real / "data_seg.yaml").read_text())["names"]
    assert source.class_ids == tuple(names)
    for split in ("train", "val"):
        counts, _ = independent(real, "labels_seg", f"{split}2017")
        mine = Counter(source.class_ids[label] for r in records if r.split == split for label in r.labels)
        assert mine == counts
    assert Counter(f.code for f in findings) == {"no-label": 56}
    record = next(r for r in records if len(r.boxes))
    points = np.array(Path(record.origin).read_text().splitlines()[0].split()[1:], float).reshape(-1, 2)
    points *= (record.width, record.height)
    np.testing.assert_allclose(record.boxes[0], [*points.min(0), *points.max(0)], atol=1e-3)


LINE = "1 0.5 0.5 0.25 0.5\n"  # in 64x48: 24, 12, 40, 36


def check_one(root: Path, split: str = "train", classes: tuple[str, ...] = ("cat", "dog")) -> None:
    source = read(root)
    records, findings = drain(source)
    assert source.classes == classes and not findings
    assert [(r.split, r.boxes.tolist(), r.labels.tolist()) for r in records] == [(split, [[24, 12, 40, 36]], [1])]


@pytest.mark.parametrize(
    ("image", "label", "text"),
    [
        ("images/train/a.jpg", "labels/train/a.txt", "train: images/train\nnames: [cat, dog]"),
        ("images/train/a.jpg", "labels/train/a.txt", "path: /no/such/place\ntrain: images/train\nnames: [cat, dog]"),
        ("images/train/a.jpg", "labels/train/a.txt", "train: [images/train]\nval:\nnames: {0: cat, 1: dog}\nnc: 2"),
        ("train/images/a.jpg", "train/labels/a.txt", "train: ../train/images\nnames:\n- cat\n- dog"),
        ("set/images/x/a.jpg", "set/labels/x/a.txt", "path: set\ntrain: images\nnames: [cat, dog]"),
        ("images/x/images/a.jpg", "images/x/labels/a.txt", "train: images/x\nnames: [cat, dog]"),
        ("pics/a.jpg", "pics/a.txt", "train: pics\nnames: [cat, dog]"),
    ],
)
def test_yaml_layouts(tmp_path: Path, image: str, label: str, text: str) -> None:
    put(tmp_path / image, picture())
    put(tmp_path / label, LINE)
    put(tmp_path / "data.yaml", "\ufeff" + text)
    check_one(tmp_path)
    check_one(tmp_path / "data.yaml")


def test_a_flat_set_in_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(tmp_path / "a.jpg", picture())
    put(tmp_path / "a.txt", LINE)
    put(tmp_path / "data.yaml", "train: .\nnames: [cat, dog]")
    monkeypatch.chdir(tmp_path)
    check_one(Path())


@pytest.mark.parametrize(
    ("text", "splits"),
    [
        ("train: &t [images]\nval: *t\nnames: [cat, dog]", ["train", "val"]),
        ("base: &base {train: images, nc: 2}\n<<: *base\nnames: {0: cat, 1: dog}", ["train"]),
        ("a: &a {0: cat, 1: x}\nb: &b {1: y}\nnames: {<<: [*b, *a], 1: dog}\ntrain: images", ["train"]),
        ("a: &a {0: cat, 1: x}\nb: &b {1: dog}\nnames:\n  <<: [*b, *a]\ntrain: images", ["train"]),
    ],
)
def test_aliases_and_merged_tables(tmp_path: Path, text: str, splits: list[str]) -> None:
    put(tmp_path / "images/a.jpg", picture())
    put(tmp_path / "labels/a.txt", LINE)
    put(tmp_path / "data.yaml", text)
    source = read(tmp_path)
    records, _ = drain(source)
    assert source.classes == ("cat", "dog") and [record.split for record in records] == splits


@pytest.mark.parametrize(
    ("image", "label", "split"),
    [
        ("images/valid/a.jpg", "labels/valid/a.txt", "valid"),
        ("valid/images/a.jpg", "valid/labels/a.txt", "valid"),
        ("images/a.jpg", "labels/a.txt", "train"),
        ("a.jpg", "a.txt", "train"),
    ],
)
def test_bare_layouts(tmp_path: Path, image: str, label: str, split: str) -> None:
    put(tmp_path / image, picture())
    put(tmp_path / label, LINE)
    with pytest.raises(FormatError, match=r"no class names; expected names in data\.yaml.*classes\.txt"):
        read(tmp_path)
    put(tmp_path / "classes.txt", "cat\r\ndog\r\n")
    check_one(tmp_path, split)


def test_a_list_of_paths(tmp_path: Path) -> None:
    for name in "ab":
        put(tmp_path / f"images/{name}.jpg", picture())
        put(tmp_path / f"labels/{name}.txt", LINE)
    put(tmp_path / "train.txt", "./images/a.jpg\n\nimages/a.jpg\nimages/none.jpg\n")
    put(tmp_path / "data.yaml", "train: train.txt\nnames: [cat, dog]")
    records, findings = drain(read(tmp_path))
    assert [r.key for r in records] == ["images/a.jpg"]
    assert [(f.code, f.key) for f in findings] == [
        ("image-missing", "images/none.jpg"), ("listed-twice", "images/a.jpg")]  # fmt: skip


def test_names_stay_what_they_are(tmp_path: Path) -> None:
    put(tmp_path / "images/a.jpg", picture())
    put(tmp_path / "labels/a.txt", LINE.replace("1", "7", 1))
    put(tmp_path / "data.yaml", "train: images\nnames: {3: no, 7: 007}\nnc: 80\ntest: images/none")
    source = read(tmp_path)
    (record,), findings = drain(source)
    assert (source.classes, source.class_ids, record.labels.tolist()) == (("no", "007"), (3, 7), [1])
    assert [f.code for f in findings] == ["split-missing", "class-count"]


def test_each_bad_line_is_refused_with_its_number(tmp_path: Path) -> None:
    lines = ["0 .5 .5 .1 .1", "", "9 .5 .5 .1 .1", "0 .5 .5 .1", "0 a b c d", "0 320 240 10 10", "0 .1 .1 .2 .2 .3",
             "0.0 .1 .1 .3 .1 .2 .4", "-1 .1 .1 .1 .1", "0.5 .1 .1 .1 .1"]  # fmt: skip
    put(tmp_path / "images/a.jpg", picture(0, 100, 100))
    put(tmp_path / "labels/a.txt", "\n".join(lines))
    put(tmp_path / "classes.txt", "cat")
    (record,), findings = drain(read(tmp_path))
    np.testing.assert_allclose(record.boxes, [[45, 45, 55, 55], [10, 10, 30, 40]], atol=1e-4)
    assert {f.key for f in findings} == {"images/a.jpg"} and [f.box for f in findings] == [1, 2, 3, 4, 5, 7, 8]
    assert [f.value.partition(":")[0] for f in findings] == [f"line {n}" for n in (3, 4, 5, 6, 7, 9, 10)]
    assert {f.action for f in findings} == {"refused"} and {f.scope for f in findings} == {"box"}


def test_units_are_of_the_upright_image(tmp_path: Path) -> None:
    put(tmp_path / "images/a.jpg", tiny.encode(tiny.pixels(48, 64), orientation=6))
    put(tmp_path / "labels/a.txt", "0 .5 .5 1 1")
    put(tmp_path / "classes.txt", "cat")
    (record,), _ = drain(read(tmp_path))
    assert record.boxes.tolist() == [[0, 0, 48, 64]] and (record.height, record.width) == (64, 48)


DEEP = "a0: &a0 x\n" + "".join(f"a{n}: &a{n} {'[' * 80}*a{n - 1}{']' * 80}\n" for n in range(1, 20))


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("train: [\nnames: x: y", "line 2, column"),
        ("train: " + "[" * 999, "not YAML: maximum recursion depth"),
        ("a: &a [*a]\ntrain: images\nnames: [a]", "aliases expand to more than 100,000 values.* line 1"),
        (f"a: &a [{'x, ' * 999}]\nb: [{'*a, ' * 101}]", "aliases expand to more than 100,000 values.* line 2"),
        (f"a: &a {'x' * 99_999}\nb: [{'*a, ' * 101}]", "aliases expand to more than 100,000 values.* line 2"),
        (DEEP + "names: *a19\ntrain: images", "not YAML: maximum recursion depth"),
        ("train: images\nnames: [a]\n<<: b", "<<: expected a table"),
        ("train: images/nowhere\nnames: [a]", "train: images/nowhere: does not exist"),
        ("names: [a]", "names no images"),
        ("train: images\nnames: a", "names: 'a'; expected a list"),
        ("train: images\nnames: {x: a}", "names: x: 'a'; expected a number and a name"),
        ("train: {a: b}\nnames: [a]", "train: .*expected a folder"),
        ("- a", "expected the keys train"),
        ("train: images", "no class names"),
        ("train: images\nnames: [a]", "no label files found"),
    ],
)
def test_broken_yaml(tmp_path: Path, text: str, reason: str) -> None:
    put(tmp_path / "images/a.jpg", picture())
    put(tmp_path / "data.yaml", text)
    with pytest.raises(FormatError, match=reason):
        read(tmp_path)


def test_a_label_that_is_no_text_refuses_its_image(tmp_path: Path) -> None:
    put(tmp_path / "images/a.jpg", picture())
    put(tmp_path / "labels/a.txt", b"\xff\xfe\x00")
    put(tmp_path / "classes.txt", "cat")
    records, (finding,) = drain(read(tmp_path))
    assert not records and (finding.code, finding.scope) == ("label-broken", "image")
    assert "not UTF-8 text: byte 0xff at 0" in finding.reason


def test_links_and_loops(tmp_path: Path) -> None:
    put(tmp_path / "real/a.jpg", picture())
    put(tmp_path / "labels/train/a.txt", LINE)
    put(tmp_path / "classes.txt", "cat\ndog")
    (tmp_path / "images").mkdir()
    (tmp_path / "images/train").symlink_to(tmp_path / "real")
    (tmp_path / "real/again").symlink_to(tmp_path / "real")
    check_one(tmp_path)


def test_a_path_that_no_system_takes(tmp_path: Path) -> None:
    put(tmp_path / "images/a.jpg", picture())
    put(tmp_path / "labels/a.txt", LINE)
    put(tmp_path / "train.txt", "images/a.jpg\n" + "x" * 5000 + ".jpg\nimages/\0.jpg")
    put(tmp_path / "data.yaml", "train: train.txt\nnames: [cat, dog]")
    records, findings = drain(read(tmp_path))
    assert [r.key for r in records] == ["images/a.jpg"]
    assert [f.code for f in findings] == ["image-missing", "image-path"]
    put(tmp_path / "data.yaml", f"train: {'x' * 5000}\nnames: [cat, dog]")
    with pytest.raises(FormatError, match="does not exist"):
        read(tmp_path)


def test_folders_are_looked_at_once_not_for_each_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for n in range(20):
        put(tmp_path / f"images/train/{n}.jpg", picture())
        put(tmp_path / f"labels/train/{n}.txt", LINE)
    put(tmp_path / "classes.txt", "cat\ndog")
    looked: list[Path] = []
    glob = Path.glob
    monkeypatch.setattr(Path, "glob", lambda folder, pattern: [looked.append(folder), glob(folder, pattern)][1])
    assert len(drain(read(tmp_path))[0]) == 20
    assert 0 < len(looked) < 8


def pictures(root: Path, *names: str) -> None:
    """Pictures with a label file beside each: the box of LINE."""
    for n, name in enumerate(names):
        put(root / name, picture(n))
        put((root / name).with_suffix(".txt"), LINE)


def splits(root: Path, split: tuple[str, ...] | None = None) -> dict[str, list[str]]:
    """The keys of each split; every record has the box of LINE, and nothing is refused."""
    records, findings = drain(read(root, split=split))
    assert not [finding for finding in findings if finding.action == "refused"]
    assert all(record.boxes.tolist() == [[24, 12, 40, 36]] for record in records)
    return {name: [r.key for r in records if r.split == name] for name in dict.fromkeys(r.split for r in records)}


@pytest.mark.parametrize(
    ("folder", "train", "val"),
    [
        ("", r"images\train", r"images\val"),
        (".\\", r"..\images\train", r".\images\val"),
        ("", r"C:\Users\me\set\images\train", r"D:\images\val\."),
        ("/content/drive/set", "/content/drive/set/images/train", "/content/drive/set/images/val"),
    ],
)
def test_paths_of_a_yaml_from_windows_or_another_machine(tmp_path: Path, folder: str, train: str, val: str) -> None:
    for n, name in enumerate(("train/a", "val/b")):
        put(tmp_path / f"images/{name}.jpg", picture(n))
        put(tmp_path / f"labels/{name}.txt", LINE)
    put(tmp_path / "data.yaml", f"path: '{folder}'\r\ntrain: {train}\r\nval: {val}\r\nnames: [cat, dog]\r\n")
    assert splits(tmp_path) == {"train": ["images/train/a.jpg"], "val": ["images/val/b.jpg"]}
    for name in ("/content/set/train/images", "/content/set/train/images/", "/content/set/", "/content/labels/."):
        put(tmp_path / "data.yaml", f"train: {name}\nnames: [cat, dog]\n")
        with pytest.raises(FormatError, match=f"train: {name}: does not exist"):
            read(tmp_path)  # and not all that is below images/


def test_a_folder_outside_is_not_replaced_by_one_of_the_set(tmp_path: Path) -> None:
    for root in ("set", "elsewhere"):
        put(tmp_path / root / "images/train/a.jpg", picture())
        put(tmp_path / root / "labels/train/a.txt", LINE)
    put(tmp_path / "set/data.yaml", f"train: {tmp_path}/elsewhere/images/train\nnames: [cat, dog]\n")
    with pytest.raises(FormatError, match=r"leads out of .*set, which needs --allow-outside"):
        read(tmp_path / "set")


def test_a_label_file_that_cannot_be_read_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk or a network that errs: its image is not an empty one."""
    for name in "ab":
        put(tmp_path / f"images/train/{name}.jpg", picture())
        put(tmp_path / f"labels/train/{name}.txt", LINE)
    put(tmp_path / "data.yaml", "train: images/train\nnames: [cat, dog]\n")

    unreadable(monkeypatch, "b.txt")
    items = list(read(tmp_path).records)
    assert [item.key for item in items if isinstance(item, Record)] == ["images/train/a.jpg"]
    assert [item.code for item in items if isinstance(item, Finding)] == ["label-broken"]


@pytest.mark.parametrize("prefix", ["", "data/", "./", "build/x64/data/", "/home/me/darknet/data/"])
def test_darknets_lists_are_splits(tmp_path: Path, prefix: str) -> None:
    pictures(tmp_path, "obj_train_data/a.jpg", "obj_valid_data/deep/b.jpg", "obj_valid_data/c.jpg")
    put(tmp_path / "train.txt", f"{prefix}obj_train_data/a.jpg\n")
    put(tmp_path / "valid.txt", f"{prefix}obj_valid_data/deep/b.jpg\n{prefix}obj_valid_data/c.jpg\n")
    put(tmp_path / "obj.names", "cat\ndog\n")
    lines = (
        f"classes = 2\ntrain = {prefix}train.txt\n# x\nvalid={prefix}valid.txt\nnames = {prefix}obj.names\nbackup = b/"
    )
    put(tmp_path / "obj.data", lines)
    expected = {"train": ["obj_train_data/a.jpg"], "valid": ["obj_valid_data/deep/b.jpg", "obj_valid_data/c.jpg"]}
    assert splits(tmp_path) == splits(tmp_path / "obj.data") == expected
    (tmp_path / "valid.txt").unlink()
    with pytest.raises(FormatError, match=r"obj\.data: valid: .*valid\.txt: does not exist"):
        read(tmp_path)
    assert splits(tmp_path, ("train",)) == {"train": expected["train"]}


def test_lists_beside_pictures_are_splits(tmp_path: Path) -> None:
    pictures(tmp_path, "img/a.jpg", "img/b.jpg", "img/train.jpg")
    put(tmp_path / "classes.txt", "cat\ndog")
    assert splits(tmp_path) == {"train": ["img/a.jpg", "img/b.jpg", "img/train.jpg"]}
    put(tmp_path / "train.txt", "img/a.jpg\nimg/train.jpg")
    put(tmp_path / "test.txt", "data/img/b.jpg\n")
    parts = {"test": ["img/b.jpg"], "train": ["img/a.jpg", "img/train.jpg"]}
    assert splits(tmp_path) == parts
    put(tmp_path / "trainval.txt", "img/a.jpg\nimg/b.jpg\nimg/train.jpg")
    assert splits(tmp_path) == parts and read(tmp_path).unions == {"trainval": ("test", "train")}


def test_folders_of_splits_go_before_a_list_of_one_of_them(tmp_path: Path) -> None:
    for name in ("train", "val"):
        put(tmp_path / f"images/{name}/{name}.jpg", picture())
        put(tmp_path / f"labels/{name}/{name}.txt", LINE)
    put(tmp_path / "classes.txt", "cat\ndog")
    put(tmp_path / "train.txt", "images/train/train.jpg")
    assert splits(tmp_path) == {"train": ["images/train/train.jpg"], "val": ["images/val/val.jpg"]}


@pytest.mark.parametrize("listed", [True, False])
def test_a_split_without_pictures_is_an_error_if_it_is_needed(tmp_path: Path, listed: bool) -> None:
    put(tmp_path / "images/val/a.jpg", picture())
    put(tmp_path / "labels/val/a.txt", LINE)
    for name in ("train", "test"):
        (tmp_path / "images" / name).mkdir()
    put(tmp_path / "classes.txt", "cat\ndog")
    if listed:
        put(tmp_path / "data.yaml", "".join(f"{name}: images/{name}\n" for name in ("train", "val", "test")))
    with pytest.raises(FormatError, match=r"train: .*train: has no pictures; --split selects other splits"):
        read(tmp_path)
    assert splits(tmp_path, ("val",)) == {"val": ["images/val/a.jpg"]}
    put(tmp_path / "images/train/a.jpg", picture())
    put(tmp_path / "labels/train/a.txt", LINE)
    assert splits(tmp_path).keys() == {"train", "val"}
    assert [f.code for f in drain(read(tmp_path))[1]] == ["split-missing"]
    with pytest.raises(FormatError, match=r"test: .*test: has no pictures"):
        read(tmp_path, split=("test",))


def test_a_split_that_is_not_selected_may_be_missing(tmp_path: Path) -> None:
    put(tmp_path / "train/images/a.jpg", picture())
    put(tmp_path / "train/labels/a.txt", LINE)
    put(tmp_path / "data.yaml", "train: ../train/images\nval: ../valid/images\nnames: [cat, dog]")
    with pytest.raises(FormatError, match=r"val: .*does not exist.*--split selects other splits"):
        read(tmp_path)
    assert splits(tmp_path, ("train",)) == {"train": ["train/images/a.jpg"]}


BOX = ".5 .5 .25 .5"


@pytest.mark.parametrize(
    ("shape", "points", "boxes"),
    [
        ("[2, 2]", " .4 .4 .6 .6", 1),
        ("[5, 2]", " .4 .4" * 5, 1),
        ("[17, 3]", " .4 .4 2" * 17, 1),
        ("[2, 3]", " .4 .4 2 .5 .5 0", 1),
        ("[2, 3]", " .4 .4 2", 0),  # too few
        ("[2, 3]", "", 0),
        ("", " .4 .4 2 .5 .5 0", 0),  # not stated, and no polygon
    ],
)
def test_keypoints_are_no_polygon(tmp_path: Path, shape: str, points: str, boxes: int) -> None:
    put(tmp_path / "images/a.jpg", picture())
    put(tmp_path / "labels/a.txt", f"1 {BOX}{points}\n")
    put(tmp_path / "data.yaml", f"train: images\nnames: [cat, dog]\nkpt_shape: {shape}\n".replace("kpt_shape: \n", ""))
    (record,), findings = drain(read(tmp_path))
    assert record.boxes.tolist() == [[24, 12, 40, 36]] * boxes
    assert ["kpt_shape" in finding.reason for finding in findings] == [True] * (1 - boxes)


def test_a_wrong_shape_of_keypoints(tmp_path: Path) -> None:
    put(tmp_path / "images/a.jpg", picture())
    put(tmp_path / "data.yaml", "train: images\nnames: [a]\nkpt_shape: 17")
    with pytest.raises(FormatError, match="kpt_shape: '17'; expected"):
        read(tmp_path)


def test_polygons_along_the_border_are_polygons(tmp_path: Path) -> None:
    put(tmp_path / "images/a.jpg", picture())
    put(tmp_path / "labels/a.txt", "0 0 0 1 0 1 1 0 1 0 0\n0 .5 0 1 0 1 1 .5 1 .5 0\n")
    put(tmp_path / "classes.txt", "cat")
    (record,), _ = drain(read(tmp_path))
    assert record.boxes.tolist() == [[0, 0, 64, 48], [32, 0, 64, 48]]
    assert record.polygons is not None and record.polygons.counts.tolist() == [1, 1]
    assert record.polygons.points[:4].tolist() == [[0, 0], [64, 0], [64, 48], [0, 48]]


def test_all_boxes_of_an_image_are_points_if_one_is(tmp_path: Path) -> None:
    put(tmp_path / "set/images/a.jpg", picture())
    put(tmp_path / "set/labels/a.txt", "0 0.5 0 1 0 1 1\n0 0.5 0.5 0.25 0.5\n")
    put(tmp_path / "set/classes.txt", "cat")
    source = read(tmp_path / "set")
    write(source, tmp_path / "out")
    lines = (tmp_path / "out/labels/train/a.txt").read_text().splitlines()
    assert lines == ["0 0.5 0.0 1.0 0.0 1.0 1.0", "0 0.375 0.25 0.625 0.25 0.625 0.75 0.375 0.75"]


@pytest.mark.parametrize(
    ("image", "label"),
    [
        ("A.JPG", "A.TXT"),
        ("gr\u00f6\u00dfe.jpg", "gro\u0308\u00dfe.txt"),
        ("gro\u0308\u00dfe.jpg", "gr\u00f6\u00dfe.Txt"),
        ("a.jpg", "a.jpg.txt"),
    ],
)
def test_names_of_labels_that_some_systems_and_tools_write(tmp_path: Path, image: str, label: str) -> None:
    put(tmp_path / "images/train" / image, picture())
    put(tmp_path / "images/train/b.png", picture(1))
    put(tmp_path / "labels/train" / label, LINE)
    put(tmp_path / "labels/train/lone.TXT", LINE)
    put(tmp_path / "data.yaml", "train: images/train\nnames: [cat, dog]\n")
    records, findings = drain(read(tmp_path))
    assert {Path(r.key).name: len(r.boxes) for r in records} == {image: 1, "b.png": 0}
    assert records[[r.key.endswith("b.png") for r in records].index(False)].origin.endswith(label)
    assert [f.code for f in findings] == ["label-orphan", "no-label"]


def test_a_list_of_other_letters_than_its_pictures(tmp_path: Path) -> None:
    pictures(tmp_path, unicodedata.normalize("NFD", "images/gr\u00f6\u00dfe.jpg"))
    put(tmp_path / "train.txt", "images/gr\u00f6\u00dfe.jpg\n")
    put(tmp_path / "data.yaml", "train: train.txt\nnames: [cat, dog]\n")
    assert splits(tmp_path) == {"train": [unicodedata.normalize("NFD", "images/gr\u00f6\u00dfe.jpg")]}


def test_class_numbers_from_1_are_not_those_of_other_classes(tmp_path: Path) -> None:
    second = LINE.replace("1", "2", 1)
    pictures(tmp_path, "train/a.jpg", "train/b.jpg", "train/c.jpg")
    put(tmp_path / "train/a.txt", LINE)
    put(tmp_path / "train/b.txt", LINE + second + second)
    put(tmp_path / "train/c.txt", LINE)
    put(tmp_path / "data.yaml", "train: train\nnames: [cat, dog]\n")
    assert [f.value[:6] for f in drain(read(tmp_path))[1]] == ["line 2", "line 3"]  # of one file: a slip
    put(tmp_path / "train/c.txt", second)
    with pytest.raises(FormatError, match=r"b.txt: line 2: class 2: .* class numbers run from 1 to 2; expected 0 to 1"):
        drain(read(tmp_path))
    put(tmp_path / "train/a.txt", LINE.replace("1", "0", 1))
    assert [f.code for f in drain(read(tmp_path))[1]] == ["unknown-class"] * 3


@pytest.mark.parametrize(
    ("layout", "names"),
    [
        ("{}/{}", ["classes.txt"]),
        ("{}/{}", ["train/classes.txt", "val/classes.txt"]),  # LabelImg's
        ("{}/{}", ["train/_darknet.labels", "val/_darknet.labels"]),  # Roboflow's
        ("labels/{}/{}", ["labels/train/classes.txt", "labels/val/classes.txt"]),
        ("{}/labels/{}", ["train/classes.txt", "val/classes.txt"]),
        ("{}/labels/{}", ["train/labels/classes.txt", "val/labels/classes.txt"]),
    ],
)
def test_folders_of_splits_with_class_names_in_them(tmp_path: Path, layout: str, names: list[str]) -> None:
    for n, split in enumerate(("train", "val")):
        put(tmp_path / layout.replace("labels", "images").format(split, f"{n}.jpg"), picture(n))
        put(tmp_path / layout.format(split, f"{n}.txt"), LINE)
    for name in names:
        put(tmp_path / name, "cat\ndog\n")
    assert detect(tmp_path)[0] == "yolo"
    assert {name: len(keys) for name, keys in splits(tmp_path).items()} == {"train": 1, "val": 1}
    assert read(tmp_path).classes == ("cat", "dog")
    if len(names) > 1:
        assert {*read(tmp_path).files} == {tmp_path / name for name in names}
        put(tmp_path / names[1], "dog\ncat\n")
        with pytest.raises(FormatError, match=f"{names[1]}: other class names than in .*{names[0]}"):
            read(tmp_path)


def test_subsets_of_cvat_are_splits(tmp_path: Path) -> None:
    pictures(tmp_path, "images/train/a.jpg", "images/night/b.jpg")
    for name, picture_name in (("train", "a"), ("night", "b")):
        put(tmp_path / f"{name}.txt", f"data/images/{name}/{picture_name}.jpg\n")
    text = "names: {0: cat, 1: dog}\npath: .\ntrain: train.txt\nnight: night.txt\ndusk: dusk.txt\n"
    put(tmp_path / "data.YAML", text + "download: fetch.txt\nauthor: me\n")
    assert detect(tmp_path)[0] == "yolo"
    assert splits(tmp_path) == {"train": ["images/train/a.jpg"], "night": ["images/night/b.jpg"]}
    missing = [f.value for f in drain(read(tmp_path))[1] if f.code == "split-missing"]
    assert missing == ["dusk: dusk.txt"]


@pytest.mark.parametrize("text", ["MIT\n", "", None, "caf\u00e9"])
def test_other_files_in_the_yaml_are_no_splits(tmp_path: Path, text: str | None) -> None:
    pictures(tmp_path, "images/train/a.jpg")
    put(tmp_path / "data.yaml", "train: images/train\nnames: [cat, dog]\nlicense: license.txt\nclasses: classes.txt\n")
    if text is not None:
        put(tmp_path / "license.txt", text.encode("latin-1"))
    assert splits(tmp_path) == {"train": ["images/train/a.jpg"]}


@pytest.mark.parametrize(
    ("names", "lists", "expected"),
    [
        ("trainval/a trainval/b", {"train": "trainval/a", "val": "trainval/b"}, {"train": 1, "val": 1}),
        ("train/a train/b val/c val/d", {"train": "train/a", "valid": "val/c"}, {"train": 1, "valid": 1}),
        ("data/a data/b test/c", {"train": "data/a", "val": "data/b"}, {"train": 1, "val": 1}),
        ("a b test/c", {}, {"train": 3}),
        ("train/a other/b", {}, {"train": 2}),
        ("train/a val/b val/c", {}, {"train": 1, "val": 2}),
    ],
)
def test_folders_of_splits_go_after_lists_and_leave_no_picture_out(
    tmp_path: Path, names: str, lists: dict[str, str], expected: dict[str, int]
) -> None:
    for n, name in enumerate(names.split()):
        put(tmp_path / f"{name}.jpg", picture(n))
        put(tmp_path / f"{name}.txt", LINE)
    for split, name in lists.items():
        put(tmp_path / f"{split}.txt", f"{name}.jpg\n")
    put(tmp_path / "classes.txt", "cat\ndog\n")
    assert {split: len(keys) for split, keys in splits(tmp_path).items()} == expected


@pytest.mark.parametrize("other", ["a.jpg.txt", "a.TXT"])
def test_a_label_file_that_another_goes_before_is_told(tmp_path: Path, other: str) -> None:
    pictures(tmp_path, "train/a.jpg")
    put(tmp_path / "train/a.txt", LINE)
    put(tmp_path / "train" / other, LINE + LINE)
    put(tmp_path / "data.yaml", "train: train\nnames: [cat, dog]\n")
    (record,), findings = drain(read(tmp_path))
    if len([*(tmp_path / "train").iterdir()]) == 3:  # a system that tells letters of other cases apart
        assert (len(record.boxes), [(f.code, Path(f.file).name) for f in findings]) == (1, [("label-orphan", other)])


def test_folders_from_the_folder_above(tmp_path: Path) -> None:
    """Roboflow's downloads: train is animals-3/train/images."""
    pictures(tmp_path, "train/images/a.jpg", "valid/images/b.jpg")
    text = "train: animals-3/train/images\nval: animals-3/valid/images\nnames: [cat, dog]\n"
    put(tmp_path / "data.yaml", text)
    assert splits(tmp_path) == {"train": ["train/images/a.jpg"], "val": ["valid/images/b.jpg"]}
    put(tmp_path / "data.yaml", text.replace("valid", "absent"))
    with pytest.raises(FormatError, match=r"val: animals-3/absent/images: does not exist"):
        read(tmp_path)


PLAIN = "0 .5 .5 .2 .1"
LINES = (
    *("1 0.517969 0.413542 0.101563 0.270833", "1.0 5e-1 0.25 1 0.1", "-0 0.5 0.5 2 1e-3", "01 1. 1 -0.5 0.5"),
    *(
        f"{PLAIN} ",
        f"\t{PLAIN}",
        PLAIN.replace(" ", "\t", 1),
        PLAIN.replace(" ", "  ", 1),
        "0\t .5 .5 .2 .1",
        f"{PLAIN}\x0c",
        "",
    ),
    *(
        "0 .5 .5 .2",
        "0 .5 .5 .2\n.1 0 .5 .5 .2 .1",
        "0 .5 .5 .2 .1 .1",
        "0 .1 .1 .5 .1 .5 .5",
        f"{PLAIN}\n0",
        "0 .5  .2 .1",
    ),
    *("0 .5 .5 .2 nan", "0 .5 .5 .2 NA", "0 .5 .5 .2 inf", "nan .5 .5 .2 .1", "0 nan(1) .5 .2 .1", "0 .5 .5 .2 2.1"),
    *(
        "2 .5 .5 .2 .1",
        "9 .5 .5 .2 .1",
        "0.5 .5 .5 .2 .1",
        "cat .5 .5 .2 .1",
        "+0 .5 .5 .2 .1",
        "0 0_1 .5 .2 .1",
        '"0" .5 .5 .2 .1',
    ),
    *(
        "\ufeff\ufeff" + PLAIN,
        "\u0660 .5 .5 .2 .1",
        f"{PLAIN}\u20280 .5 .5 .2 .1",
        "0 0x1 .5 .2 .1",
        "0 .5 .5 .2 1e400",
    ),
)


@pytest.mark.parametrize("together", [1, 256])
def test_files_are_parsed_together_as_one_by_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, together: int
) -> None:
    monkeypatch.setattr("dataforge.formats.yolo.reader.TOGETHER", together)
    texts = [text for line in LINES for text in (line, f"{line}\n", f"{PLAIN}\n{line}\n{PLAIN}\n", f"{PLAIN}\n")]
    for n, text in enumerate(["", "\n", f"\n{PLAIN}\n", f"{PLAIN}\r\n{PLAIN}", *texts]):
        put(tmp_path / f"images/train/{n:03}.jpg", picture())
        put(tmp_path / f"labels/train/{n:03}.txt", text)
    put(tmp_path / "data.yaml", "train: images/train\nnames: [cat, dog, '']")

    def everything() -> list[object]:
        return [
            item
            if isinstance(item, Finding)
            else (item.key, item.origin, item.boxes.tobytes(), item.labels.tolist(), item.flags.tolist())
            for item in read(tmp_path).records
        ]

    items = everything()
    monkeypatch.setattr("dataforge.formats.yolo.reader.parse", lambda texts, names: ({}, set()))
    assert items == everything()


def test_files_of_boxes_alone_are_parsed_together() -> None:
    texts = [f"{PLAIN}\n", "1 .5 .5 .2 .1\n1 .5 .5 .4 .1", "", f"{PLAIN}\n\n", "7 .5 .5 .2 .1\n", "0 3 .5 .2 .1\n"]
    parsed, numbers = parse(texts, {0: "cat", 1: "dog"})
    assert {n: names for n, (names, _, _) in parsed.items()} == {0: ["cat"], 1: ["dog", "dog"]}
    assert np.frombuffer(parsed[1][1]).reshape(-1, 4)[1] == pytest.approx([0.3, 0.45, 0.7, 0.55])
    assert parsed[1][2] == bytes(2) and numbers == {0, 1}
