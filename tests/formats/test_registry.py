"""One file and one line in `FORMATS` make a format that all commands know. What the shipped ones declare is true."""

from __future__ import annotations

import inspect
from pathlib import Path

import pytest

from dataforge.errors import ConfigError
from dataforge.formats import ALLOW_OUTSIDE, FORMATS, PARTS, holds, options, reader, writable, writer
from dataforge.registry import load
from dataforge.shards.reader import Shards
from tests.formats.named import run
from tests.formats.sets import picture, put

LOOK_FOR = ("kitti", "mot", "supervisely", "visdrone")  # pictures, which they do not name
TOY = """
from pathlib import Path

import numpy as np

from dataforge.files import new_folder, put_text
from dataforge.formats import Option
from dataforge.formats.pictures import put_picture
from dataforge.record import Finding, Record, Source

LOOKS_FOR = "boxes.toy"
HOLDS = frozenset({"keys"})
OPTIONS = (Option("toy_scale", "Multiply all corners by this.", int),)
CODES = {"toy-short": ("warning", "a line without a box")}


def sniff(root: Path) -> str:
    return "boxes.toy: lines of toys" if (root / "boxes.toy").is_file() else ""


def read(root: Path, *, split: tuple[str, ...] | None = None, toy_scale: int = 1) -> Source:
    def records():
        for line in (root / "boxes.toy").read_text().splitlines():
            key, *numbers = line.split()
            if not numbers:
                yield Finding("noted", "toy-short", str(root / "boxes.toy"), key, line, "taken as empty", "image")
            boxes = np.array(numbers, np.float32).reshape(-1, 4) * toy_scale
            zeros = np.zeros(len(boxes), np.int32)
            yield Record(key, "train", root / key, 0, 0, boxes, zeros, zeros.astype(np.uint8))

    return Source(("toy",), records())


def write(source: Source, root: Path) -> None:
    new_folder(root)
    lines = []
    for record in source.records:
        put_picture(record, root)
        lines.append(" ".join([record.key, *map(repr, record.boxes.reshape(-1).tolist())]))
    put_text(root / "boxes.toy", "\\n".join(lines).encode())
"""


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of the toy format, whose module is one file and whose name is one line."""
    put(tmp_path / "code/toy_format.py", TOY)
    monkeypatch.syspath_prepend(str(tmp_path / "code"))
    monkeypatch.setitem(FORMATS, "toy", "toy_format")
    put(tmp_path / "set/a.jpg", picture(0))
    put(tmp_path / "set/b.jpg", picture(1))
    put(tmp_path / "set/boxes.toy", "a.jpg 1 2 20 24\nb.jpg\n")
    return tmp_path / "set"


@pytest.mark.parametrize("name", ["toy", "auto"])
def test_a_toy_format_is_ingested_exported_and_verified(toy: Path, tmp_path: Path, name: str) -> None:
    result = run("ingest", name, toy, "--out", tmp_path / "out", "--toy-scale", 2)
    assert result.exit_code == 0 and "noted toy-short: 1" in result.stdout, result.stderr
    assert name == "toy" or f"{toy}: toy (boxes.toy: lines of toys)" in result.stderr
    shards = Shards(tmp_path / "out")
    assert shards.info()["source"] == "toy" and shards.table.boxes.tolist() == [[2, 4, 40, 48]]
    assert run("verify", tmp_path / "out", "--source", f"toy:{toy}", "--toy-scale", 2).exit_code == 0
    assert run("verify", tmp_path / "out", "--source", f"toy:{toy}").exit_code == 1
    result = run("export", tmp_path / "out", "--format", "toy", "--out", tmp_path / "again")
    assert result.exit_code == 0, result.stderr
    assert (tmp_path / "again/boxes.toy").read_text() == "a.jpg 2.0 4.0 40.0 48.0\nb.jpg"
    assert run("verify", tmp_path / "out", "--source", f"auto:{tmp_path / 'again'}").exit_code == 0


@pytest.mark.parametrize("command", ["ingest", "lint", "verify"])
def test_its_option_is_explained_and_is_for_it_alone(toy: Path, command: str) -> None:
    lines = " ".join(run(command, "--help").stdout.split())
    assert "Format toy: --toy-scale INTEGER Multiply all corners by this." in lines


def test_other_formats_refuse_its_option(toy: Path, tmp_path: Path) -> None:
    result = run("ingest", "voc", toy, "--out", tmp_path / "out", "--toy-scale", 2)
    assert result.stderr == "error: --toy-scale: format 'voc' does not take it\n"
    result = run("ingest", "auto", put(tmp_path / "x/notes.txt", "").parent, "--out", tmp_path / "out")
    assert "\n  toy: boxes.toy" in result.stderr


def test_lint_knows_its_code(toy: Path) -> None:
    lines = [line.split(maxsplit=3) for line in run("lint", toy).stdout.splitlines()]
    assert ["warning", "toy-short", "1", "a line without a box"] in lines


def test_without_the_line_it_is_unknown(tmp_path: Path) -> None:
    result = run("ingest", "toy", tmp_path, "--out", tmp_path / "out")
    assert result.exit_code == 2 and "unknown format 'toy'; known: bdd100k, coco, createml, croissant" in result.stderr
    assert "toy" not in run("ingest", "--help").stdout


@pytest.mark.parametrize("name", FORMATS)
def test_options_are_the_keywords_of_read(name: str) -> None:
    parameters = inspect.signature(reader(name)).parameters.values()
    keywords = {parameter.name for parameter in parameters if parameter.kind is parameter.KEYWORD_ONLY}
    module = load("format", name, FORMATS)
    assert {option.name for option in module.OPTIONS} | {"split"} == keywords
    assert module.LOOKS_FOR
    if name in writable():
        assert callable(writer(name)) and holds(name) <= PARTS.keys()
    else:
        assert not (Path(str(module.__file__)).parent / "writer.py").exists()
        with pytest.raises(ConfigError, match=f"{name!r} can be read, but not written; .*: bdd100k, coco, "):
            writer(name)


def test_shared_options_name_their_formats() -> None:
    takers = options()
    assert takers[ALLOW_OUTSIDE] == tuple(name for name in FORMATS if name not in LOOK_FOR)
    text = " ".join(run("ingest", "--help").stdout.split())
    for option, names in takers.items():
        flag = f"--{option.name.replace('_', '-')} "
        shared = f"{option.help} ({', '.join(names)})" if 1 < len(names) < len(FORMATS) else option.help
        assert flag in text and shared in text
