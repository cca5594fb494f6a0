"""Reports of `diff`, `lint` and `stats`, as the commands save them, opened over the sets that they are of."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from starlette.testclient import TestClient

from dataforge.analysis.diff import diff
from dataforge.cli.main import main
from dataforge.images.header import probe
from dataforge.record import CROWD, Record
from dataforge.shards.reader import Shards
from dataforge.shards.writer import ShardWriter
from tests import tiny
from tests.web.viewing import command, listed, viewing


def changed(path: Path) -> Path:
    """Write the tiny set with a change of each kind."""
    with ShardWriter(path, (*tiny.CLASSES, "bird"), (*tiny.CLASS_IDS, 91)) as writer:
        for record in (*tiny.records("train"), *tiny.records("val")):
            facts = vars(record) | {name: getattr(record, name).copy() for name in ("boxes", "labels", "flags")}
            columns = facts["boxes"], facts["labels"], facts["flags"]
            if record.key == "crowded.jpg":
                columns[0][0, 2] -= (columns[0][0, 2] - columns[0][0, 0]) / 8
                columns[1][1], columns[2][2] = len(tiny.CLASSES), columns[2][2] ^ CROWD
                facts |= zip(("boxes", "labels", "flags"), (column[:-1] for column in columns), strict=True)
            elif record.key == "c.png":
                added = np.array([[0, 0, 3, 3]], np.float32), np.zeros(1, np.int32), np.zeros(1, np.uint8)
                pairs = zip(columns, added, strict=True)
                facts |= zip(("boxes", "labels", "flags"), (np.concatenate(pair) for pair in pairs), strict=True)
            elif record.key == "grey.jpg":
                facts["key"] = "renamed.jpg"
            elif record.key == "d.webp":
                facts |= {"key": "new.webp", "image": tiny.encode(tiny.pixels(39, 83, 99), "WEBP")}
            writer.add(Record(**facts), facts["image"], probe(facts["image"]))
        writer.publish()
    return path


@pytest.fixture(scope="module")
def sides(tiny_shards: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Shards, Shards, Path]:
    """Two sets, and a file of their differences."""
    old = Shards(tiny_shards)
    new = Shards(changed(tmp_path_factory.mktemp("reports") / "new"))
    done = CliRunner().invoke(main, ["diff", str(old.path), str(new.path), "--json"])
    assert done.exit_code == 1, done.output
    file = new.path.with_name("diff.json")
    file.write_text(done.stdout, "utf-8")
    return old, new, file


@pytest.fixture(params=["old", "new"])
def side(request: pytest.FixtureRequest, sides: tuple[Shards, Shards, Path]) -> Iterator[tuple[str, TestClient]]:
    old, new, file = sides
    with viewing((old if request.param == "old" else new).path, report=file) as client:
        yield request.param, client


def test_changes_lead_to_their_images(side: tuple[str, TestClient], sides: tuple[Shards, Shards, Path]) -> None:
    which, client = side
    old, new, _ = sides
    facts = diff(old, new).facts()
    wanted = Counter(kind for change in facts["changed"] for kind in change["changes"])
    lone = {"old": "removed", "new": "added"}[which]
    wanted[f"image {lone}"] = len(facts[lone])
    known = client.get("/api/set").json()
    assert known["report"] == "diff"
    for kind, count in wanted.items():
        assert kind in known["changes"] and len(listed_keys(client, kind)) == count, kind
    everything = {(change[which]["split"], change[which]["key"]) for change in facts["changed"]}
    everything |= {(image["split"], image["key"]) for image in facts[lone]}
    assert listed_keys(client, "any") == everything
    assert listed_keys(client, "no such change") == set()
    for kind in ("moved", "relabelled", "other flags", "removed", "added"):
        images = {
            (change[which]["split"], change[which]["key"])
            for change in facts["changed"]
            if any(kind in box["changes"] for box in change["boxes"])
        }
        images |= {(image["split"], image["key"]) for image in facts[lone] if kind == lone}
        assert images and listed_keys(client, kind) == images, kind


def listed_keys(client: TestClient, change: str) -> set[tuple[str, str]]:
    rows = client.get("/api/images", params={"change": change}).json()["images"]
    return {(row["split"], row["key"]) for row in rows}


def test_changed_boxes_are_shown_beside_what_they_were(
    side: tuple[str, TestClient], sides: tuple[Shards, Shards, Path]
) -> None:
    which, client = side
    there = {"old": "new", "new": "old"}[which]
    reported = {change[which]["key"]: change for change in diff(*sides[:2]).facts()["changed"]}
    for row in client.get("/api/images?change=any&sort=-changes").json()["images"]:
        facts = client.get(f"/api/images/{row['n']}?change=any").json()
        fitting = [box for box in facts["boxes"] if box[6]]
        assert [bool(change) for change in facts["changes"]] == [box[6] for box in facts["boxes"]]
        if row["key"] not in reported:
            assert fitting == facts["boxes"] and {"removed", "added"} & set(facts["changes"])
            continue
        change = reported[row["key"]]
        here = sorted(box[which]["box"] for box in change["boxes"] if which in box)
        assert sorted(box[:4] for box in fitting) == [pytest.approx(box, abs=0.006) for box in here]
        others = [box[there] for box in change["boxes"] if there in box]
        assert [list(other[:4]) for other in facts["others"]] == [box["box"] for box in others]
        for other, box in zip(facts["others"], others, strict=True):
            assert other[5].endswith(f" {box['class']}")
        assert [one["code"] for one in facts["findings"]] == change["changes"]
    order = [len(reported[row["key"]]["boxes"]) for row in listed(client, sort="-changes") if row["key"] in reported]
    assert order == sorted(order, reverse=True)


def test_a_report_of_lint_is_shown_without_a_check(tiny_shards: Path, tmp_path: Path) -> None:
    file = tmp_path / "lint.json"
    file.write_text(CliRunner().invoke(main, ["lint", str(tiny_shards), "--json"]).stdout, "utf-8")
    facts = json.loads(file.read_text("utf-8"))
    assert facts["findings"]
    with viewing(tiny_shards, report=file) as client:
        shown = client.get("/api/lint").json()
        assert shown["finished"] and shown["done"] == 0
        assert [one["code"] for one in shown["codes"]] == [one["code"] for one in facts["findings"]]
        for kind in facts["findings"]:
            keys = {example["key"] for example in kind["examples"] if example["scope"] != "set"}
            assert keys <= {row["key"] for row in listed(client, lint=kind["code"])}
        [table] = client.get("/api/report").json()["tables"]
        assert table["field"] == "lint" and [row[0] for row in table["rows"]] == [
            one["code"] for one in facts["findings"]
        ]


def test_a_report_of_stats(tiny_shards: Path, tmp_path: Path) -> None:
    file = tmp_path / "stats.json"
    words = ["stats", str(tiny_shards), "--out", str(tmp_path / "pages"), "--json", "--size", "64", "64"]
    file.write_text(CliRunner().invoke(main, words).stdout, "utf-8")
    with viewing(tiny_shards, report=file) as client:
        facts, now = client.get("/api/report").json(), client.get("/api/statistics").json()
        for table, name in zip(facts["tables"], ("splits", "classes", "spreads"), strict=False):
            assert {"head": table["head"], "rows": table["rows"]} == now[name]
        assert facts["tables"][3]["title"] == "Padding" and facts["tables"][3]["rows"]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("<html>", "expected what `dataforge diff`, `lint` or `stats` print with --json"),
        ("{}", "has the keys none"),
        ('{"error": "old: no shards"}', "has the keys error"),
        ('{"changed": 3}', "changed"),
        ('{"findings": [], "images": 0}', "boxes"),
        ('{"coco_areas": {}}', "KeyError"),
    ],
)
def test_files_that_are_no_reports(
    tiny_shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str, reason: str
) -> None:
    file = tmp_path / "report.json"
    file.write_text(content, "utf-8")
    done = command(monkeypatch, tiny_shards, "--report", file)
    assert done.exit_code == 2 and str(file) in done.output and reason in done.output and "Traceback" not in done.output


def test_reports_of_other_sets_are_refused(
    sides: tuple[Shards, Shards, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, new, file = sides
    facts: dict[str, Any] = json.loads(file.read_text("utf-8"))
    facts["changed"][0]["boxes"].append(
        {"changes": ["added"], "new": {"box": [0, 0, 1, 2], "class": "cat", "flags": 0}}
    )
    other = tmp_path / "other.json"
    other.write_text(json.dumps(facts), "utf-8")
    assert "no box [0.0, 0.0, 1.0, 2.0] of cat" in command(monkeypatch, new.path, "--report", other).output
    facts["b"] = "elsewhere"
    facts["added"][0]["key"] = "none.jpg"
    other.write_text(json.dumps(facts), "utf-8")
    assert "no image train: none.jpg with 11 boxes" in command(monkeypatch, new.path, "--report", other).output
    assert command(monkeypatch, new.path, "--split", "val", "--report", file).exit_code == 0
