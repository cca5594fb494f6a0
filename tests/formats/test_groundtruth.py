from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from dataforge.errors import ConfigError, FormatError
from dataforge.formats.groundtruth.reader import read
from dataforge.formats.sniff import detect
from tests.formats.sets import drain, picture, put
from tests.formats.suite import FormatSuite

# the line of Amazon's documentation, with numbers for the picture's 64x48
LINE: dict[str, Any] = {
    "source-ref": "s3://bucket/images/a.jpg",
    "bounding-box": {
        "image_size": [{"width": 64, "height": 48, "depth": 3}],
        "annotations": [
            {"class_id": 1, "top": 25, "left": 39, "width": 15, "height": 10},
            {"class_id": 0, "top": 6, "left": 8, "width": 22, "height": 33},
        ],
    },
    "bounding-box-metadata": {
        "objects": [{"confidence": 1}, {"confidence": 1}],
        "class-map": {"0": "Echo", "1": "Echo Dot"},
        "type": "groundtruth/object-detection",
        "human-annotated": "yes",
        "creation-date": "2013-11-18T02:53:27",
        "job-name": "my job",
    },
}


class TestGroundTruthRoundTrip(FormatSuite):
    name = "groundtruth"


def write(root: Path, *lines: dict[str, Any]) -> Path:
    put(root / "images/a.jpg", picture())
    return put(root / "output.manifest", "".join(json.dumps(line) + "\n" for line in lines))


def test_the_documented_line(tmp_path: Path) -> None:
    file = write(
        tmp_path, LINE, {"source-ref": "s3://bucket/images/b.jpg", "bounding-box-metadata": {"failure-reason": "x"}}
    )
    assert detect(file)[0] == detect(tmp_path)[0] == "groundtruth"
    source = read(tmp_path)
    (record,), findings = drain(source)
    assert source.classes == ("Echo", "Echo Dot") and record.labels.tolist() == [1, 0]
    assert record.boxes.tolist() == [[39, 25, 54, 35], [8, 6, 30, 39]] and record.key == "images/a.jpg"
    assert [f.code for f in findings] == ["not-annotated", "images-by-name"]


def test_the_folders_of_a_job(tmp_path: Path) -> None:
    write(tmp_path, LINE)
    (tmp_path / "manifests/output").mkdir(parents=True)
    (tmp_path / "output.manifest").rename(tmp_path / "manifests/output/output.manifest")
    put(tmp_path / "annotations/consolidated-annotation/0.json", '[{"datasetObjectId": "0"}]')
    assert detect(tmp_path)[0] == "groundtruth"
    assert [r.split for r in drain(read(tmp_path))[0]] == ["train"]


def test_several_jobs(tmp_path: Path) -> None:
    write(tmp_path, {**LINE, "checked": {"annotations": []}, "checked-metadata": LINE["bounding-box-metadata"]})
    with pytest.raises(ConfigError, match="line 1: labels bounding-box, checked; say which with --attribute"):
        read(tmp_path)
    (record,), _ = drain(read(tmp_path, attribute="checked"))
    assert not len(record.boxes)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"source-ref": 1}, "line 2: source-ref: the whole file: 1"),
        ({"bounding-box": {}}, "line 2: bounding-box: .*required field `annotations`"),
        ({"bounding-box": {"annotations": [{"class_id": "1"}]}}, "line 2: bounding-box: annotations entry 0: class_id"),
    ],
)
def test_broken_lines(tmp_path: Path, change: dict[str, Any], expected: str) -> None:
    file = write(tmp_path, LINE, {**LINE, **change})
    with pytest.raises(FormatError, match=expected) as caught:
        read(file)
    assert str(file) in str(caught.value)
