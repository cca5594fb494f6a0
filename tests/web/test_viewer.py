"""The viewer's API: it is what its document says, filters are what a plain loop gives, pictures show the images."""

from __future__ import annotations

import io
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from starlette.testclient import TestClient

from dataforge.analysis.detections import KINDS
from dataforge.analysis.lint.run import lint_shards
from dataforge.record import FLAGS
from dataforge.shards.reader import Shards
from dataforge.web.openapi import document
from dataforge.web.view_api import CHARTS, OPERATIONS
from tests import tiny
from tests.web.photos import HERE, TOKEN
from tests.web.viewing import command, detections, listed, viewing

DOCUMENT = document("dataforge view", OPERATIONS)


@pytest.fixture(scope="module")
def shards(tiny_shards: Path) -> Shards:
    return Shards(tiny_shards)


@pytest.fixture(scope="module")
def client(shards: Shards, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    file = detections(shards, tmp_path_factory.mktemp("view") / "detections.json", named=True)
    with viewing(shards.path, file, "yolo") as client:
        yield client


@pytest.mark.parametrize("mode", list(schemathesis.GenerationMode), ids=lambda mode: mode.value)
@pytest.mark.parametrize("name", [one.name for one in OPERATIONS])
def test_the_server_does_what_the_document_says(
    client: TestClient, name: str, mode: schemathesis.GenerationMode
) -> None:
    loaded = schemathesis.openapi.from_dict(DOCUMENT)
    loaded.app = client.app
    one = next(one for one in OPERATIONS if one.name == name)
    if mode == schemathesis.GenerationMode.NEGATIVE and not (one.query or "{n}" in one.path):
        return  # nothing can be wrong

    @given(case=loaded[one.path][one.method].as_strategy(generation_mode=mode))
    # the same cases each time: a random one may count a parameter as wrong that is then left out of the address
    @settings(max_examples=20, deadline=None, suppress_health_check=list(HealthCheck), database=None, derandomize=True)
    def check(case: schemathesis.Case) -> None:
        case.call_and_validate(base_url=HERE, headers={"Authorization": f"Bearer {TOKEN}"})

    check()


def test_the_document_is_complete_and_nothing_can_be_changed(client: TestClient) -> None:
    routes = {(method, route.path) for route in client.app.routes for method in getattr(route, "methods", None) or ()}  # type: ignore[attr-defined]
    assert routes - {("HEAD", path) for _, path in routes} - {("GET", "/")} == {(o.method, o.path) for o in OPERATIONS}
    assert {one.method for one in OPERATIONS} == {"GET"}


@pytest.mark.parametrize("path", ["/", "/api/set", "/api/images", "/thumbnail/0", "/static/view/main.js"])
def test_strangers_get_nothing(client: TestClient, path: str) -> None:
    assert client.get(path).status_code == 200
    for headers in ({"Authorization": "Bearer other"}, {"Host": "evil.example"}, {"Origin": "http://evil.example"}):
        assert client.get(path, headers=headers).status_code in (401, 403)


def test_the_set(client: TestClient, shards: Shards) -> None:
    facts = client.get("/api/set").json()
    assert (facts["images"], facts["boxes"]) == (len(shards), len(shards.table.boxes))
    assert [one["name"] for one in facts["classes"]] == list(shards.classes) and facts["recipe"] == "yolo"
    assert facts["counts"] == np.bincount(shards.table.labels, minlength=len(shards.classes)).tolist()
    assert facts["splits"] == list(shards.splits) and facts["fingerprint"] == shards.fingerprint


def test_images_and_pages(client: TestClient, shards: Shards) -> None:
    rows = listed(client)
    assert [row["n"] for row in rows] == list(range(len(shards))) and [row["key"] for row in rows] == list(
        shards.table.key
    )
    for row in rows:
        part = slice(*shards.table.offsets[row["n"] : row["n"] + 2])
        assert np.allclose([box[:4] for box in row["boxes"]] or np.zeros((0, 4)), shards.table.boxes[part], atol=0.006)
        assert [box[4] for box in row["boxes"]] == shards.table.labels[part].tolist()
        assert all(box[6] for box in row["boxes"]), "all fulfil what is not asked for"
        assert row["key"] in (keys := shards.table.key[shards.splits[row["split"]]]), keys
    page = client.get("/api/images?from=3&count=4").json()
    assert page["images"] == rows[3:7] and page["total"] == len(rows)


@given(
    classes=st.sets(st.integers(0, 2)),
    size=st.sampled_from(["", "small", "medium", "large"]),
    flag=st.sampled_from(["", *FLAGS]),
    split=st.sampled_from(["", "train", "val", "none"]),
    text=st.sampled_from(["", "A", ".jpg", "sub dir/", "%", "é"]),
    least=st.none() | st.integers(0, 20),
    most=st.none() | st.integers(0, 20),
)
@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck), database=None)
def test_filters_are_what_a_loop_gives(
    client: TestClient,
    shards: Shards,
    classes: set[int],
    size: str,
    flag: str,
    split: str,
    text: str,
    least: int | None,
    most: int | None,
) -> None:
    table = shards.table
    limits = {"": (0, 1e9), "small": (0, 1023.99), "medium": (1024, 9216), "large": (9216.01, 1e9)}[size]
    wanted = []
    for n in range(len(table)):
        fits = [
            i
            for i in range(table.offsets[n], table.offsets[n + 1])
            if (not classes or table.labels[i] in classes)
            and limits[0] <= table.areas[i] <= limits[1]
            and (not flag or table.flags[i] & FLAGS[flag])
        ]
        asked = bool(classes or size or flag)
        fewest = max(least or 0, 1) if asked and most is None else least or 0
        in_split = not split or (split != "none" and n in shards.splits[split])
        if fewest <= len(fits) <= (1e9 if most is None else most) and in_split and text.lower() in table.key[n].lower():
            wanted.append((n, len(fits)))
    query = {"class": sorted(classes), "size": size, "flag": flag, "split": split, "text": text}
    query |= {name: value for name, value in (("least", least), ("most", most)) if value is not None}
    rows = listed(client, **query)
    assert [(row["n"], sum(box[6] for box in row["boxes"])) for row in rows] == wanted


