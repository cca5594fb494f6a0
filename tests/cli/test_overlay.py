"""`dataforge annotate` and `dataforge overlay`: from photos, sets and shards through edits to shards that train."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import httpx2
import numpy as np
import pytest
from click.testing import CliRunner, Result

from dataforge.cli.main import main
from dataforge.loading.loader import Loader
from dataforge.record import Record
from dataforge.shards.as_source import source_of
from dataforge.shards.reader import Shards
from dataforge.shards.verify import verify
from tests import tiny
from tests.formats.sets import box, coco, picture
from tests.web.photos import TOKEN, add, boxes, photos, post, serving

CORNERS = [0.1, 1 / 3, 31.415926, 27.18281828]  # which no short decimal number is


def run(*arguments: object, code: int = 0) -> Result:
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exc_info
    assert result.exit_code == code, result.output
    return result


def failing(*arguments: object) -> str:
    text = run(*arguments, code=2).stderr
    assert text.startswith("error: ") and "Traceback" not in text
    return text


@pytest.fixture
def drawn(tmp_path: Path) -> Path:
    """An overlay of photos with a few boxes, all flags, a renamed class, and an image without boxes that is done."""
    with serving(photos(tmp_path / "photos"), tmp_path / "overlay", ("cat", "dog")) as client:
        keys = [row["key"] for row in client.get("/api/images").json()["images"]]
        post(client, 0, add("x", *CORNERS), add("y", 1, 2, 3.5, 40, label=1, flags=7), seconds=3)
        post(client, keys.index("empty.jpg"), {"op": "state", "state": "done"})
        rotated = keys.index("rotated.jpg")
        facts = client.get(f"/api/images/{rotated}").json()
        post(client, rotated, add("x", 0, 0, facts["width"], facts["height"], label=1, flags=1))
        client.post("/api/classes", json={"request": "r", "op": "rename", "name": "dog", "to": "traffic light"})
    return tmp_path / "overlay"


def records(path: Path) -> dict[str, Record]:
    shards = Shards(path)
    items = [item for item in source_of(shards).records if isinstance(item, Record)]
    return {item.key: item for item in items}


def test_photos_become_shards_that_load_and_files_that_come_back(drawn: Path, tmp_path: Path) -> None:
    text = run("overlay", "apply", drawn, "--out", tmp_path / "shards").output
    assert "--untouched takes them" in text
    made = records(tmp_path / "shards")
    assert made.keys() == {"a.jpg", "empty.jpg", "rotated.jpg"} and not list(verify(Shards(tmp_path / "shards")))
    assert Shards(tmp_path / "shards").classes == ("cat", "traffic light")
    for key, record in made.items():
        assert record.image == tiny.images()[key], "untouched"
    expected = np.array([CORNERS, [1, 2, 3.5, 40]], np.float32)
    assert np.array_equal(made["a.jpg"].boxes, expected) and made["a.jpg"].flags.tolist() == [0, 7]
    [batch] = Loader(tmp_path / "shards", batch_size=3, size=(64, 64), augment="none", drop_last=False)
    assert (batch.labels >= 0).sum() == 3
    for name in ("coco", "voc", "yolo"):
        run("overlay", "export", drawn, "--format", name, "--out", tmp_path / name)
        run("ingest", name, tmp_path / name, "--out", tmp_path / f"{name} shards")
        back = {Path(key).name: record for key, record in records(tmp_path / f"{name} shards").items()}
        assert back.keys() == made.keys()
        for key in made:
            assert back[key].image == made[key].image
            assert np.array_equal(back[key].boxes, made[key].boxes), (name, key)
            names = Shards(tmp_path / f"{name} shards").classes
            assert [names[n] for n in back[key].labels] == [("cat", "traffic light")[n] for n in made[key].labels]
    run("overlay", "apply", drawn, "--out", tmp_path / "all", "--untouched")
    assert records(tmp_path / "all").keys() == tiny.images().keys()


def test_versions_of_photos(drawn: Path, tmp_path: Path) -> None:
    assert run("overlay", "tag", f"{drawn}@v3", "clean").stdout == f"{drawn}@clean is v3\n"
    assert "is version 3 already" in failing("overlay", "tag", drawn, "clean")
    for name in ("v3", "a/b", "", "..", "-x"):
        assert "expected letters" in failing("overlay", "tag", drawn, "--", name)
    assert "holds no version 99; the newest is 6" in failing("overlay", "log", f"{drawn}@v99")
    assert "unknown tag or version 'dirty'; known: clean, v1" in failing("overlay", "log", f"{drawn}@dirty")
    run("overlay", "apply", f"{drawn}@clean", "--out", tmp_path / "shards")
    assert records(tmp_path / "shards").keys() == {"a.jpg"}
    assert Shards(tmp_path / "shards").classes == ("cat", "dog")
    text = failing("info", drawn)
    assert "is an overlay of photos; make shards by `dataforge overlay apply" in text


def test_log_and_diff(drawn: Path) -> None:
    text = run("overlay", "log", drawn).stdout
    assert re.search(
        r"v1 to v6  \d{4}-\d\d-\d\d \d\d:\d\d( to \d\d:\d\d)? UTC  .+: 3 images, 3 boxes added, 3 changes", text
    )
    run("overlay", "tag", drawn, "clean")
    facts = json.loads(run("overlay", "log", drawn, "--json").stdout)
    assert facts["version"] == 6 and facts["tags"]["clean"]["version"] == 6 and facts["tags"]["clean"]["who"]
    assert facts["sittings"][0]["seconds"] == 3 and facts["sittings"][0]["counts"]["add"] == 3
    lines = run("overlay", "diff", drawn).stdout.splitlines()
    assert "class 1: none -> traffic light" in lines and "train empty.jpg: new -> done" in lines
    assert "train a.jpg: y added: traffic light [1, 2, 3.5, 40] flags 7" in lines
    assert run("overlay", "diff", f"{drawn}@v5", "--since", "v4").stdout.splitlines() == [
        "train rotated.jpg: x added: dog [0, 0, 44, 72] flags 1",
        "train rotated.jpg: new -> edited",
    ]
    assert run("overlay", "diff", drawn, "--since", "clean", "--json").stdout == '{"changes": []}\n'


def test_a_version_of_shards_is_read_as_shards(tiny_shards: Path, tmp_path: Path) -> None:
    base, overlay = Shards(tiny_shards), tmp_path / "overlay"
    keys = base.table.key.tolist()
    with serving(tiny_shards, overlay, ()) as client:
        n = keys.index("c.png")
        first = boxes(client, n)
        post(client, n, {"op": "delete", "id": "b0"}, add("x", *CORNERS[:2], 9, 9, label=2, flags=4))  # 1
        last = len(keys) - 1
        facts = client.get(f"/api/images/{last}").json()
        post(client, last, *({"op": "delete", "id": box["id"]} for box in facts["boxes"]))  # 2
        for op, name, to in (("merge", "dog", "cat"), ("add", "bird", None)):  # 3, 4
            body = {"request": op, "op": op, "name": name} | ({"to": to} if to else {})
            assert client.post("/api/classes", json=body).status_code == 200
        post(client, n, {"op": "set", "id": "x", "label": 3})  # 5
    run("overlay", "tag", f"{overlay}@v2", "clean")
    for name, classes in (("v0", base.classes), ("clean", base.classes), ("v5", ("cat", "traffic light", "bird"))):
        version = Shards(f"{overlay}@{name}")
        assert version.classes == classes and len(version) == len(base) and not list(verify(version))
        assert all(version.blob(i) == base.blob(i) for i in range(len(base)))
    v0 = Shards(f"{overlay}@v0")
    for column in ("boxes", "labels", "flags", "areas", "offsets", "height", "crc"):
        assert np.array_equal(getattr(v0.table, column), getattr(base.table, column))
    newest = Shards(overlay)
    assert newest.class_ids == (3, 90, 91) and newest.fingerprint == Shards(f"{overlay}@v5").fingerprint
    assert len({Shards(f"{overlay}@v{n}").fingerprint for n in range(6)}) == 6
    objects = newest.table.take(np.array([n, last]))
    assert objects.offsets.tolist() == [0, len(first), len(first)]
    assert np.array_equal(objects.boxes[-1], np.array([*CORNERS[:2], 9, 9], np.float32))
    assert newest.classes[objects.labels[-1]] == "bird" and objects.flags[-1] == 4
    old = np.array(base.classes)[base.table.labels]
    assert (np.array(newest.classes)[newest.table.labels] == "cat").sum() >= (old == "cat").sum()
    val = Shards(overlay, "val")
    assert len(val) == len(base.splits["val"]) and np.array_equal(
        val.table.take(np.arange(len(val))).boxes, val.table.boxes
    )
    assert next(iter(Loader(f"{overlay}@clean", "train", batch_size=2, size=(64, 64)))).images.shape[0] == 2

    # every command takes it, and so does a cache of it
    assert json.loads(run("info", f"{overlay}@v5", "--json").stdout)["classes"] == list(newest.classes)
    assert json.loads(run("lint", overlay, "--json", code=1).stdout)["images"] == len(base), (
        "splits hold the same images"
    )
    run("bake", f"{overlay}@v2", "--side", "32", "--out", tmp_path / "cache")
    assert len(Shards(tmp_path / "cache")) == len(base)
    run("overlay", "apply", f"{overlay}@v5", "--out", tmp_path / "applied")
    applied = Shards(tmp_path / "applied")
    assert applied.classes == newest.classes and applied.class_ids == newest.class_ids
    for column in ("boxes", "labels", "flags", "areas", "offsets", "height", "crc", "id"):
        assert np.array_equal(getattr(applied.table, column), getattr(newest.table, column)), column
    assert run("diff", overlay, tmp_path / "applied").exit_code == 0
    run("overlay", "apply", f"{overlay}@v5", "--link", "--out", tmp_path / "linked")
    assert Shards(tmp_path / "linked").parents == (tiny_shards,) and not list(verify(Shards(tmp_path / "linked")))
    assert run("diff", tmp_path / "applied", tmp_path / "linked").exit_code == 0
    run("overlay", "apply", overlay, "--out", tmp_path / "some", "--no-untouched")
    assert len(Shards(tmp_path / "some")) == 2
    run("export", f"{overlay}@v5", "--format", "coco", "--out", tmp_path / "coco")


def test_shards_that_are_others_by_now(tmp_path: Path) -> None:
    tiny.shards(tmp_path / "shards")
    with serving(tmp_path / "shards", tmp_path / "overlay", ()) as client:
        post(client, 0, {"op": "delete", "id": "b0"})
    run("bake", f"{tmp_path}/overlay@v1", "--side", "32", "--out", tmp_path / "cache")
    with serving(tmp_path / "shards", tmp_path / "overlay", ()) as client:
        post(client, 0, {"op": "delete", "id": "b1"})
    assert len(Shards(tmp_path / "cache")), "a version does not change"
    index = tmp_path / "shards/index.json"
    facts = json.loads(index.read_text())
    del facts["index_crc"]
    index.write_text(json.dumps(facts | {"source": "another"}))
    assert "has changed since" in failing("info", tmp_path / "overlay")
    assert "is an overlay of" in failing(
        "annotate", tmp_path / "shards", "--overlay", tmp_path / "overlay", "--no-browser"
    )


def test_an_annotated_set(tmp_path: Path) -> None:
    root = coco(tmp_path / "set", {"a.jpg": picture(), "b.jpg": picture()}, [box(10, [1, 1, 5, 5])]).parent
    root = tmp_path / "set"
    with serving(root, tmp_path / "overlay", ("new",)) as client:
        facts = client.get("/api/set").json()
        new = next(known["id"] for known in facts["classes"] if known["name"] == "new")
        counts = {row["key"]: row["boxes"] for row in client.get("/api/images").json()["images"]}
        assert sum(counts.values()) == 1
        n = list(counts.values()).index(1)
        [known] = boxes(client, n)
        assert known["id"] == "b0" and known["box"] == [1, 1, 6, 6]
        post(client, n, {"op": "set", "id": "b0", "label": new})
    before = {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}
    run("overlay", "apply", tmp_path / "overlay", "--out", tmp_path / "shards")
    assert len(Shards(tmp_path / "shards")) == len(counts)
    assert before == {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}, "never written to"
    root.rename(tmp_path / "moved")
    assert "does not exist" in failing("overlay", "apply", tmp_path / "overlay", "--out", tmp_path / "x")
    with serving(tmp_path / "moved", tmp_path / "overlay", ()) as client:
        assert boxes(client, n)[0]["label"] == new
    run("overlay", "apply", tmp_path / "overlay", "--out", tmp_path / "again")


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])
def test_the_command(tmp_path: Path, stop: signal.Signals) -> None:
    photos(tmp_path / "photos")
    (tmp_path / "keys.toml").write_text('mode = "n"\nduplicate = ["x", "Ctrl+x"]\n')
    words = ["annotate", str(tmp_path / "photos"), "--classes", "cat, dog", "--no-browser"]
    words += ["--keys", str(tmp_path / "keys.toml")]
    with subprocess.Popen(
        [sys.executable, "-m", "dataforge", *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout and process.stderr
        process.stdout.readline()
        address = process.stdout.readline().strip()
        assert re.fullmatch(r"http://127\.0\.0\.1:\d+/\?token=[\w-]{40,}", address)
        with httpx2.Client() as client:
            got = client.get(address)
            assert got.status_code == 303
            facts = client.get(address.partition("?")[0] + "api/set").json()
        assert facts["title"] == "photos" and facts["keys"] == {"mode": ["n"], "duplicate": ["x", "Ctrl+x"]}
        assert [known["name"] for known in facts["classes"]] == ["cat", "dog"]
        os.kill(process.pid, stop)
        out, err = process.communicate(timeout=120)
    assert "Traceback" not in err and f"2 edits in {tmp_path}/photos.overlay" in out, err
    assert process.returncode == 0


def test_what_is_wrong(tmp_path: Path) -> None:
    folder = photos(tmp_path / "photos")
    assert "nowhere: does not exist" in failing("annotate", tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    assert "the folder is empty" in failing("annotate", tmp_path / "empty")
    (tmp_path / "other").mkdir()
    (tmp_path / "other/readme.md").write_text("x")
    assert "has no image to annotate" in failing("annotate", tmp_path / "other")
    (tmp_path / "keys.toml").write_text("next = 3")
    assert 'next is 3; expected "key"' in failing("annotate", folder, "--keys", tmp_path / "keys.toml")
    (tmp_path / "keys.toml").write_text("next")
    assert "not TOML" in failing("annotate", folder, "--keys", tmp_path / "keys.toml")
    assert "no such file; expected a checkpoint" in failing("annotate", folder, "--model", tmp_path / "m.pt")
    assert "unknown format" in failing("annotate", folder, "--format", "cocoa")
    assert "is not empty" in failing("annotate", folder, "--overlay", tmp_path / "other", "--no-browser")
    assert "expected a folder made by `dataforge annotate`" in failing("overlay", "log", folder)
    with serving(folder, tmp_path / "photos.overlay"):
        assert "is being edited by another" in failing("annotate", folder, "--no-browser")
    assert TOKEN not in (tmp_path / "photos.overlay/journal.jsonl").read_text()
