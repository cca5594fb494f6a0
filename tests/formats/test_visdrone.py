from __future__ import annotations

from pathlib import Path

import pytest

from dataforge.errors import FormatError
from dataforge.formats.sniff import detect
from dataforge.formats.visdrone.reader import CLASSES, read
from dataforge.record import CROWD, TRUNCATED
from tests.formats.sets import drain, picture, put

# lines of VisDrone2019-DET-train's 0000002_00005_d_0000014, moved into the picture's 64x48
LINES = "4,8,10,20,0,0,0,0\n16,8,10,20,1,4,0,0\n28,8,10,20,1,2,1,2,\n40,8,10,20,0,11,0,0\n"


def test_the_toolkits_lines(tmp_path: Path) -> None:
    for folder in ("VisDrone2019-DET-val", "VisDrone2019-DET-test-dev"):
        put(tmp_path / folder / "images/0000002_00005_d_0000014.jpg", picture())
        put(tmp_path / folder / "annotations/0000002_00005_d_0000014.txt", LINES)
    assert detect(tmp_path)[0] == "visdrone"
    source = read(tmp_path)
    records, findings = drain(source)
    assert [r.split for r in records] == ["test-dev", "val"] and source.classes == CLASSES and not findings
    assert records[0].boxes.tolist() == [[x, 8, x + 10, 28] for x in (4, 16, 28, 40)]
    assert [CLASSES[label] for label in records[0].labels] == ["ignored regions", "car", "people", "others"]
    assert records[0].flags.tolist() == [CROWD, 0, TRUNCATED, CROWD]
    assert drain(read(tmp_path / "VisDrone2019-DET-val"))[0][0].split == "val"


def test_what_is_wrong_is_listed(tmp_path: Path) -> None:
    put(tmp_path / "images/a.jpg", picture())
    put(tmp_path / "annotations/a.txt", LINES + "1,2,3,4\n1,2,3,4,1,12,0,0\n1,2,3,4,1,-1,0,0\nx,2,3,4,1,1,0,0\n")
    put(tmp_path / "images/b.jpg", picture())
    put(tmp_path / "annotations/c.txt", LINES)
    records, findings = drain(read(tmp_path))
    assert [len(record.boxes) for record in records] == [4, 0]
    assert [f.code for f in findings] == ["label-orphan", *["line-broken"] * 4, "no-label"]
    with pytest.raises(FormatError, match="no label files found; expected images/ and annotations/"):
        read(put(tmp_path / "other/images/a.jpg", picture()).parents[1])
