from __future__ import annotations

import json
import mmap
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given as drawn
from hypothesis import strategies as st

from dataforge.bench import show, stages, training
from dataforge.bench.measure import measure
from dataforge.bench.verdict import Figures, verdict
from dataforge.cli.main import main
from dataforge.errors import ConfigError
from tests import tiny

SMALL = ["--size", "64", "96", "--batch-size", "8"]


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.shards(tmp_path_factory.mktemp("bench") / "shards", repeat=2, splits=("train",))


@pytest.fixture(scope="module")
def setting(shards: Path) -> stages.Setting:
    return stages.setting(shards, size=(64, 96), batch_size=8)


def test_rows(shards: Path, tmp_path: Path) -> None:
    result = CliRunner().invoke(main, ["bench", str(shards), "--json", *SMALL, "--plot", str(tmp_path / "stages.png")])
    assert result.exit_code == 0, result.output
    rows = json.loads(result.stdout)["rows"]
    names = [row["name"] for row in rows if not row["name"].endswith(" threads")]
    assert names == ["read", "decode", "resize", "collate", "all", "all, yolo"]
    swept = [row["threads"] for row in rows if row["name"].startswith("all, yolo")]
    assert len(swept) == len(set(swept)) > 1 and 1 in swept
    for row in rows:
        assert 0 < row["low"] <= row["value"] <= row["high"] and row["unit"] == "img/s"
        assert 0 < row["p50_ms"] <= row["p99_ms"] and row["mb_per_s"] > 0 and row["cpu_percent"] >= 0
        assert row["repeats"] == 5 and row["cache"] == "warm" and row["images"] == 20 and row["size"] == [64, 96]
        assert row["machine"]["cpu"] and row["machine"]["cores"] >= 1 and row["machine"]["memory_gib"] > 0
        assert row["versions"].keys() == {"python", "torch", "numpy", "dataforge"}
        time.strptime(row["date"], "%Y-%m-%d")
    text = show.describe(rows)
    assert "warm page cache" in text and "median of 5 passes" in text and all(name in text for name in names)
    assert (tmp_path / "stages.png").read_bytes()[:4] == b"\x89PNG"


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--repeats", "4"], "'--repeats': '4' is not an integer of at least 5"),
        (["--config", "x.toml"], "needs --trainer"),
        (["--augment", "yollo"], "unknown augmentation recipe 'yollo'"),
        (["--trainer", "yolov9", "--no-sweep", "--images", "8"], "unknown detector 'yolov9'"),
    ],
)
def test_mistakes_are_one_line(shards: Path, options: list[str], says: str) -> None:
    result = CliRunner().invoke(main, ["bench", str(shards), *SMALL, *options])
    assert result.exit_code == 2 and says in result.stderr and len(result.stderr.splitlines()) == 1, result.output


def test_a_set_is_drawn_when_none_is_given() -> None:
    with stages.shards_or_drawn(None, images=10) as path:
        assert (path / "index.json").is_file()
    assert not path.exists()


def test_every_stage_goes_over_the_same_records_and_hands_on_what_it_says(setting: stages.Setting) -> None:
    from dataforge.shards.reader import Shards

    shards, index = Shards(setting.path, setting.split), np.concatenate(setting.batches)
    assert sorted(index.tolist()) == list(range(len(shards)))
    for threads in (1, 3):
        used = replace(setting, threads=threads)
        for stage in (stages.read, stages.read_ahead, stages.read_in_order):
            assert sum(stage(used)) == shards.table.size[index].sum()
        assert sum(stages.decode(used)) == (3 * shards.table.height[index] * shards.table.width[index]).sum()
        assert sum(stages.resize(used)) == len(index) * 64 * 96 * 3
        assert sum(stages.load(replace(used, augment=None))) == len(index) * 64 * 96 * 3
        assert sum(stages.load(used)) == len(index) * 64 * 96 * 3 * 4
    assert all(size > 0 for size in stages.collate(setting))


def test_fewer_images_are_the_first_batches(shards: Path) -> None:
    few = stages.setting(shards, size=(64, 96), batch_size=8, images=10)
    assert few.images == 8 and len(list(stages.load(few))) == 1


def test_measure_counts_what_the_stage_does() -> None:
    passes = []

    def stage() -> Iterator[int]:
        passes.append(len(passes))
        time.sleep(0.2)  # preparing is not measured
        return work()

    def work() -> Iterator[int]:
        for wait in (0.01, 0.01, 0.01, 0.03):
            time.sleep(wait)
            yield 1000

    row = measure("nap", stage, images=8, repeats=5)
    assert len(passes) == 6
    assert 8 / 0.2 < row["value"] <= 8 / 0.06 and row["low"] <= row["value"] <= row["high"]
    assert 10 <= row["p50_ms"] < 30 <= row["p99_ms"]
    assert row["mb_per_s"] == pytest.approx(row["value"] / 8 * 4000 / 1e6, abs=0.06)
    assert row["cpu_percent"] < 60


