"""Detections beside the truth: read by number and by name, paired as the confusion matrix of an evaluation is."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dataforge.analysis.detections import KINDS, confusion, judge, read_detections
from dataforge.errors import FormatError
from dataforge.images.header import probe
from dataforge.record import CROWD, DIFFICULT, Record
from dataforge.shards.reader import Shards
from dataforge.shards.writer import ShardWriter
from tests import tiny
from tests.web.viewing import detections
from trainers.results import metrics
from trainers.results.truth import read_predictions, truth_of_shards

Write = Callable[[Any], Path]


@pytest.fixture
def shards(tiny_shards: Path) -> Shards:
    return Shards(tiny_shards, "train")


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def to_file(content: Any) -> Path:
        file = tmp_path / "detections.json"
        file.write_text(json.dumps(content), "utf-8")
        return file

    return to_file


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("conf", [0.0, 0.25, 0.7, 1.0])
def test_the_matrix_is_that_of_an_evaluation(shards: Shards, tmp_path: Path, seed: int, conf: float) -> None:
    file = detections(shards, tmp_path / "detections.json", seed)
    truth = truth_of_shards(shards)
    found = read_detections(file, shards)
    judged = judge(found, shards, conf)
    assert (confusion(found, judged, shards) == metrics.confusion(truth, read_predictions(file, truth), conf)).all()
    assert ((judged.kind >= 0) == (found.scores >= conf)).all()


def test_names_and_numbers_find_the_same_images(shards: Shards, tmp_path: Path) -> None:
    one, other = (
        read_detections(detections(shards, tmp_path / f"{named}", named=named), shards) for named in (False, True)
    )
    for name in ("image", "boxes", "labels", "scores"):
        assert (getattr(one, name) == getattr(other, name)).all()
    assert (np.diff(one.image) >= 0).all()


def kinds(tmp_path: Path, boxes: list[tuple[Any, ...]], found: list[tuple[Any, ...]]) -> tuple[list[str], int]:
    """The kind of each detection (x1, y1, x2, y2, label, score) beside boxes (x1, y1, x2, y2, label, flags)."""
    data = tiny.encode(tiny.pixels(100, 100))
    numbers = np.array(boxes, np.float32).reshape(-1, 6)
    labels, flags = numbers[:, 4].astype(np.int32), numbers[:, 5].astype(np.uint8)
    record = Record("a.jpg", "train", data, 100, 100, numbers[:, :4], labels, flags)
    with ShardWriter(tmp_path / "shards", ("cat", "dog")) as writer:
        writer.add(record, data, probe(data))
        writer.publish()
    rows = [
        {"image_id": 0, "category_id": label, "bbox": [x1, y1, x2 - x1, y2 - y1], "score": score}
        for x1, y1, x2, y2, label, score in found
    ]
    file = tmp_path / "found.json"
    file.write_text(json.dumps(rows))
    shards = Shards(tmp_path / "shards")
    read = read_detections(file, shards)
    judged = judge(read, shards)
    return [KINDS[kind] if kind >= 0 else "" for kind in judged.kind], int(judged.missed.sum())


CAT, DOG = (10, 10, 50, 50, 0, 0), (60, 60, 90, 90, 1, 0)


@pytest.mark.parametrize(
    ("boxes", "found", "expected", "missed"),
    [
        ([CAT, DOG], [(10, 10, 50, 50, 0, 0.9), (60, 60, 90, 90, 1, 0.8)], ["correct", "correct"], 0),
        ([CAT], [(10, 10, 50, 50, 1, 0.9)], ["class"], 0),
        ([CAT], [(10, 10, 50, 50, 0, 0.9), (10, 10, 50, 48, 0, 0.8)], ["correct", "double"], 0),
        ([CAT], [(10, 10, 50, 50, 0, 0.9), (10, 10, 50, 48, 1, 0.8)], ["correct", "class"], 0),
        ([CAT], [(30, 10, 70, 50, 0, 0.9)], ["place"], 1),
        ([CAT], [(30, 10, 70, 50, 1, 0.9)], ["background"], 1),
        ([CAT], [(60, 60, 90, 90, 0, 0.9)], ["background"], 1),
        ([CAT], [(10, 10, 50, 50, 0, 0.2)], [""], 1),
        ([], [(10, 10, 50, 50, 0, 0.9)], ["background"], 0),
        ([(10, 10, 50, 50, 0, CROWD)], [(10, 10, 50, 50, 0, 0.9)], ["ignored"], 0),
        ([(10, 10, 50, 50, 0, DIFFICULT)], [], [], 0),
    ],
)
def test_kinds(tmp_path: Path, boxes: list, found: list, expected: list[str], missed: int) -> None:
    assert kinds(tmp_path, boxes, found) == (expected, missed)


ROW = {"image_id": 1000, "category_id": 3, "bbox": [1, 2, 3, 4], "score": 0.5}


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (ROW | {"image_id": 7}, "entry 1: image_id is 7; it names no image"),
        (ROW | {"bbox": [1, 2, 3]}, "bbox"),
        (ROW | {"bbox": [1, 2, -3, 4]}, "no side below 0"),
        (ROW | {"score": float("nan")}, "finite"),
        ({"image_id": 1000}, "entry 1"),
        ({name: value for name, value in ROW.items() if name != "image_id"}, "image_id is None"),
    ],
)
def test_what_is_wrong_is_named(shards: Shards, write: Write, row: dict, reason: str) -> None:
    with pytest.raises(FormatError, match="detections.json: .*" + reason):
        read_detections(write([ROW, row]), shards)


def test_classes_that_the_shards_lack_are_left_out(shards: Shards, write: Write) -> None:
    found = read_detections(write({"annotations": [ROW, ROW | {"category_id": 4}]}), shards)
    assert len(found.scores) == 1
    named = read_detections(write([ROW | {"category_name": "dog"}, ROW | {"category_name": "cow"}]), shards)
    assert named.labels.tolist() == [1], "a name counts more than a number"


def test_names_below_folders(shards: Shards, write: Write) -> None:
    keys = shards.table.key.tolist()
    found = read_detections(write([ROW | {"file_name": "b.jpg"}, ROW | {"file_name": "a.jpg"}]), shards)
    assert [keys[n] for n in found.image] == sorted(["sub dir/b.jpg", "a.jpg"], key=keys.index)
    with pytest.raises(FormatError, match=r"file_name is 'x.jpg'"):
        read_detections(write([ROW | {"file_name": "x.jpg"}]), shards)


def test_numbers_that_two_splits_share_are_refused(tiny_shards: Path, write: Write) -> None:
    both = Shards(tiny_shards)
    with pytest.raises(FormatError, match="--split"):
        read_detections(write([ROW]), both)
    with pytest.raises(FormatError, match="or several"):
        read_detections(write([ROW | {"file_name": "a.jpg"}]), both)
    found = read_detections(write([ROW | {"file_name": "val/a.jpg"}]), both)
    assert found.image.tolist() == [int(both.splits["val"][list(both.table.key[both.splits["val"]]).index("a.jpg")])]
