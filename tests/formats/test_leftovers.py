"""Files that a format does not use are named, in every format; and nothing is named in the sets that are fine."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dataforge.formats import FORMATS, reader, writable, writer
from dataforge.formats.leftovers import account
from dataforge.formats.sniff import detect
from dataforge.record import Finding, Source
from dataforge.shards.as_source import source_of
from dataforge.shards.reader import Shards
from tests import tiny
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
        ("file-unread", "set", "1 file .weights: extra.weights"),
        ("file-unread", "more", "5 files .dcm: deep/0.dcm, deep/1.dcm, deep/2.dcm, ..."),
        ("file-unread", "more", "1 file .xlsx: table.xlsx"),
        ("folder-empty", "val", ""),
    ]


def read(name: str, root: Path) -> list[object]:
    records, findings = drain(reader(name)(root))
    found = [(r.split, r.key, r.boxes.tolist(), r.labels.tolist()) for r in records]
    return [*found, *[(f.code, f.value) for f in findings if f.code != "no-label"]]


@pytest.mark.parametrize("written", [False, True])
@pytest.mark.parametrize("name", FORMATS)
def test_what_systems_leave_behind_is_no_part_of_a_set(tmp_path: Path, name: str, written: bool) -> None:
    """macOS puts `._a.jpg` beside `a.jpg`, or in `__MACOSX/` if it packs an archive."""
    root = tmp_path / "set"
    if not written:
        put(root / "a.jpg", picture())
        WRITE[name](root, ["a.jpg"])
    elif name in writable():
        writer(name)(Source(tiny.CLASSES, iter(tiny.records()[:2]), tiny.CLASS_IDS), root)
    else:
        pytest.skip("read-only")
    seen, wanted = detect(root), read(name, root)
    for path in [path for path in root.rglob("*") if path.is_file()]:
        for place in (path.parent, root / "__MACOSX" / path.parent.relative_to(root)):
            put(place / f"._{path.name}", b"\0\5\x16\7")
            for other in (".DS_Store", "Thumbs.db", "desktop.ini"):
                put(place / other, b"\0\1")
    assert detect(root) == seen and seen[0] == name
    assert read(name, root) == wanted


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
    assert first is finding and (last.code, last.value) == ("file-unread", "1 file .txt: c.txt")
    assert drain(account(Source((), iter([])), tmp_path / "a.txt")) == ([], [])
