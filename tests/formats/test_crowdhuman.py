from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from dataforge.errors import ConfigError, FormatError
from dataforge.formats.crowdhuman.reader import read
from dataforge.formats.sniff import detect
from dataforge.record import CROWD
from tests.formats.named import run
from tests.formats.sets import drain, picture, put

NAME = "273271,c9db000d5146c15"


def person(tag: str = "person", ignore: int = 0, head_ignore: int = 0) -> dict[str, Any]:
    return {
        "fbox": [4, 8, 10, 20],
        "tag": tag,
        "hbox": [6, 8, 4, 4],
        "extra": {"box_id": 0, "occ": 0} | ({"ignore": 1} if ignore else {}),
        "vbox": [4, 8, 8, 20],
        "head_attr": {"ignore": head_ignore, "occ": 0, "unsure": 0},
    }


def write(root: Path, *boxes: dict[str, Any]) -> Path:
    put(root / f"CrowdHuman_val/Images/{NAME}.jpg", picture())
    return put(root / "annotation_val.odgt", json.dumps({"ID": NAME, "gtboxes": boxes}) + "\n")


def test_the_published_lines(tmp_path: Path) -> None:
    file = write(tmp_path, person(), person("mask"), person(ignore=1), person(head_ignore=1))
    assert detect(file)[0] == detect(tmp_path)[0] == "crowdhuman"
    for kind, name, box, flags in (
        (None, "person", [4, 8, 14, 28], [0, CROWD, CROWD, 0]),
        ("visible", "person", [4, 8, 12, 28], [0, CROWD, CROWD, 0]),
        ("head", "head", [6, 8, 10, 12], [0, CROWD, CROWD, CROWD]),
    ):
        source = read(tmp_path, person_box=kind)
        (record,), findings = drain(source)
        assert source.classes == (name,) and not findings and record.split == "val"
        assert record.boxes.tolist() == [box] * 4 and record.flags.tolist() == flags
    with pytest.raises(ConfigError, match="unknown person box 'body'; known: full, head, visible"):
        read(tmp_path, person_box="body")
    result = run("ingest", "auto", tmp_path, "--person-box", "head", "--out", tmp_path / "out")
    assert result.exit_code == 0, result.stderr


def test_a_person_without_the_box_is_listed(tmp_path: Path) -> None:
    write(tmp_path, person(), {"tag": "person", "fbox": [4, 8, 10, 20]})
    (record,), findings = drain(read(tmp_path, person_box="head"))
    assert len(record.boxes) == 1 and [(f.code, f.box) for f in findings] == [("box-missing", 1)]


@pytest.mark.parametrize("change", [{"fbox": [1, 2, 3]}, {"fbox": [1, 2, 3, "4"]}, {"tag": None}])
def test_broken_lines(tmp_path: Path, change: dict[str, Any]) -> None:
    file = write(tmp_path, person(), {**person(), **change})
    with pytest.raises(FormatError, match=f"line 1: gtboxes entry 1: {next(iter(change))}") as caught:
        read(file)
    assert str(file) in str(caught.value)
