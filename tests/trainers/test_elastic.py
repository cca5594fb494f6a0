"""A job of torchrun that loses processes goes on with those that are left: the steps are those of one process."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from dataforge.images.header import probe
from dataforge.loading.sampler import plan
from dataforge.shards.writer import ShardWriter
from tests import tiny
from tests.trainers import distributed, runs
from trainers.config import write_toml
from trainers.training import engine

LAUNCH = ["-m", "torch.distributed.run", "--rdzv-backend", "c10d", "--rdzv-endpoint", "localhost:0", "--rdzv-id", "job"]
BATCH = 8  # no multiple of 3
COUNT = 26


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shards of whose first epoch the last of three ranks gets damaged images alone, and the first no boxes."""
    out = tmp_path_factory.mktemp("hostile") / "shards"
    records = [record for _ in range(3) for record in tiny.records()][:COUNT]
    sides = np.full(COUNT, 64, np.int32)
    of_rank = [
        {i for step in plan(sides, sides, [(64, 64)], BATCH, rank=r, world=3) for i in step.index} for r in (0, 2)
    ]
    with ShardWriter(out, tiny.CLASSES, tiny.CLASS_IDS) as writer:
        for n, record in enumerate(records):
            blob = record.image
            assert isinstance(blob, bytes)
            record = replace(record, key=f"{n}/{record.key}")
            if n in of_rank[0]:
                record = record.pick(np.zeros(len(record.boxes), bool))
            writer.add(record, blob[: len(blob) // 3] if n in of_rank[1] else blob, probe(blob))
        writer.publish()
    return out


@pytest.mark.slow
def test_two_then_three_then_one_process_take_the_steps_of_one(
    hostile: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = {
        "batch_size": BATCH,
        "epochs": 2,
        "ema": 0.0,
        "lr": 1e-4,
        "threads": 1,
        "on_error": "skip",
        "val_split": "",
    }
    config = runs.config("yolov2", hostile, tmp_path, **given, save_steps=2, name="run")
    write_toml(config, tmp_path / "args.toml")
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    # the last checkpoints before are of steps 2, 4 (torchrun has started both again) and 6
    for processes, restarts, killed_at in ((2, 1, 4), (3, 0, 7), (1, 0, 0)):
        words = [
            sys.executable,
            *LAUNCH,
            "--nproc-per-node",
            str(processes),
            "--max-restarts",
            str(restarts),
            "-m",
            "tests.trainers.elastic",
            tmp_path / "args.toml",
        ]
        done = subprocess.run(
            [*words, str(killed_at)], timeout=300, env=environment, capture_output=True, text=True, check=False
        )
        assert bool(done.returncode) == bool(killed_at), done.stderr
        rows = runs.steps(tmp_path / "yolov2/run")
        steps, last = [int(row["step"]) for row in rows], killed_at + restarts
        assert steps in [list(range(1, end)) for end in ((last, last + 1) if last else (9,))]
    distributed.fix_norms(monkeypatch.setattr)
    with pytest.warns(UserWarning, match="skipped: "):
        alone = engine.train(replace(config, name="alone"), "yolov2")
    for one, other in zip(rows, runs.steps(alone), strict=True):
        assert {k: float(v) for k, v in one.items()} == pytest.approx({k: float(v) for k, v in other.items()}, rel=1e-4)
    with pytest.raises(Exception, match="that run exists; choose another --name"):  # not by the same job
        engine.train(config, "yolov2")