@pytest.mark.parametrize("sort", ["number", "key", "boxes", "pixels"])
def test_order(client: TestClient, sort: str) -> None:
    value = {
        "number": lambda row: row["n"],
        "key": lambda row: row["key"],
        "boxes": lambda row: len(row["boxes"]),
        "pixels": lambda row: row["width"] * row["height"],
    }[sort]
    rows = listed(client, sort=sort)
    assert rows == sorted(rows, key=lambda row: (value(row), row["n"]))
    values = list(map(value, rows))
    assert list(map(value, listed(client, sort=f"-{sort}"))) == values[::-1]


def test_kinds_and_cells_lead_to_their_images(client: TestClient, shards: Shards) -> None:
    everything, facts = listed(client, conf=0.2), client.get("/api/errors?conf=0.2").json()
    counts = Counter(KINDS[found[6]] for row in everything for found in row["found"])
    missed = [client.get(f"/api/images/{row['n']}?conf=0.2").json()["missed"] for row in everything]
    counts["missed"] = sum(map(sum, missed))
    assert {one["kind"]: one["count"] for one in facts["kinds"] if one["count"]} == dict(counts)
    assert all(counts[kind] for kind in KINDS) and counts["missed"], "each kind is tried"
    for kind in counts:
        wanted = [
            row["n"]
            for row, of_row in zip(everything, missed, strict=True)
            if (sum(of_row) if kind == "missed" else any(KINDS[found[6]] == kind for found in row["found"]))
        ]
        assert [row["n"] for row in listed(client, conf=0.2, error=kind)] == wanted
    counted = [one["count"] for one in facts["kinds"] if one["kind"] != "ignored"]
    assert sum(one["count"] for one in facts["cells"]) == sum(counted)
    for cell in facts["cells"]:
        true, found = cell["true"], cell["found"]
        rows = listed(client, conf=0.2, cell=f"{true},{found}")
        for row in rows:
            labels = {box[4] for box in row["boxes"]}
            assert true == len(shards.classes) or true in labels
            assert found == len(shards.classes) or found in {one[4] for one in row["found"]}
        assert 0 < len(rows) <= cell["count"]
    errors = [sum(0 < one[6] < 5 for one in row["found"]) + sum(of) for row, of in zip(everything, missed, strict=True)]
    order = [row["n"] for row in listed(client, conf=0.2, sort="-errors")]
    assert [errors[n] for n in order] == sorted(errors, reverse=True)
    best = [max((one[5] for one in row["found"] if KINDS[one[6]] == "background"), default=0) for row in everything]
    order = [row["n"] for row in listed(client, conf=0.2, sort="-score", error="background")]
    assert [best[n] for n in order] == sorted((best[n] for n in order), reverse=True)


def test_neighbours_are_those_of_the_filter(client: TestClient) -> None:
    rows = [row["n"] for row in listed(client, sort="-boxes", **{"class": 1})]
    for at, n in enumerate(rows):
        facts = client.get(f"/api/images/{n}?sort=-boxes&class=1").json()
        assert (facts["position"], facts["total"]) == (at, len(rows))
        assert facts["before"] == (rows[at - 1] if at else None)
        assert facts["after"] == (rows[at + 1] if at + 1 < len(rows) else None)
    other = next(n for n in range(100) if n not in rows)
    facts = client.get(f"/api/images/{other}?class=1").json()
    assert (facts["position"], facts["before"], facts["after"]) == (-1, None, None)


def test_pictures(client: TestClient, shards: Shards) -> None:
    for n in range(len(shards)):
        assert client.get(f"/image/{n}").content == bytes(shards.blob(n))
        whole = PIL.Image.fromarray(shards.pixels(n))
        for size in (24, 300):
            got = client.get(f"/thumbnail/{n}?size={size}&of=x")
            assert got.headers["content-type"] == "image/jpeg" and "immutable" in got.headers["cache-control"]
            small = PIL.Image.open(io.BytesIO(got.content))
            assert max(small.size) == min(size, max(whole.size)), "shrunk, never enlarged"
            likeness = np.asarray(whole.resize(small.size, PIL.Image.Resampling.BOX), float) - np.asarray(small, float)
            assert np.abs(likeness).mean() < 8, shards.table.key[n]
    with_seed = [client.get(f"/augmented/0?size=64&seed={seed}").content for seed in (1, 1, 2)]
    assert with_seed[0] == with_seed[1] != with_seed[2]
    assert PIL.Image.open(io.BytesIO(with_seed[0])).size == (64, 64)


