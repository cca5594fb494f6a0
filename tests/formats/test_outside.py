"""Pictures that annotations name by absolute paths or `../`, in every format: refused, or taken under a safe key."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from dataforge.formats import ALLOW_OUTSIDE, FORMATS, options, writable
from dataforge.formats.pictures import resolve
from dataforge.shards.reader import Shards
from tests.formats.named import WRITE, run
from tests.formats.sets import picture, put

INSIDE, OUTSIDE = picture(1), picture(7)
NAMES = ["../other/secret.jpg", "{}/other/secret.jpg", "sub/../../other/secret.jpg", "..\\other\\secret.jpg"]


NAMING = options()[ALLOW_OUTSIDE]  # KITTI names no pictures


def make(tmp_path: Path, name: str, outside: str) -> Path:
    put(tmp_path / "other/secret.jpg", OUTSIDE)
    put(tmp_path / "other/secret.txt", "0 .5 .5 .1 .1")  # where YOLO looks for its labels
    root = tmp_path / "in"
    put(root / "a.jpg", INSIDE)
    WRITE[name](root, ["a.jpg", outside.format(tmp_path)])
    return root


@pytest.mark.parametrize("name", NAMING)
@pytest.mark.parametrize("outside", NAMES)
def test_outside_names_are_refused_without_the_flag(tmp_path: Path, name: str, outside: str) -> None:
    root, out = make(tmp_path, name, outside), tmp_path / "out"
    result = run("ingest", name, root, "--out", out)
    assert result.exit_code == 2 and "--allow-outside" in result.stderr and not (out / "index.json").exists()
    assert "1.xml" in result.stderr if name == "voc" else "secret.jpg" in result.stderr
    assert run("ingest", name, root, "--out", out, "--max-bad", 1).exit_code == 0
    shards = Shards(out)
    assert list(shards.table.key) == ["a.jpg"] and bytes(shards.blob(0)) == INSIDE


@pytest.mark.parametrize("name", NAMING)
@pytest.mark.parametrize("outside", NAMES)
def test_outside_names_are_taken_with_it(tmp_path: Path, name: str, outside: str) -> None:
    root, out = make(tmp_path, name, outside), tmp_path / "out"
    result = run("ingest", name, root, "--out", out, "--allow-outside")
    assert result.exit_code == 0, result.stderr
    shards = Shards(out)
    assert len(shards) == 2 and shards.info()["boxes"] == 2
    (key,) = {*shards.table.key} - {"a.jpg"}
    assert key.endswith("other/secret.jpg") and not key.startswith("/") and ".." not in key.split("/")
    assert bytes(shards.blob(list(shards.table.key).index(key))) == OUTSIDE
    assert run("verify", out, "--source", f"{name}:{root}", "--allow-outside").exit_code == 0
    assert run("verify", out, "--source", f"{name}:{root}").exit_code == 1
    if name not in writable():
        return
    before = {*tmp_path.rglob("*")}
    assert run("export", out, "--format", name, "--out", tmp_path / "new/set").exit_code == 0
    made = {*tmp_path.rglob("*")} - before
    assert made and all(path.is_relative_to(tmp_path / "new") for path in made)


@pytest.mark.parametrize("name", NAMING)
def test_absolute_names_of_files_inside_need_no_flag(tmp_path: Path, name: str) -> None:
    root, out = make(tmp_path, name, "{}/in/deep/b.jpg"), tmp_path / "out"
    put(root / "deep/b.jpg", OUTSIDE)
    put(root / "deep/b.txt", "0 .5 .5 .1 .1")
    assert run("ingest", name, root, "--out", out).exit_code == 0
    assert {*Shards(out).table.key} == {"a.jpg", "deep/b.jpg"}


@pytest.mark.parametrize("name", NAMING)
@pytest.mark.parametrize("outside", ["/mnt/gone/set/deep/b.jpg", "D:\\gone\\deep\\b.jpg"])
def test_absolute_names_of_another_machine_are_sought_by_their_ends(tmp_path: Path, name: str, outside: str) -> None:
    root, out = make(tmp_path, name, outside), tmp_path / "out"
    for folder in ("deep", "other"):  # the second shares less of the path
        put(root / folder / "b.jpg", OUTSIDE if folder == "deep" else INSIDE)
        put(root / folder / "b.txt", "0 .5 .5 .1 .1")
    result = run("ingest", name, root, "--out", out)
    assert result.exit_code == 0, result.stderr
    assert {*Shards(out).table.key} == {"a.jpg", "deep/b.jpg"}


def test_every_format_has_a_set() -> None:
    assert WRITE.keys() == FORMATS.keys()


def test_the_flag_reaches_the_sets_that_are_added(tmp_path: Path) -> None:
    root, other, out = make(tmp_path / "1", "coco", NAMES[0]), make(tmp_path / "2", "table", NAMES[0]), tmp_path / "out"
    assert run("ingest", "coco", root, "--add", f"table:{other}", "--out", out).exit_code == 2
    assert run("ingest", "coco", root, "--add", f"table:{other}", "--out", out, "--allow-outside").exit_code == 0
    assert len(Shards(out)) == 4


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        ("path: ../other\ntrain: .", "path: ../other: leads out of"),
        ("train: ../other", "train: ../other: leads out of"),
        ("train: {}/other", "leads out of"),
    ],
)
def test_a_yolo_file_that_leads_out(tmp_path: Path, entry: str, expected: str) -> None:
    root, out = make(tmp_path, "yolo", "a.jpg"), tmp_path / "out"
    put(root / "data.yaml", entry.format(tmp_path) + "\nnames: [cat]")
    result = run("ingest", "yolo", root, "--out", out)
    if entry.startswith("path"):  # a path of another machine, mostly: what is named may be here, too
        assert result.exit_code == 0 and list(Shards(out).table.key) == ["a.jpg"]
        put(root / "data.yaml", "path: ../other\ntrain: secret.txt\nnames: [cat]")
        result = run("ingest", "yolo", root, "--out", tmp_path / "out2")
    assert result.exit_code == 2 and expected in result.stderr and "--allow-outside" in result.stderr
    put(root / "data.yaml", entry.format(tmp_path) + "\nnames: [cat]")
    assert run("ingest", "yolo", root, "--out", tmp_path / "out3", "--allow-outside").exit_code == 0
    (key,) = Shards(tmp_path / "out3").table.key
    assert key.endswith("secret.jpg") and not key.startswith(("/", ".."))


@pytest.mark.parametrize("name", ["", ".", "..", "/", "../..", "a\0.jpg", "../a\0.jpg", "x/.."])
def test_names_that_are_no_file_are_never_taken(tmp_path: Path, name: str) -> None:
    assert resolve(name, tmp_path, allow_outside=True) is None


def test_what_a_name_becomes(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    for name, key in {"a/./b.jpg": "a/b.jpg", "../in/a.jpg": "a.jpg", f"{folder}/x/a.jpg": "x/a.jpg"}.items():
        assert resolve(name, folder) == (key, folder / key)
    for name, key in {"../o/a.jpg": "o/a.jpg", "/o/a.jpg": "o/a.jpg", "..\\..\\o\\a.jpg": "o/a.jpg"}.items():
        assert resolve(name, folder) is None
        place = resolve(name, folder, allow_outside=True)
        assert place is not None and place[0] == key
        assert place[1] == Path(os.path.normpath(folder / name.replace("\\", "/")))