def test_reading_ahead_reads_the_same_by_windows(setting: stages.Setting) -> None:
    size = sum(stages.read(setting))
    assert sum(stages.read_ahead(setting)) == size
    windows = stages.setting(setting.path, size=(64, 96), batch_size=8, shuffle="window:8")
    assert sum(map(len, windows.batches)) == 20 and sum(stages.read_ahead(windows)) == size


def test_cold_reading_comes_from_the_disk_or_is_refused(setting: stages.Setting) -> None:
    with ExitStack() as held:  # this process holds the pages of the files, so they stay
        for file in (file for file in setting.path.rglob("*") if file.is_file() and file.stat().st_size):
            opened = held.enter_context(open(file, "rb"))
            assert held.enter_context(mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ))[:]
        with pytest.raises(ConfigError, match="its files cannot be removed from the page cache"):
            list(stages.cold(setting, stages.read_ahead))


FIGURES = Figures(
    step=2100,
    loader=1400,
    together=900,
    threads=2,
    waited=0.34,
    costs={"read": 0.00001, "decode": 0.0006, "resize": 0.0001, "augment": 0.0002},
    changes={"--threads 4": 1450, "bake --side 640": 3900},
)


def test_decode_bound() -> None:
    assert verdict(FIGURES) == (
        "decode-bound: 2 threads deliver 1,400 img/s, the step takes 2,100, and together they reach 900, "
        "waiting 34% of the time; bake --side 640 gives 3,900"
    )


@pytest.mark.parametrize("stage", ["read", "decode", "resize", "augment"])
def test_the_costliest_stage_is_the_cause(stage: str) -> None:
    assert verdict(replace(FIGURES, costs={**FIGURES.costs, stage: 0.01})).startswith(f"{stage}-bound: ")


@pytest.mark.parametrize(("waited", "bound"), [(0.0, "step"), (0.02, "step"), (0.021, "decode")])
def test_a_step_that_never_waits(waited: float, bound: str) -> None:
    text = verdict(replace(FIGURES, step=3.14, together=3.1, threads=1, waited=waited))
    assert text.startswith(f"{bound}-bound: 1 thread delivers 1,400 img/s, the step takes 3.1")
    if bound == "step":
        assert text.endswith(f"together they reach 3.1, waiting {waited:.1%} of the time") and "bake" not in text


def test_a_change_that_gives_nothing_is_not_advised() -> None:
    text = verdict(replace(FIGURES, changes={"--threads 4": 1450, "bake --side 640": 1300}))
    assert text.endswith("nothing that was tried gives more (--threads 4 1,450, bake --side 640 1,300)")
    assert verdict(replace(FIGURES, changes={})).endswith("nothing that was tried gives more (nothing could be tried)")


@drawn(st.dictionaries(st.sampled_from("abcdef"), st.floats(1, 1e5), max_size=6), st.floats(0, 1), st.floats(0.1, 1e5))
def test_a_verdict_is_one_sentence_and_advises_the_best_only(
    changes: dict[str, float], waited: float, loader: float
) -> None:
    text = verdict(replace(FIGURES, changes=changes, waited=waited, loader=loader))
    assert "\n" not in text and ". " not in text
    advised = [name for name in changes if f"; {name} gives" in text]
    assert all(changes[name] == max(changes.values()) and changes[name] > loader for name in advised)
    assert bool(advised) == (waited > 0.02 and max(changes.values(), default=0.0) >= 1.05 * loader)


def test_a_training_is_weighed(setting: stages.Setting, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small = replace(setting, size=(64, 64), fit="stretch")
    recipe = tmp_path / "small.toml"
    recipe.write_text('width = 0.1\nanchors = "voc"\nfit = "stretch"\nbatch_size = 4\nsize = [96, 64]\n')
    found = stages.rows(small, sweep=False)
    given = {"config": recipe, "size": (64, 64), "device": "cpu", "threads": 2}
    trained = training.step(setting.path, "yolov2", 0.2, **given)
    own = {"size": (64, 64), "fit": "stretch", "batch_size": 4, "augment": "flip", "threads": 2}
    assert trained["loader"] == own, "what is not given is chosen, as for a training"
    assert 0 <= trained["waited"] <= 1 and trained["step"] > 0 and trained["together"] > 0
    assert "bake --side 64" not in training.figures(small, found, trained | {"waited": 0.0}, 5).changes
    weighed = training.figures(small, found, trained | {"waited": 0.5}, 5)
    assert weighed.costs.keys() == {"read", "decode", "resize", "augment"}
    assert weighed.loader == next(row["value"] for row in found if row["name"] == "all, yolo")
    assert {"bake --side 64", "bake --raw --size 64 64 --fit stretch"} <= weighed.changes.keys()
    assert all(rate > 0 for rate in weighed.changes.values())
    monkeypatch.setattr(training, "memory", lambda: 20 * 64 * 64 * 3)
    assert not any("--raw" in name for name in training.figures(small, found, trained | {"waited": 0.5}, 5).changes)
