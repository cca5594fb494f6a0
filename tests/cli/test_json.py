"""What commands print with `--json` is what docs/json.schema.json says, errors too."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest
from click.testing import CliRunner

from dataforge.cli.main import main
from dataforge.images.synth import write

SCHEMA = json.loads((Path(__file__).resolve().parents[2] / "docs/json.schema.json").read_text("utf-8"))


def check(command: str, output: str) -> Any:
    """Parse the output of a command, which is one object, and compare it with the schema."""
    facts = json.loads(output)
    validator = jsonschema_rs.validator_for({"$ref": f"#/$defs/{command}", **SCHEMA})
    assert [f"{error.instance_path}: {error.message}" for error in validator.iter_errors(facts)] == []
    return facts


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("json")
    write(root / "set", images=20, seed=0, size=(64, 96))
    for arguments in (
        ["ingest", "coco", "set", "--out", "a"],
        ["ingest", "coco", "set", "--out", "b", "--crowd", "drop", "--limit", "12"],
        ["bake", "a", "--out", "c", "--side", "32"],
    ):
        words = [str(root / word) if word in ("set", "a", "b", "c") else word for word in arguments]
        assert CliRunner().invoke(main, words).exit_code == 0
    (root / "set/annotations/extra.txt").write_text("x")
    return root


BENCH = ["--images", "8", "--batch-size", "4", "--size", "64", "64", "--no-sweep"]


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["info", "a"], 0),
        (["info", "c"], 0),
        (["log", "a"], 0),
        (["log", "c"], 0),
        (["stats", "a", "--out", "stats"], 0),
        (["lint", "set", "--fail-on", "warning"], 1),
        (["lint", "a"], 0),
        (["diff", "a", "a"], 0),
        (["diff", "a", "b"], 1),
        (["verify", "a"], 0),
        (["verify", "a", "--source", "coco:{root}/set"], 0),
        (["verify", "b", "--source", "coco:{root}/set"], 1),
        (["bench", "a", *BENCH], 0),
    ],
    ids=str,
)
def test_output(root: Path, words: list[str], code: int) -> None:
    names = ("a", "b", "c", "set", "stats")
    line = [str(root / word) if word in names and i else word.format(root=root) for i, word in enumerate(words)]
    result = CliRunner().invoke(main, [*line, "--json"])
    assert result.exit_code == code, result.output
    check(words[0], result.stdout)


@pytest.mark.parametrize("command", ["info", "log", "stats", "lint", "verify", "bench"])
def test_errors(command: str, tmp_path: Path) -> None:
    for words in ([str(tmp_path / "nowhere")], ["--no-such-option"]):
        result = CliRunner().invoke(main, [command, *words, "--json"])
        assert result.exit_code == 2
        assert result.stderr.endswith(f"error: {check('error', result.stdout)['error']}\n")