def test_a_damaged_image_is_an_error_of_its_own(tmp_path: Path) -> None:
    path = tiny.shards(tmp_path / "shards")
    stored = Shards(path)
    tiny.damage(path / "train/00000", 0)
    with viewing(path) as client:
        got = client.get("/thumbnail/0")
        assert got.status_code == 422 and stored.table.key[0] in got.json()["error"]
        assert client.get("/thumbnail/1").status_code == 200 and len(listed(client)) == len(stored)


def test_statistics_are_of_the_filter(client: TestClient, shards: Shards) -> None:
    facts = client.get("/api/statistics").json()
    assert (facts["images"], facts["boxes"]) == (len(shards), len(shards.table.boxes))
    rows = [row["n"] for row in listed(client, split="val", **{"class": 2})]
    facts = client.get("/api/statistics?split=val&class=2").json()
    assert facts["images"] == len(rows) and facts["charts"] == list(CHARTS)
    [split] = [row for row in facts["splits"]["rows"] if row[1]]
    assert split[0] == "val" and {row[0] for row in facts["classes"]["rows"]} == set(shards.classes)
    for name in CHARTS:
        got = client.get(f"/chart?name={name}&split=val")
        assert got.headers["content-type"] == "image/svg+xml" and got.content.startswith(b"<svg ")
    assert client.get("/chart?name=padding").status_code == 400
    assert client.get("/api/statistics?text=nothing").json()["images"] == 0


def test_findings_are_those_of_lint(client: TestClient, shards: Shards) -> None:
    report = lint_shards(shards)
    end = time.monotonic() + 60
    while not (facts := client.get("/api/lint").json())["finished"] and time.monotonic() < end:
        time.sleep(0.05)
    assert [(one["code"], one["findings"]) for one in facts["codes"]] == [
        (code, kind.count) for code, kind in report.sorted()
    ]
    for one in facts["codes"]:
        keys = {finding.key for finding in report.kinds[one["code"]].examples if finding.scope != "set"}
        rows = listed(client, lint=one["code"])
        assert len(rows) == one["images"] and keys <= {row["key"] for row in rows}
        for row in rows:
            codes = {finding["code"] for finding in client.get(f"/api/images/{row['n']}").json()["findings"]}
            assert one["code"] in codes
    assert any(one["images"] for one in facts["codes"]) and listed(client, lint="no-such-code") == []


@pytest.mark.parametrize(
    "query",
    [
        "size=huge",
        "least=-1",
        "least=x",
        "conf=2",
        "conf=nan",
        "sort=colour",
        "cell=1",
        "class=cat",
        "who=me",
        "least=1&least=2",
        "from=1&from=2",
        "from=x",
    ],
)
def test_a_wrong_filter(client: TestClient, query: str) -> None:
    got = client.get(f"/api/images?{query}")
    assert got.status_code == 400 and got.json()["error"]


def test_without_detections(shards: Shards) -> None:
    with viewing(shards.path) as client:
        assert client.get("/api/set").json()["detections"] is None
        assert client.get("/api/errors").json() == {"cells": [], "kinds": []}
        assert listed(client, error="background") == [] and listed(client, sort="-errors")


def test_the_command_runs_a_model(shards: Shards, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, calls = tmp_path / "best.pt", []
    model.write_bytes(b"")

    def run(module: str, *words: object, stdout: int | None = None) -> subprocess.CompletedProcess[str]:
        calls.append((module, *map(str, words[:-1])))
        detections(Shards(shards.path, "val"), Path(str(words[-1])))
        return subprocess.CompletedProcess([], 0)

    monkeypatch.setattr("dataforge.cli.view.run_module", run)
    done = command(monkeypatch, shards.path, "--split", "val", "--predictions", model)
    assert done.exception is None and "http://127.0.0.1:" in done.output
    words = ("--shards", str(shards.path), "--split", "val", "--save-json")
    assert calls == [("trainers.evaluate", str(model), *words)]


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (("--predictions", "none.pt"), "none.pt: no such file"),
        (("--predictions", "none.json"), "none.json: cannot be read"),
        (("--predictions", __file__), "give the --split"),
        (("--predictions", str(Path(__file__).parent)), "give the --split"),  # a run's folder, perhaps
        (("--augment", "nothing"), "nothing"),
        (("--split", "none"), "none"),
    ],
)
def test_the_command_says_what_is_wrong(
    shards: Shards, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...], reason: str
) -> None:
    done = command(monkeypatch, shards.path, *words)
    assert isinstance(done.exception, SystemExit) and reason in done.output and "Traceback" not in done.output
