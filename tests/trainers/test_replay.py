"""A step of a run, drawn again: the very pictures that it learned from."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch

from dataforge.errors import ConfigError, DataError
from dataforge.loading.batch import Batch
from tests import tiny
from tests.trainers.runs import small
from trainers.replay import SIDE, batch_at
from trainers.results import plots
from trainers.training import engine
from trainers.training.learner import Learner


@pytest.fixture(scope="module")
def seen(twenty: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Batch]]:
    """A run's folder, and copies of all batches that it learned from."""
    batches: list[Batch] = []
    gradients = Learner.gradients

    def watch(self: Learner, batch: Batch) -> dict[str, float]:
        batches.append(batch.clone())
        return gradients(self, batch)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Learner, "gradients", watch)
        config = small(twenty, tmp_path_factory.mktemp("runs"), augment="strong", val_split="", seed=7, accumulate=2)
        return engine.train(config, "yolov2"), batches


def command(*words: object) -> subprocess.CompletedProcess[str]:
    call = [sys.executable, "-m", "dataforge", "replay", *map(str, words)]
    return subprocess.run(call, capture_output=True, text=True, check=False)


def same(a: Batch, b: Batch) -> bool:
    return all(torch.equal(x, y) for x, y in zip(vars(a).values(), vars(b).values(), strict=True))


def test_every_step_is_what_the_run_learned_from(seen: tuple[Path, list[Batch]]) -> None:
    folder, batches = seen
    assert len(batches) == 10 and not same(batches[0], batches[5])
    for step, batch in enumerate(batches, 1):
        loader, again = batch_at(folder, step)
        assert same(batch, again) and loader.epoch == (step - 1) // 5


def test_the_command_draws_it_and_names_the_records(seen: tuple[Path, list[Batch]], tmp_path: Path) -> None:
    folder, batches = seen
    done = command(folder, "--step", 7, "--out", tmp_path / "seen.png", "--json")
    assert done.returncode == 0, done.stderr
    facts, batch = json.loads(done.stdout), batches[6]
    loader, _ = batch_at(folder, 1)
    assert (facts["step"], facts["epoch"], facts["size"]) == (7, 2, list(batch.images.shape[2:]))
    keys = [str(loader.shards.table.key[i]) for i in batch.index.tolist()]
    assert [(r["split"], r["record"], r["key"]) for r in facts["records"]] == [
        ("train", i, key) for i, key in zip(batch.index.tolist(), keys, strict=True)
    ]
    expected = plots.sheet(batch.images, batch.boxes, batch.labels, loader.classes, side=SIDE)
    np.testing.assert_array_equal(np.asarray(PIL.Image.open(tmp_path / "seen.png")), expected)


def test_what_cannot_be_drawn_again_is_refused(twenty: Path, seen: tuple[Path, list[Batch]], tmp_path: Path) -> None:
    folder, batches = seen
    for step in (11, 10**9):
        with pytest.raises(ConfigError, match="expected 1 to 10, the steps of"):
            batch_at(folder, step)
    shutil.copytree(twenty, tmp_path / "moved")
    assert same(batch_at(folder, 2, str(tmp_path / "moved"))[1], batches[1])
    with pytest.raises(ConfigError, match=r"cannot be drawn again: .* other shards"):
        batch_at(folder, 1, str(tiny.shards(tmp_path / "others", repeat=3)))
    changed = shutil.copytree(folder, tmp_path / "run")
    text = (changed / "args.toml").read_text()
    (changed / "args.toml").write_text(text.replace('decode = "host"', 'decode = "device"'))
    assert same(batch_at(changed, 1)[1], batches[0]), "here there may be no such device"
    (changed / "args.toml").write_text(text.replace("seed = 7", "seed = 8"))
    with pytest.raises(ConfigError, match="cannot be drawn again"):
        batch_at(changed, 1)
    done = command(tmp_path, "--step", 1)
    assert done.returncode == 2 and done.stderr.startswith(f"error: {tmp_path}: holds no start.json")


def test_a_loss_that_is_not_finite_names_the_command(twenty: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="not finite") as caught:
        engine.train(small(twenty, tmp_path, lr=1e30, clip=0.0, warmup_steps=0), "yolov2")
    said = str(caught.value)
    folder, step = said.split("dataforge replay ")[1].split(" --step ")
    _, batch = batch_at(Path(folder), int(step))
    assert said.startswith(f"step {step}: ") and f"records {batch.index.tolist()} " in said
