"""A validation split that a set states, in any way its format knows, comes back as such, or the set is refused.

It never ends in the training split: what is not understood is refused, or left out and named.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dataforge.formats import FORMATS, holds, writable
from dataforge.shards.reader import Shards
from tests.formats.named import WRITE, run
from tests.formats.sets import picture, put

TRAIN, VAL = picture(1), picture(2)
LINE = "0 .5 .5 .1 .1"


def one_folder_each(name: str) -> Callable[[Path], object]:
    """`train/` and `val/`, each a set of its own."""

    def write(root: Path) -> None:
        for split, data in (("train", TRAIN), ("val", VAL)):
            put(root / split / f"{split}.jpg", data)
            WRITE[name](root / split, [f"{split}.jpg"])

    return write


def side_by_side(start: str, end: str) -> Callable[[Path], object]:
    """Both sets of a format in one folder, as `train<end>` and `val<end>`."""
    name, _, file = start.partition(":")

    def write(root: Path) -> None:
        for split, data in (("train", TRAIN), ("val", VAL)):
            put(root / f"{split}.jpg", data)
            WRITE[name](root / "x", [f"{split}.jpg"])
            shutil.move(root / "x" / file, root / (split + end))

    return write


def yolo(files: dict[str, str], folders: dict[str, str]) -> Callable[[Path], object]:
    """Other files, and where the pictures lie; labels are beside them or in `labels`."""

    def write(root: Path) -> None:
        put(root / "obj.names", "cat")
        for split, data in (("train", TRAIN), ("val", VAL)):
            put(root / folders[split] / f"{split}.jpg", data)
            put(root / folders[split].replace("images", "labels") / f"{split}.txt", LINE)
        for name, text in files.items():
            put(root / name, text)

    return write


def lists(root: Path) -> None:
    for split, data in (("train", TRAIN), ("val", VAL)):
        put(root / f"{split}.jpg", data)
        WRITE["lists"](root, [f"{split}.jpg"])
        if split == "train":
            for end in ("images", "objects"):
                (root / f"TRAIN_{end}.json").rename(root / f"T_{end}.json")
    for end in ("images", "objects"):
        (root / f"TRAIN_{end}.json").rename(root / f"VAL_{end}.json")
        (root / f"T_{end}.json").rename(root / f"TRAIN_{end}.json")


def croissant(root: Path) -> None:
    """A set of files, each of a split."""
    for split, data in (("val", VAL), ("train", TRAIN)):
        put(root / f"{split}.jpg", data)
        WRITE["croissant"](root, [f"{split}.jpg"])
        (root / "train.csv").rename(root / f"{split}.csv")
    text = (root / "croissant.json").read_text()
    (root / "croissant.json").write_text(text.replace('"contentUrl": "train.csv"', '"includes": "*.csv"'))


def kitti(root: Path) -> None:
    for split, data in (("train", TRAIN), ("val", VAL)):
        put(root / split / f"image_2/{split}.jpg", data)
        WRITE["kitti"](root / split / "label_2", [f"{split}.jpg"])


def labelme_below_labels(root: Path) -> None:
    one_folder_each("labelme")(root / "labels")


def supervisely(root: Path) -> None:
    for split, data in (("train", TRAIN), ("val", VAL)):
        put(root / split / f"img/{split}.jpg", data)
        WRITE["supervisely"](root / split, [f"{split}.jpg"])


def supervisely_tags(root: Path) -> None:
    for split, data in (("train", TRAIN), ("val", VAL)):
        put(root / f"ds0/img/{split}.jpg", data)
        WRITE["supervisely"](root / "ds0", [f"{split}.jpg"])
        file = root / f"ds0/ann/{split}.jpg.json"
        put(file, json.dumps({**json.loads(file.read_text()), "tags": [{"name": split}, {"name": "night"}]}))


def lines_with(name: str, change: Callable[[dict[str, Any], str], object]) -> Callable[[Path], object]:
    """One file of lines that state their splits."""

    def write(root: Path) -> None:
        for split, data in (("train", TRAIN), ("val", VAL)):
            put(root / f"{split}.jpg", data)
        WRITE[name](root, ["train.jpg", "val.jpg"])
        rows = [json.loads(line) for line in (root / "set.ndjson").read_text().splitlines()]
        for row, split in zip(rows[-2:], ("train", "val"), strict=True):
            change(row, split)
        put(root / "set.ndjson", "".join(json.dumps(row) + "\n" for row in rows))

    return write


def run_split(row: dict[str, Any], split: str) -> None:
    state = {"train": "TRAINING", "val": "VALIDATION"}[split]
    row["experiments"] = {"e": {"name": "m", "runs": {"r": {"run_data_row_split": state}}}}


def visdrone(root: Path) -> None:
    for split, data in (("train", TRAIN), ("val", VAL)):
        put(root / f"VisDrone2019-DET-{split}/images/{split}.jpg", data)
        WRITE["visdrone"](root / f"VisDrone2019-DET-{split}/annotations", [f"{split}.jpg"])


def mot(root: Path) -> None:
    for split, data in (("train", TRAIN), ("val", VAL)):
        put(root / split / "MOT17-02-FRCNN/img1/000001.jpg", data)
        WRITE["mot"](root / split / "MOT17-02-FRCNN", ["000001.jpg"])


def widerface(root: Path) -> None:
    for split, data in (("train", TRAIN), ("val", VAL)):
        name = "0--Parade/0_Parade_1.jpg"
        put(root / f"WIDER_{split}/images" / name, data)
        WRITE["widerface"](root / "x", [name])
        (root / "wider_face_split").mkdir(exist_ok=True)
        shutil.move(root / "x/set_bbx_gt.txt", root / f"wider_face_split/wider_face_{split}_bbx_gt.txt")
    (root / "x").rmdir()


FLAT, APART = {"train": "img", "val": "img"}, {"train": "images/train", "val": "images/val"}
NESTED = {"train": "train/images", "val": "val/images"}
LISTS = {"train.txt": "img/train.jpg", "val.txt": "img/val.jpg"}
YAML = "names: [cat]\ntrain: {}\nval: {}\n"
WAYS: dict[str, Callable[[Path], object]] = {
    "bdd100k in folders": one_folder_each("bdd100k"),
    "bdd100k files": side_by_side("bdd100k:set.json", "_labels.json"),
    "coco in folders": one_folder_each("coco"),
    "coco files": side_by_side("coco:set.json", ".json"),
    "createml in folders": one_folder_each("createml"),
    "croissant files": croissant,
    "crowdhuman in folders": one_folder_each("crowdhuman"),
    "crowdhuman files": side_by_side("crowdhuman:set.odgt", ".odgt"),
    "cvat in folders": one_folder_each("cvat"),
    "datumaro in folders": one_folder_each("datumaro"),
    "datumaro files": side_by_side("datumaro:default.json", ".json"),
    "flatbuffer in folders": one_folder_each("flatbuffer"),
    "flatbuffer files": side_by_side("flatbuffer:train.db", ".db"),
    "groundtruth in folders": one_folder_each("groundtruth"),
    "groundtruth files": side_by_side("groundtruth:set.manifest", ".manifest"),
    "kitti in folders": kitti,
    "labelbox in folders": one_folder_each("labelbox"),
    "labelbox files": side_by_side("labelbox:set.ndjson", ".ndjson"),
    "labelbox runs": lines_with("labelbox", run_split),
    "labelme in folders": one_folder_each("labelme"),
    "labelme below labels": labelme_below_labels,
    "labelstudio in folders": one_folder_each("labelstudio"),
    "labelstudio files": side_by_side("labelstudio:set.json", ".json"),
    "lists in folders": one_folder_each("lists"),
    "lists by name": lists,
    "matlab in folders": one_folder_each("matlab"),
    "matlab files": side_by_side("matlab:set.json", ".json"),
    "mot in folders": mot,
    "sqlite in folders": one_folder_each("sqlite"),
    "sqlite files": side_by_side("sqlite:train.db", ".sqlite"),
    "supervisely in folders": supervisely,
    "supervisely tags": supervisely_tags,
    "table in folders": one_folder_each("table"),
    "table files": side_by_side("table:train.csv", ".csv"),
    "ultralytics in folders": one_folder_each("ultralytics"),
    "ultralytics files": side_by_side("ultralytics:set.ndjson", ".ndjson"),
    "ultralytics lines": lines_with("ultralytics", lambda row, split: row.update(split=split)),
    "via in folders": one_folder_each("via"),
    "via files": side_by_side("via:set.json", ".json"),
    "visdrone in folders": visdrone,
    "voc in folders": one_folder_each("voc"),
    "vott in folders": one_folder_each("vott"),
    "vott files": side_by_side("vott:set.json", ".json"),
    "widerface in folders": one_folder_each("widerface"),
    "widerface files": widerface,
    "yolo in folders": one_folder_each("yolo"),
    "yolo images": yolo({}, APART),
    "yolo nested": yolo({}, NESTED),
    "yolo lists": yolo(LISTS, FLAT),
    "yolo darknet": yolo({"obj.data": "train = data/train.txt\nval = data/val.txt\nnames = obj.names", **LISTS}, FLAT),
    "yolo YAML": yolo({"data.yaml": YAML.format("images/train", "images/val")}, APART),
    "yolo YAML, roboflow": yolo({"data.yaml": YAML.format("../train/images", "../val/images")}, NESTED),
    "yolo YAML, lists": yolo({"data.yaml": YAML.format("train.txt", "val.txt"), **LISTS}, FLAT),
    "yolo YAML without val": yolo({"data.yaml": "names: [cat]\ntrain: images/train"}, APART),
}


NOT_IN_FOLDERS = (
    "coco",
    "croissant",
    "cvat",
    "flatbuffer",
    "lists",
    "sqlite",
    "voc",
    "yolo",
)  # a set of theirs is one folder


@pytest.mark.parametrize("way", WAYS)
def test_what_is_for_validation_is_not_trained_on(tmp_path: Path, way: str) -> None:
    root, out, name = tmp_path / "set", tmp_path / "out", way.split()[0]
    WAYS[way](root)
    result = run("ingest", name, root, "--out", out)
    if result.exit_code:
        assert result.exit_code == 2 and "error: " in result.stderr and not (out / "index.json").exists()
        return
    shards = Shards(out)
    pictures = {split: [bytes(shards.blob(i)) for i in rows] for split, rows in shards.splits.items()}
    assert pictures["train"] == [TRAIN]
    if "val" in pictures:
        assert pictures["val"] == [VAL]
    else:  # left out, and named
        report = [json.loads(line) for line in (out / "ingest.jsonl").read_text().splitlines()]
        assert [line for line in report if "val" in line.get("value", "") + line.get("file", "")]


def test_most_ways_are_understood(tmp_path: Path) -> None:
    """The ways that formats' documents name; the others may be refused."""
    refused = {f"{name} in folders" for name in FORMATS} | {"coco files", "yolo YAML without val"}
    for way in WAYS.keys() - refused | {f"{name} in folders" for name in FORMATS if name not in NOT_IN_FOLDERS}:
        WAYS[way](tmp_path / way)
        result = run("ingest", way.split()[0], tmp_path / way, "--out", tmp_path / "out" / way)
        assert result.exit_code == 0, (way, result.stderr)
        assert {*Shards(tmp_path / "out" / way).splits} == {"train", "val"}, way


def test_every_format_has_a_way() -> None:
    assert {way.split()[0] for way in WAYS} == {
        name for name in FORMATS if name not in writable() or "splits" in holds(name)
    }
