from __future__ import annotations

import csv
import itertools
import math
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from dataforge.errors import DataError
from tests import tiny
from trainers import checkpoint, engine, run
from trainers.config import Config, read_toml, write_toml
from trainers.yolov2 import YOLOv2Config

LOSSES = ["box", "obj", "noobj", "cls", "prior"]


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.shards(tmp_path_factory.mktemp("engine") / "shards", repeat=2)


def small(shards: Path, runs: Path, **values) -> YOLOv2Config:
    few = {"size": [64, 64], "multiscale": [1.0, 1.5], "width": 0.125, "epochs": 2, "batch_size": 4, "threads": 2}
    return YOLOv2Config(
        **{"shards": str(shards), "runs": str(runs), "warmup_steps": 3, "num_anchors": 2, **few, **values}
    )


def series(folder: Path) -> list[dict[str, str]]:
    with open(folder / run.STEPS, newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def finished(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return engine.train(small(shards, tmp_path_factory.mktemp("runs"), name="whole", save_steps=2), "yolov2")


def test_a_run_folder_holds_what_users_know(finished, shards):
    pictures = "results.png labels.jpg train_batch0.jpg val_batch0_labels.jpg val_batch0_pred.jpg PR_curve.png"
    for name in [*pictures.split(), "confusion_matrix.png", "args.toml", "weights/best.pt", "weights/last.pt"]:
        assert (finished / name).stat().st_size > 0, name
    assert list(finished.glob("events.out.tfevents.*"))
    with open(finished / run.RESULTS, newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["epoch"] for row in rows] == ["1", "2"]
    expected = ["epoch", "step", *LOSSES, "loss", "lr", "mAP50", "mAP50-95", "img/s", "data-wait %"]
    assert list(rows[0]) == expected
    assert all(math.isfinite(float(value)) for row in rows for value in row.values())
    assert read_toml(YOLOv2Config, finished / "args.toml")["shards"] == str(shards)


def test_checkpoints_are_the_newest_few_and_load_as_weights_only(finished):
    assert [file.name for file in sorted((finished / "weights").glob("step-*.pt"))] == [
        f"step-{step:07d}.pt" for step in (4, 5, 6, 8, 10)
    ][-4:]
    state = torch.load(finished / "weights/last.pt", weights_only=True)
    assert state["train"]["step"] == 10 and state["train"]["epoch"] == 2
    detector, best = checkpoint.load_detector(finished / "weights/best.pt")
    assert "train" not in best and not detector.training
    assert best["classes"] == list(tiny.CLASSES)


@pytest.mark.parametrize("at", [3, 5, 8])
def test_a_run_that_died_goes_on_exactly(finished, shards, tmp_path, monkeypatch, at):
    """It dies after step `at`; the newest checkpoint is of an earlier step, in mid-epoch or between epochs."""
    update, steps = engine.update_average, []

    def dying(*arguments) -> None:
        steps.append(1)
        if len(steps) == at + 1:
            raise RuntimeError("killed")
        update(*arguments)

    config = small(shards, tmp_path, name="whole", save_steps=2)
    with monkeypatch.context() as patch:
        patch.setattr(engine, "update_average", dying)
        with pytest.raises(RuntimeError, match="killed"):
            engine.train(config, "yolov2")
    folder = tmp_path / "yolov2/whole"
    assert len(series(folder)) == at
    values = read_toml(YOLOv2Config, folder / "args.toml")
    engine.train(YOLOv2Config(**values), "yolov2", resume=folder)
    assert series(folder) == series(finished)
    ours, theirs = (torch.load(f / "weights/last.pt", weights_only=True) for f in (folder, finished))
    for name, tensor in theirs["model"].items():
        assert torch.equal(tensor, ours["model"][name]), name


@pytest.mark.parametrize("amp", ["bf16", "fp16"])
def test_half_precision_trains(shards, tmp_path, amp):
    folder = engine.train(small(shards, tmp_path, amp=amp, epochs=1, val_split=""), "yolov2")
    rows = series(folder)
    assert len(rows) == 5 and all(math.isfinite(float(row["loss"])) for row in rows)
    state = torch.load(folder / "weights/last.pt", weights_only=True)["train"]["model"]
    assert all(value.dtype != torch.float16 and torch.isfinite(value).all() for value in state.values())


def test_the_learning_rate_warms_up_and_drops():
    config = Config(lr=1.0, warmup_steps=10, milestones=[2, 3], epochs=4)
    rates = [engine.learning_rate(config, step, 20) for step in range(80)]
    assert rates[:10] == pytest.approx([(i + 1) / 10 for i in range(10)])
    assert rates[39:41] == pytest.approx([1.0, 0.1]) and rates[60] == pytest.approx(0.01)
    cosine = [
        engine.learning_rate(Config(lr=1.0, warmup_steps=0, schedule="cosine", epochs=4), s, 20) for s in range(80)
    ]
    assert (
        cosine[0] == 1.0 and cosine[40] == pytest.approx(0.505) and all(a >= b for a, b in itertools.pairwise(cosine))
    )


def test_the_average_follows_the_weights():
    model, average = torch.nn.Linear(2, 2), torch.nn.Linear(2, 2)
    for step in range(5000):
        engine.update_average(average, model, 0.99, step)
    assert torch.allclose(model.weight, average.weight, atol=1e-4)


def test_a_loss_that_is_not_finite_stops_the_run_and_names_the_records(shards, tmp_path):
    with pytest.raises(DataError, match=r"step \d+: the loss is not finite .*records \[\d+.*split 'train'"):
        engine.train(small(shards, tmp_path, lr=1e30, clip=0.0, warmup_steps=0), "yolov2")


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ([], "shards is not set"),
        (["--shards", "nowhere"], "nowhere: does not exist"),
        (["--shards", "{shards}", "--val-split", "test"], "unknown split 'test'; known: train, val"),
        (["--shards", "{shards}", "--size", "100"], "multiples of 32"),
        (["--shards", "{shards}", "--optimizer", "adam"], "optimizer is 'adam'; expected one of sgd, adamw"),
        (["--shards", "{shards}", "--batch-size", "0"], "batch_size is 0"),
        (["--shards", "{shards}", "--device", "gpu"], "device 'gpu' cannot be used"),
        (["--shards", "{shards}", "--backbone", "resnet81", "--size", "64"], "unknown backbone 'resnet81'.*resnet18"),
        (["--shards", "{shards}", "--augment", "wild", "--size", "64"], "unknown augmentation recipe 'wild'"),
        (["--config", "{tmp}/typo.toml"], "unknown key 'epoch'; did you mean 'epochs'"),
        (["--config", "{tmp}/type.toml"], "epochs is 'ten'; expected int"),
        (["--config", "{tmp}/none.toml"], "cannot be read"),
        (["--resume", "{tmp}"], "holds no args.toml"),
        (["--resume", "{tmp}", "--lr", "1"], "--resume goes with"),
    ],
)
def test_wrong_values_are_answered_in_one_line(shards, tmp_path, flags, words, monkeypatch, capsys):
    (tmp_path / "typo.toml").write_text("epoch = 3\n")
    (tmp_path / "type.toml").write_text('epochs = "ten"\n')
    arguments = [flag.format(shards=shards, tmp=tmp_path) for flag in flags]
    result = CliRunner().invoke(
        engine.command("yolov2", YOLOv2Config),
        [*arguments, *([] if "--resume" in flags else ["--runs", str(tmp_path / "runs")])],
    )
    assert result.exit_code == 1, result.output
    assert re.search(words, result.stderr), result.stderr
    assert "Traceback" not in result.output
    assert not (tmp_path / "runs").exists()


