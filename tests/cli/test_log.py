"""What `dataforge log` tells about sets that commands made, and about those that it cannot know."""

from __future__ import annotations

import json
import shutil
from datetime import UTC, datetime
from pathlib import Path

from click.testing import CliRunner, Result

from dataforge import __version__
from dataforge.cli.main import main


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def test_each_step_from_the_source_to_a_cache(tmp_path: Path) -> None:
    drawn, shards, new, both, cache = (tmp_path / name for name in ("drawn set", "shards", "new", "both", "cache"))
    assert run("synth", drawn, "--images", 12).exit_code == 0
    assert run("ingest", "coco", drawn, "--side", 8, "inf", "--out", shards, "--jobs", 1).exit_code == 0
    assert run("split", shards, "--out", new, "--val", 0.25).exit_code == 0
    assert run("merge", new, shards, "--out", both).exit_code == 0
    chosen = "--area 10 inf --sample 1"
    assert run("bake", both, "--out", cache, "--side", 64, *chosen.split()).exit_code == 0
    assert f"a cache of {both} (unchanged), {chosen}\n" in run("info", cache).stdout
    result = run("log", cache)
    today = datetime.now(tz=UTC).date().isoformat()
    stamp = f", dataforge {__version__}, {today}"
    ingested = f"{shards}: ingest coco '{drawn}' --side 8.0 inf{stamp}"
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert lines[0] == f"{cache}: bake {both} {chosen} --side 64 --fit letterbox --quality 92"
    assert lines[1:] == [
        f"  {both}: merge {new} {shards}{stamp}",
        f"    {new}: split {shards} --val 0.25{stamp}",
        f"      {ingested}",
        f"    {ingested}",
    ]
    copied = shutil.copytree(shards, tmp_path / "copied")
    assert run("log", copied).stdout == f"{ingested}\n".replace(str(shards), str(copied))
    steps = json.loads(run("log", shards, "--json").stdout)["steps"]
    assert [(step["command"], step["given"]["root"]) for step in steps] == [("ingest", str(drawn))]


def test_parts_of_joined_sets(tmp_path: Path) -> None:
    drawn, out = tmp_path / "drawn", tmp_path / "out"
    assert run("synth", drawn, "--images", 5).exit_code == 0
    for n in (1, 2):
        words = ("--add", f"coco:{drawn}", "--out", tmp_path / f"{n}", "--part", f"{n}/2", "--jobs", 1)
        assert run("ingest", "coco", drawn, *words).exit_code == 0
    assert run("merge", "--parts", tmp_path / "1", tmp_path / "2", "--out", out).exit_code == 0
    result = run("log", out)
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith(f"{out}: ingest coco {drawn} --add coco:{drawn}, dataforge {__version__}, ")
    assert result.stdout.endswith(", in 2 parts\n")


def test_what_is_not_known_is_said(tmp_path: Path, tiny_shards: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert run("log", tmp_path / "empty").exit_code == 2
    shards = shutil.copytree(tiny_shards, tmp_path / "shards")
    report = shards / "ingest.jsonl"
    assert run("log", shards).stdout == f"{shards}: not stated\n"
    report.unlink()
    assert run("log", shards).stdout == f"{shards}: not stated\n"
    report.write_text("[1]\n")
    result = run("log", shards)
    assert result.exit_code == 2 and "its last line is not a summary" in result.stderr
