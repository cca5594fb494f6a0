"""Files that a format does not use are named, in every format; and nothing is named in the sets that are fine."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dataforge.formats import FORMATS, writable, writer
from dataforge.formats.leftovers import account
from dataforge.record import Finding, Source
from dataforge.shards.as_source import source_of
from dataforge.shards.reader import Shards
from tests.formats.named import WRITE, run
from tests.formats.sets import drain, picture, put
from tests.formats.test_registry import LOOK_FOR

CODES = {"picture-unread", "file-unread", "folder-empty"}


def noted(out: Path) -> list[tuple[str, str, str]]:
    """The findings of this kind in an ingest's report: (code, folder's name, value)."""
    lines = map(json.loads, (out / "ingest.jsonl").read_text().splitlines())
    return [(x["code"], Path(x["file"]).name, x["value"]) for x in lines if x.get("code") in CODES]


@pytest.mark.parametrize("name", writable())
def test_an_export_has_no_leftovers(tiny_shards: Path, tmp_path: Path, name: str) -> None:
    writer(name)(source_of(Shards(tiny_shards)), tmp_path / "set")
    assert run("ingest", name, tmp_path / "set", "--out", tmp_path / "out").exit_code == 0
    assert noted(tmp_path / "out") == []


@pytest.mark.parametrize("name", FORMATS)
def test_what_is_not_read_is_named(tmp_path: Path, name: str) -> None:
    root = tmp_path / "set"
    put(root / "a.jpg", picture())
    WRITE[name](root, ["a.jpg"])
    for n in range(5):
        put(root / f"more/deep/{n}.dcm", "")
    put(root / "more/table.xlsx", "")
    put(root / "extra.weights", "")
    put(root / ".hidden/x.weights", "")
    put(root / ".DS_Store", "")
    put(root / "README.md", "")
    (root / "val").mkdir()
    result = run("ingest", name, root, "--out", tmp_path / "out")
    assert result.exit_code == 0 and "noted file-unread: 3" in result.stdout, result.output
    assert noted(tmp_path / "out") == [
        ("file-unread", "set", "1 files .weights: extra.weights"),
        ("file-unread", "more", "5 files .dcm: deep/0.dcm, deep/1.dcm, deep/2.dcm, ..."),
        ("file-unread", "more", "1 files .xlsx: table.xlsx"),
        ("folder-empty", "val", ""),
    ]


@pytest.mark.parametrize(
    "name", sorted(FORMATS.keys() - {*LOOK_FOR, "voc", "yolo"})
)  # these take pictures without labels
def test_pictures_that_nothing_names_are_named(tmp_path: Path, name: str) -> None:
    root = tmp_path / "set"
    for n in range(4):
        put(root / f"{'abcd'[n]}.jpg", picture(n))
    WRITE[name](root, ["a.jpg"])
    assert run("ingest", name, root, "--out", tmp_path / "out").exit_code == 0
    assert noted(tmp_path / "out") == [("picture-unread", "set", "3 files .jpg: b.jpg, c.jpg, d.jpg")]
    assert run("ingest", name, root, "--split", "train", "--out", tmp_path / "part").exit_code == 0
    assert noted(tmp_path / "part") == []  # a selection leaves files out


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("suffix", [".heic", ".xyz"])
def test_a_picture_that_is_not_read_is_named(tmp_path: Path, name: str, suffix: str) -> None:
    root = tmp_path / "set"
    put(root / "a.jpg", picture())
    put(root / f"other{suffix}", b"\0\0\0\x18ftypheic" + bytes(100))
    WRITE[name](root, ["a.jpg"])
    result = run("ingest", name, root, "--out", tmp_path / "out")
    assert f"other{suffix}" in result.output
    assert result.exit_code == 0 or (suffix == ".heic" and "is HEIC, which is not read here" in result.stderr)


def test_shards_below_the_root_are_no_leftovers(tmp_path: Path) -> None:
    put(tmp_path / "a.jpg", picture())
    WRITE["coco"](tmp_path, ["a.jpg"])
    for name in ("older", "newer"):
        assert run("ingest", "coco", tmp_path, "--out", tmp_path / name).exit_code == 0
        assert noted(tmp_path / name) == []


def test_files_of_findings_and_of_the_source_are_accounted_for(tmp_path: Path) -> None:
    for name in ("a.txt", "b.txt", "c.txt"):
        put(tmp_path / name, "")
    finding = Finding("refused", "annotation-broken", str(tmp_path / "a.txt"), "", "", "", "image")
    source = account(Source((), iter([finding]), files=[tmp_path / "x" / ".." / "b.txt"]), tmp_path)
    first, last = drain(source)[1]
    assert first is finding and (last.code, last.value) == ("file-unread", "1 files .txt: c.txt")
    assert drain(account(Source((), iter([])), tmp_path / "a.txt")) == ([], [])
