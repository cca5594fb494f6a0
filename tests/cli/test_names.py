"""Names that are HTML, terminal escapes or formulas: shown by every command as text, and kept as they are in files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from dataforge.cli.main import main
from dataforge.shards.reader import Shards
from tests.formats.sets import box, picture, put

NAMES = ["<img src=x onerror=alert(1)>", "=cmd|' /C calc'!A0", "\x1b[31mred\u202e", "\x9b2Jclear"]
KEYS = ["a\x1b[2J<img src=x onerror=alert(1)>.jpg", "=1+1.jpg"]
RAW = ("\x1b", "\x9b", "\u202e")


def call(*arguments: object) -> str:
    """Run a command, and return its output, in which nothing controls a terminal."""
    result = CliRunner().invoke(main, [*map(str, arguments)], color=True)  # else click removes some of the escapes
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    assert not any(raw in result.output for raw in RAW), result.output
    return result.output


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("names")
    images = [{"id": n, "file_name": key, "height": 48, "width": 64} for n, key in enumerate(KEYS)]
    boxes = [box(n % 2, [4, 4, 20, 20], category_id=n % 4, id=n) for n in range(8)] + [box(0, [9, 9, -3, 4], 2)]
    facts = {"images": images, "annotations": boxes, "categories": [{"id": n, "name": x} for n, x in enumerate(NAMES)]}
    for n, key in enumerate(KEYS):
        put(root / "set/train" / key, picture(n))
    put(root / "set/annotations/instances_train.json", json.dumps(facts))
    assert "\\u001b[31mred\\u202e" in call("ingest", "coco", root / "set", "--out", root / "shards")
    return root / "shards"


def test_terminals(shards: Path) -> None:
    assert list(Shards(shards).classes) == NAMES and Shards(shards).table.key.tolist() == KEYS
    for command in ("info", "verify", "log", "lint", "stats"):
        out = ("--out", shards.parent / "stats") if command == "stats" else ()
        assert call(command, shards, *out)
        if command != "stats":
            assert json.loads(call(command, shards, "--json"))
    call("merge", shards, shards, "--out", shards.parent / "twice", "--on-same-key", "prefix")
    call("diff", shards, shards.parent / "set")
    call("verify", shards, "--source", f"coco:{shards.parent / 'set'}")
    call("show", shards, "--class", "no such", "--out", shards.parent / "a.png")
    call("export", shards, "--format", "coco", "--out", shards.parent / "coco")
    assert list(Shards(shards).classes) == [c["name"] for c in _categories(shards.parent / "coco")]


@pytest.mark.parametrize("command", ["info", "stats", "split"])
def test_escaped_names_keep_the_columns_of_tables(shards: Path, tmp_path: Path, command: str) -> None:
    out = {"split": ("--val", "0.5", "--out", tmp_path / "split"), "stats": ("--out", tmp_path / "stats")}
    lines = call(command, shards, *out.get(command, ())).splitlines()
    starts = ("<img", "=cmd", "\\u001b", "\\u009b2J", "with ")
    rows = [line for line in lines if line.startswith(starts)]
    assert len(rows) == len(NAMES) and len({*map(len, rows)}) == 1


def _categories(root: Path) -> list[dict[str, str]]:
    (file,) = root.glob("annotations/*.json")
    return json.loads(file.read_text())["categories"]  # type: ignore[no-any-return]


def test_pages(shards: Path) -> None:
    call("stats", shards, "--out", shards.parent / "page")
    call("lint", shards, "--report", shards.parent / "lint.html")
    for page in (shards.parent / "page/index.html", shards.parent / "lint.html"):
        text = page.read_text("utf-8")
        assert "<img src=x" not in text and "&lt;img src=x" in text
