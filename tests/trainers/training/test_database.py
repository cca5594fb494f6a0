"""From a database to a training in one command; the shards between are made once, and again when it has changed."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner, Result

from dataforge import Shards
from dataforge.errors import ConfigError, DataforgeError, FormatError
from dataforge.formats import coco, flatbuffer, sqlite
from dataforge.images import synth
from dataforge.ingest.run import ingest
from dataforge.record import Source
from tests import tiny
from trainers.command import command
from trainers.config import read_toml
from trainers.dense import DenseConfig
from trainers.training.database import shards_of, with_database

WRITERS: dict[str, Any] = {"flatbuffer": flatbuffer.write, "sqlite": sqlite.write}


def source(splits: tuple[str, ...], repeat: int = 1) -> Source:
    records = [
        replace(record, key=f"{turn}/{record.key}", id=100 * turn + record.id)
        for split in splits
        for turn in range(repeat)
        for record in tiny.records(split)
    ]
    return Source(tiny.CLASSES, iter(records), tiny.CLASS_IDS)


@pytest.fixture(params=WRITERS)
def written(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[..., Path]:
    def write(*splits: str, repeat: int = 2) -> Path:
        root = tmp_path / "set"
        shutil.rmtree(root, ignore_errors=True)
        WRITERS[request.param](source(splits, repeat), root)
        return root

    return write


def the_file(root: Path) -> Path:
    return next(path for path in root.iterdir() if path.is_file())


def test_a_file_is_shared_out_and_nothing_is_lost(written: Callable[..., Path]) -> None:
    db = the_file(written("coco"))
    cache, said = shards_of(db)
    assert cache == db.with_name(db.name + ".shards") and "train 18, val 2" in said
    shards = Shards(cache)
    assert {name: len(rows) for name, rows in shards.splits.items()} == {"train": 18, "val": 2, "all": 20}
    assert sorted(shards.table.key) == sorted(record.key for record in source(("coco",), 2).records)
    assert len(shards.table.boxes) == sum(len(record.boxes) for record in source(("coco",), 2).records)
    assert shards.classes == tiny.CLASSES


def test_a_folders_files_are_its_splits(written: Callable[..., Path]) -> None:
    root = written("train", "test", repeat=1)
    cache, _ = shards_of(root)
    assert {name: len(rows) for name, rows in Shards(cache).splits.items()} == {"test": 10, "train": 10}


def test_shards_are_made_once_and_again_when_the_database_changed(written: Callable[..., Path]) -> None:
    db = the_file(written("train"))
    cache, said = shards_of(db)
    made = (cache / "index.json").stat().st_mtime_ns
    assert "made from" in said
    os.utime(db)  # the same content
    assert shards_of(db) == (cache, f"{cache}: made from {db.name} before, which has not changed")
    assert (cache / "index.json").stat().st_mtime_ns == made
    before = Shards(cache).fingerprint
    kept = shutil.copytree(cache, cache.parent.parent / "kept")
    db = the_file(written("train", repeat=1))
    shutil.move(kept, cache)
    _, said = shards_of(db)
    assert "again, since" in said and Shards(cache).fingerprint != before and len(Shards(cache)) == 10


def test_a_folders_databases_count_whatever_the_case_of_their_suffix(tmp_path: Path) -> None:
    """The reader takes `.DB`, so a change in one makes the shards again."""
    sqlite.write(source(("train",), 2), tmp_path / "set")
    db = the_file(tmp_path / "set")
    db = db.rename(db.with_suffix(db.suffix.upper()))
    cache, _ = shards_of(tmp_path / "set")
    assert len(Shards(cache)) == 20
    sqlite.write(source(("train",), 1), tmp_path / "other")
    the_file(tmp_path / "other").replace(db)
    _, message = shards_of(tmp_path / "set")
    assert "again, since" in message and len(Shards(cache)) == 10


def test_few_images_are_all_trained_on(tmp_path: Path) -> None:
    flatbuffer.write(Source(tiny.CLASSES, iter(tiny.records()[:3]), tiny.CLASS_IDS), tmp_path / "set")
    cache, _ = shards_of(tmp_path / "set/train.db")
    assert {name: len(rows) for name, rows in Shards(cache).splits.items()} == {"train": 3, "all": 3}


def test_what_is_not_ours_is_not_touched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flatbuffer.write(source(("train",)), tmp_path / "set")
    db = tmp_path / "set/train.db"
    ingest(flatbuffer.read(db), tmp_path / "set/train.db.shards", source_name="flatbuffer")  # by the user
    before = Shards(tmp_path / "set/train.db.shards").fingerprint
    with pytest.raises(ConfigError, match="shards that --db did not make"):
        shards_of(db)
    assert Shards(tmp_path / "set/train.db.shards").fingerprint == before
    shutil.rmtree(tmp_path / "set/train.db.shards")
    (tmp_path / "set/train.db.shards").mkdir()
    (tmp_path / "set/train.db.shards/thesis.txt").write_text("years of work")
    with pytest.raises(DataforgeError, match=r"train\.db\.shards"):
        shards_of(db)
    assert (tmp_path / "set/train.db.shards/thesis.txt").read_text() == "years of work"
    shutil.rmtree(tmp_path / "set/train.db.shards")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match="run it once without torchrun"):
        shards_of(db)
    monkeypatch.delenv("WORLD_SIZE")
    shards_of(db)
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert "not changed" in shards_of(db)[1]


def test_a_damaged_database_leaves_the_old_shards(tmp_path: Path) -> None:
    flatbuffer.write(source(("train",)), tmp_path / "set")
    db = tmp_path / "set/train.db"
    cache, _ = shards_of(db)
    before = Shards(cache).fingerprint
    db.write_bytes(db.read_bytes()[:500])
    with pytest.raises(FormatError):
        shards_of(db)
    assert Shards(cache).fingerprint == before


def run(*words: object) -> Result:
    return CliRunner().invoke(with_database(command("dense", DenseConfig)), [str(word) for word in words])


def test_one_command_trains_from_a_database(tmp_path: Path) -> None:
    sqlite.write(source(("train",), 2), tmp_path / "set")
    db, pictures = tmp_path / "set/train.sqlite", tmp_path / "pictures"
    (tmp_path / "set/images/train").rename(pictures)
    few = ["--epochs", 1, "--width", 8, "--runs", tmp_path / "runs", "--name", "one", "--batch-size", 4]
    asked = ["--resize", 64, 32, "--classes", "dog,cat", "--area", 10, "inf", "--device", "cpu"]
    done = run("--db", db, "--images", pictures, *asked, *few)
    assert done.exit_code == 0, done.output
    assert "epoch 1/1" in done.stdout and "mAP50" in done.stdout
    folder = tmp_path / "runs/dense/one"
    values = read_toml(DenseConfig, folder / "args.toml")
    assert values["size"] == [32, 64] and values["classes"] == ["dog", "cat"] and values["area"] == [10, float("inf")]
    state = torch.load(folder / "weights/last.pt", weights_only=True)
    assert state["classes"] == ["dog", "cat"] and state["size"] == [32, 64]
    done = run("--db", db, "--images", pictures, "--resume", folder)
    assert done.exit_code == 0 and "has not changed" in done.stdout, done.output


def test_without_a_validation_split_it_says_so(tmp_path: Path) -> None:
    flatbuffer.write(Source(tiny.CLASSES, iter(tiny.records()[:4]), tiny.CLASS_IDS), tmp_path / "set")
    done = run("--db", tmp_path / "set/train.db", "--epochs", 1, "--width", 8, "--runs", tmp_path / "runs")
    assert done.exit_code == 0 and "is for validation (train, all); trained without" in done.stdout, done.output


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--db", "a.db", "--shards", "b"], "--db and --shards: expected exactly one of them"),
        (["--resize", "128", "64", "--size", "64,128"], "--resize and --size: expected exactly one of them"),
        (["--images", "b"], "--images goes with --db"),
        (["--db", "no such.db"], "no such.db"),
        (["--db", "set.json"], "set.json: is coco; expected flatbuffer or sqlite"),
    ],
)
def test_wrong_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], message: str) -> None:
    monkeypatch.chdir(tmp_path)
    Path("set.json").write_text(json.dumps({"images": [], "annotations": [], "categories": []}))
    done = run(*words)
    assert done.exit_code == 2 and message in done.stderr and "Traceback" not in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["set.json"]


PEAK = "print('peak', re.search(r'VmHWM:\\s*(\\d+) kB', open('/proc/self/status').read())[1])"


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="tells no peak of memory")
def test_a_laptops_memory_is_enough(tmp_path: Path) -> None:
    """At 128x64, grey, 16 images a step, less than 1 GB beside what importing torch takes."""
    synth.write(tmp_path / "pictures", images=60)
    flatbuffer.write(coco.read(tmp_path / "pictures", split=("train",)), tmp_path / "set")
    words = ["--db", tmp_path / "set/train.db", "--resize", 128, 64, "--device", "cpu", "--batch-size", 16]
    words += ["--epochs", 2, "--runs", tmp_path / "runs"]
    train = (
        "import re, sys; from trainers.dense import DenseConfig; from trainers.training.database import with_database; "
    )
    train += "from trainers.command import command; "
    train += "with_database(command('dense', DenseConfig)).main(sys.argv[1:], standalone_mode=False); "
    peaks = [
        int(subprocess.check_output([sys.executable, "-c", code + PEAK, *map(str, more)], text=True).split()[-1]) * 1024
        for code, more in (("import re, torch; ", []), (train, words))
    ]
    print(f"importing torch {peaks[0] / 1e9:.2f} GB, training {peaks[1] / 1e9:.2f} GB")
    assert peaks[1] - peaks[0] < 1e9
