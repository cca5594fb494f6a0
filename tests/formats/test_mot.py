from __future__ import annotations

from pathlib import Path

import pytest

from dataforge.errors import FormatError
from dataforge.formats.mot.reader import CLASSES, read
from dataforge.formats.sniff import detect
from dataforge.record import CROWD
from tests.formats.sets import drain, picture, put

SEQINFO = (
    "[Sequence]\nname=MOT17-02-FRCNN\nimDir=img1\nframeRate=30\nseqLength=2\nimWidth=64\nimHeight=48\nimExt=.jpg\n"
)
TRUTH = "1,1,5,9,10,20,1,1,0.86\n1,2,25,9,10,20,0,8,1\n3,1,5,9,10,20,1,1,0.5\n"


def sequence(root: Path, truth: str = TRUTH, frames: tuple[str, ...] = ("000001", "000002", "000003")) -> Path:
    for n, name in enumerate(frames):
        put(root / f"img1/{name}.jpg", picture(n))
    put(root / "seqinfo.ini", SEQINFO)
    return put(root / "gt/gt.txt", truth)


def test_a_sequence(tmp_path: Path) -> None:
    sequence(tmp_path / "train/MOT17-02-FRCNN")
    put(tmp_path / "train/MOT17-02-FRCNN/det/det.txt", "1,-1,5,9,10,20,0.9\n")
    put(tmp_path / "test/MOT17-01-FRCNN/img1/000001.jpg", picture())  # has no ground truth: it is no split
    assert detect(tmp_path)[0] == "mot"
    source = read(tmp_path)
    records, findings = drain(source)
    assert not findings and source.classes == CLASSES and {r.split for r in records} == {"train"}
    assert records[0].key == "train/MOT17-02-FRCNN/img1/000001.jpg"
    box = [4, 8, 14, 28]  # counted from 1
    assert [r.boxes.tolist() for r in records] == [[box, [24, 8, 34, 28]], [], [box]]
    assert records[0].flags.tolist() == [0, CROWD] and records[0].labels.tolist() == [0, 7]


def test_the_lines_of_2015_have_no_class(tmp_path: Path) -> None:
    sequence(tmp_path, "1,1,5,9,10.5,20,1,-1,-1,-1\n")
    records, _ = drain(read(tmp_path))
    assert records[0].labels.tolist() == [0] and records[0].boxes.tolist() == [[4, 8, 14.5, 28]]


def test_cvats_export_has_classes_and_any_names(tmp_path: Path) -> None:
    sequence(tmp_path, "2,1,5,9,10,20,1,2,1.0\n", ("dusk", "dawn"))
    put(tmp_path / "gt/labels.txt", "cat\ndog\n")
    source = read(tmp_path)
    records, _ = drain(source)
    assert source.classes == ("cat", "dog")
    assert [(r.key, r.labels.tolist()) for r in records] == [("img1/dawn.jpg", []), ("img1/dusk.jpg", [1])]


def test_a_class_without_a_name_is_listed(tmp_path: Path) -> None:
    sequence(tmp_path, "1,1,5,9,10,20,1,99,1\n")
    _, findings = drain(read(tmp_path))
    assert [(f.code, f.xyxy) for f in findings] == [("unknown-class", (4, 8, 14, 28))]


@pytest.mark.parametrize(
    ("truth", "expected"),
    [
        ("1,1,5,9,10\n", "line 1: '1,1,5,9,10'; expected frame"),
        ("1,1,5,9,10,20,1,1,1\n9,1,5,9,10,20,1,1,1\n", r"line 2: .*expected frame \(of 3 in .*img1\)"),
        ("1,1,x,9,10,20,1,1,1\n", "line 1"),
        ("1,1,5,0,9,0,10,0,20,0,1,1,1\n", "line 1"),
    ],
)
def test_broken_lines(tmp_path: Path, truth: str, expected: str) -> None:
    file = sequence(tmp_path, truth)
    with pytest.raises(FormatError, match=expected) as caught:
        read(tmp_path)
    assert str(file) in str(caught.value)


@pytest.mark.parametrize(
    ("text", "expected"),
    [("name=x", "cannot be read"), ("[Sequence]\nimDir=../other", "imDir=../other: expected a folder of the sequence")],
)
def test_broken_seqinfo(tmp_path: Path, text: str, expected: str) -> None:
    sequence(tmp_path)
    put(tmp_path / "seqinfo.ini", text)
    with pytest.raises(FormatError, match=rf"seqinfo\.ini: {expected}"):
        read(tmp_path)