def test_toml_round_trip(tmp_path):
    config = YOLOv2Config(shards='a "b" ü', size=[320, 416], lr=3e-4)
    write_toml(config, tmp_path / "args.toml")
    assert YOLOv2Config(**read_toml(YOLOv2Config, tmp_path / "args.toml")) == config


def command(*flags: object) -> list[str]:
    return [sys.executable, "-m", "trainers.yolov2", *map(str, flags)]


@pytest.mark.slow
def test_killed_twice_and_resumed_the_losses_are_the_same(shards, finished, tmp_path):
    """SIGKILL, whenever it comes, loses nothing but time."""
    config = small(shards, tmp_path, name="whole", save_steps=2)
    write_toml(config, tmp_path / "config.toml")
    folder = tmp_path / "yolov2/whole"
    start = command("--config", tmp_path / "config.toml")
    for at in (3, 7):
        process = subprocess.Popen(start, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 200
        while process.poll() is None and not (folder / f"weights/step-{at - 1:07d}.pt").exists():
            assert time.monotonic() < deadline
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert len(series(folder)) < 10
        start = command("--resume", folder)
    subprocess.run(start, check=True, stdout=subprocess.DEVNULL, timeout=200)
    assert series(folder) == series(finished)


@pytest.mark.slow
def test_ctrl_c_saves_and_says_how_to_go_on(shards, finished, tmp_path):
    write_toml(small(shards, tmp_path, name="whole"), tmp_path / "config.toml")
    folder = tmp_path / "yolov2/whole"
    process = subprocess.Popen(command("--config", tmp_path / "config.toml"), stderr=subprocess.PIPE, text=True)
    while process.poll() is None and not (folder / run.STEPS).exists():
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=200)
    assert process.returncode == 1 and f"go on with --resume {folder}" in said and "Traceback" not in said
    subprocess.run(command("--resume", folder), check=True, stdout=subprocess.DEVNULL, timeout=200)
    assert series(folder) == series(finished)


@pytest.mark.slow
def test_two_processes_train_and_evaluate_exactly(shards, tmp_path):
    """Under torchrun: equal steps, one run folder, and the same 12 numbers as one process finds with the weights."""
    write_toml(small(shards, tmp_path, name="two", epochs=1), tmp_path / "config.toml")
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", "29511"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    trained = [*launch, "-m", "trainers.yolov2", "--config", str(tmp_path / "config.toml")]
    subprocess.run(trained, check=True, timeout=300, env=environment, stdout=subprocess.DEVNULL)
    folder = tmp_path / "yolov2/two"
    assert len(series(folder)) == 5
    weights = [str(folder / "weights/last.pt"), "--shards", str(shards), "--split", "val", "--json"]
    one, two = (
        subprocess.run(
            [*start, "-m", "trainers.evaluate", *weights], check=True, timeout=300, env=environment, stdout=-1
        )
        for start in ([sys.executable], launch)
    )
    assert one.stdout == two.stdout and b"AP50" in one.stdout
