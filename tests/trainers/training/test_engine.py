from __future__ import annotations

import itertools
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from torch import Tensor

from dataforge.errors import ConfigError, DataError, StoppedError
from tests import tiny
from tests.trainers.runs import config, rows, small, steps
from trainers import checkpoint, distributed
from trainers.command import command as trainer
from trainers.config import read_toml, write_toml
from trainers.ssd import SSDConfig
from trainers.training import engine, log, optim, precision, run
from trainers.yolov2 import YOLOv2, YOLOv2Config

LOSSES = ["box", "obj", "noobj", "cls", "prior"]


def test_a_run_folder_holds_what_users_know(finished: Path, twenty: Path) -> None:
    pictures = "results.png labels.jpg train_batch0.jpg val_labels.jpg val_predictions.jpg PR_curve.png F1_curve.png"
    for name in [*pictures.split(), "confusion_matrix.png", "args.toml", "weights/best.pt", "weights/last.pt"]:
        assert (finished / name).stat().st_size > 0, name
    assert list(finished.glob("events.out.tfevents.*"))
    found = rows(finished / run.RESULTS)
    assert [row["epoch"] for row in found] == ["1", "2"]
    expected = ["epoch", "step", *LOSSES, "loss", "lr", "mAP50", "mAP50-95", "img/s", "data-wait %"]
    assert list(found[0]) == expected
    assert all(math.isfinite(float(value)) for row in found for value in row.values())
    assert read_toml(YOLOv2Config, finished / "args.toml")["shards"] == str(twenty)


def test_checkpoints_are_the_newest_few_and_load_as_weights_only(finished: Path) -> None:
    assert [file.name for file in sorted((finished / "weights").glob("step-*.pt"))] == [
        f"step-{step:07d}.pt" for step in (4, 5, 6, 8, 10)
    ][-4:]
    state = torch.load(finished / "weights/last.pt", weights_only=True)
    assert state["train"]["progress"]["step"] == 10 and state["train"]["progress"]["epoch"] == 2
    detector, best = checkpoint.load_detector(finished / "weights/best.pt")
    assert "train" not in best and not detector.training
    assert best["classes"] == list(tiny.CLASSES)


@pytest.mark.parametrize("at", [3, 5, 8])
def test_a_run_that_died_goes_on_exactly(
    finished: Path, twenty: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    """It dies after step `at`; the newest checkpoint is of an earlier step, in mid-epoch or between epochs."""
    update, count = optim.update_average, []

    def dying(*arguments: Any) -> None:
        count.append(1)
        if len(count) == at + 1:
            raise ValueError("killed")
        update(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(optim, "update_average", dying)
        with pytest.raises(ValueError, match="killed"):
            engine.train(small(twenty, tmp_path, name="whole", save_steps=2), "yolov2")
    folder = tmp_path / "yolov2/whole"
    assert len(steps(folder)) == at
    go_on(folder)
    assert steps(folder) == steps(finished)
    ours, theirs = (torch.load(f / "weights/last.pt", weights_only=True) for f in (folder, finished))
    for name, tensor in theirs["model"].items():
        assert torch.equal(tensor, ours["model"][name]), name


def test_a_run_that_is_killed_while_a_checkpoint_is_written_goes_on_exactly_from_the_one_before(
    finished: Path, twenty: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Steps are taken meanwhile. What a kill leaves is what the folder holds then."""
    fsync, files, folder = os.fsync, itertools.count(1), tmp_path / "yolov2/whole"

    def slow(handle: int) -> None:
        if threading.current_thread() is not threading.main_thread() and next(files) == 3:  # a file and its folder each
            assert [file.name for file in folder.glob("weights/*.tmp")] == ["step-0000004.pt.tmp"]
            until = time.monotonic() + 60
            while len(steps(folder)) < 5 and time.monotonic() < until:
                time.sleep(0.01)
            shutil.copytree(folder, tmp_path / "killed")
            (tmp_path / "killed/weights/step-0000004.pt.tmp").write_bytes(b"half")
        fsync(handle)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", slow)
        engine.train(small(twenty, tmp_path, name="whole", save_steps=2), "yolov2")
    killed = tmp_path / "killed"
    assert len(steps(killed)) == 5 and saved(killed) == 2
    go_on(killed)
    for whole in (folder, killed):
        assert steps(whole) == steps(finished) and not list(whole.glob("weights/*.tmp"))
        ours, theirs = (torch.load(f / "weights/last.pt", weights_only=True)["model"] for f in (whole, finished))
        assert all(torch.equal(tensor, ours[name]) for name, tensor in theirs.items())


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize("at", [4, 10])
def test_a_checkpoint_that_cannot_be_written_ends_the_run(
    finished: Path,
    twenty: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    at: int,
) -> None:
    """At the next step or checkpoint, or at the end, with the checkpoint before it in place."""
    folder, save = tmp_path / "yolov2/whole", run.save

    def full(folder: Path, state: Any, step: int, keep: int) -> None:
        if step == at:
            (folder / f"weights/step-{at:07d}.pt.tmp").symlink_to("/dev/full")
        save(folder, state, step, keep)

    with monkeypatch.context() as patch, pytest.raises(ConfigError) as raised:
        patch.setattr(run, "save", full)
        engine.train(small(twenty, tmp_path, name="whole", save_steps=2), "yolov2")
    assert f"step-{at:07d}.pt: cannot be written: No space left on device; it needs about" in str(raised.value)
    assert "Results saved" not in capsys.readouterr().out
    assert saved(folder) == at - 2 and len(steps(folder)) in (at, at + 1)
    go_on(folder)
    assert steps(folder) == steps(finished)


def test_an_error_of_a_checkpoint_is_told_beside_the_one_that_ends_the_run(
    twenty: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The thread that writes has ended when the run has."""
    ended, updates = threading.Event(), itertools.count(1)

    def late(*_: Any) -> None:
        ended.wait(60)
        raise ConfigError("a.pt: cannot be written")

    def dying(*_: Any) -> None:
        if next(updates) == 3:
            ended.set()
            raise ValueError("killed")

    monkeypatch.setattr(checkpoint, "save", late)
    monkeypatch.setattr(optim, "update_average", dying)
    with pytest.raises(ValueError, match="killed"):
        engine.train(small(twenty, tmp_path, save_steps=2), "yolov2")
    assert "error: a.pt: cannot be written\n" in capsys.readouterr().err
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("checkpoint")]


@pytest.mark.parametrize("by", ["resume", "name"])
def test_a_run_that_died_before_its_first_checkpoint_starts_over(
    finished: Path,
    twenty: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    by: str,
) -> None:
    def dying(*_: Any) -> None:
        raise ValueError("killed")

    folder = tmp_path / "yolov2/whole"
    for _ in range(2):
        with monkeypatch.context() as patch, pytest.raises(ValueError, match="killed"):
            patch.setattr(checkpoint, "save", dying)
            engine.train(small(twenty, tmp_path, name="whole", save_steps=2), "yolov2")
        assert len(steps(folder)) in (3, 4) and not list((folder / "weights").iterdir())
    capsys.readouterr()
    if by == "resume":
        done = CliRunner().invoke(trainer("yolov2", YOLOv2Config), ["--resume", str(folder)])
        assert done.exit_code == 0, done.output
        output = done.output
    else:
        assert engine.train(small(twenty, tmp_path, name="whole", save_steps=2), "yolov2") == folder
        output = capsys.readouterr().out
    assert f"{folder}: has no checkpoint; the run starts over\n" in output
    assert steps(folder) == steps(finished)
    with pytest.raises(ConfigError, match="that run exists"):
        engine.train(small(twenty, tmp_path, name="whole"), "yolov2")


def test_a_folder_without_arguments_is_not_taken_for_a_run(twenty: Path, tmp_path: Path) -> None:
    (tmp_path / "yolov2/mine/weights").mkdir(parents=True)
    (tmp_path / "yolov2/mine/steps.csv").write_text("years of work")
    with pytest.raises(ConfigError, match="that run exists"):
        engine.train(small(twenty, tmp_path, name="mine"), "yolov2")
    assert (tmp_path / "yolov2/mine/steps.csv").read_text() == "years of work"


@pytest.mark.parametrize("end", ["done", "stopped", "loss", "error"])
def test_nothing_is_left_behind(
    twenty: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, opened_boards: list[Any], end: str
) -> None:
    """However a run ends: the board is closed, the trace is written, and signals do what they did before."""
    given = config("yolov2", twenty, tmp_path, val_split="", logger="quiet", profile=True, batch_size=3, name="end")
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    if end == "stopped":
        count = itertools.count(1)
        monkeypatch.setattr(distributed.Stop, "everywhere", lambda self, device: next(count) == 4)
    if end == "loss":
        given = replace(given, lr=1e30, clip=0.0, warmup_steps=0)
    if end == "error":
        monkeypatch.setattr(optim, "update_average", lambda *_: 1 / 0)
    expected = {"done": None, "stopped": StoppedError, "loss": DataError, "error": ZeroDivisionError}[end]
    with pytest.raises(expected) if expected else nullcontext():
        engine.train(given, "yolov2")
    assert [board.closed for board in opened_boards] == [1]
    assert {number: signal.getsignal(number) for number in handlers} == handlers
    assert torch.autograd.profiler._is_profiler_enabled is False
    if end == "stopped":
        assert json.loads((tmp_path / "yolov2/end/trace.json").read_text())["traceEvents"]


def saved(folder: Path) -> int:
    """The step of the checkpoint that a run is resumed from."""
    state = run.last(folder)
    return state["train"]["progress"]["step"] if state else -1


def go_on(folder: Path) -> None:
    engine.train(YOLOv2Config(**read_toml(YOLOv2Config, folder / "args.toml")), "yolov2", resume=folder)


@pytest.mark.parametrize("at", [2, 5])
def test_a_run_that_was_stopped_goes_on_exactly(
    finished: Path, twenty: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    """In the middle of an epoch, and after its last step but before it is evaluated."""
    asked: list[int] = []

    def stop(self: distributed.Stop, device: torch.device) -> bool:
        asked.append(1)
        return len(asked) == at

    with monkeypatch.context() as patch:
        patch.setattr(distributed.Stop, "everywhere", stop)
        with pytest.raises(Exception, match=f"stopped after step {at}; go on with --resume"):
            engine.train(small(twenty, tmp_path, name="whole", save_steps=2), "yolov2")
    go_on(tmp_path / "yolov2/whole")
    assert steps(tmp_path / "yolov2/whole") == steps(finished)
    keys = ("epoch", "step", "loss", "lr", "mAP50", "mAP50-95")
    ours, theirs = (rows(folder / run.RESULTS) for folder in (tmp_path / "yolov2/whole", finished))
    assert [[row[key] for key in keys] for row in ours] == [[row[key] for key in keys] for row in theirs]


@pytest.mark.slow
def test_a_run_of_an_ssd_with_fitted_priors_goes_on_exactly(
    twenty: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = {"batch_size": 10, "val_split": "", "save_steps": 1}
    whole = engine.train(config("ssd", twenty, tmp_path, name="whole", **given), "ssd")
    with monkeypatch.context() as patch:
        patch.setattr(distributed.Stop, "everywhere", lambda *_: True)
        with pytest.raises(StoppedError, match="stopped after step 1"):
            engine.train(config("ssd", twenty, tmp_path, name="stopped", **given), "ssd")
    folder = tmp_path / "ssd/stopped"
    engine.train(SSDConfig(**read_toml(SSDConfig, folder / "args.toml")), "ssd", resume=folder)
    assert steps(folder) == steps(whole) and len(steps(whole)) == 2


def test_a_finished_run_goes_on_for_more_epochs_exactly(
    finished: Path, twenty: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where the learning rate does not depend on their number."""
    folder = engine.train(small(twenty, tmp_path, name="whole", epochs=1, save_steps=2), "yolov2")
    done = CliRunner().invoke(trainer("yolov2", YOLOv2Config), ["--resume", str(folder), "--epochs", "2"])
    assert done.exit_code == 0, done.output
    assert steps(folder) == steps(finished)
    ours, theirs = (torch.load(one / "weights/last.pt", weights_only=True)["model"] for one in (folder, finished))
    assert all(torch.equal(tensor, ours[name]) for name, tensor in theirs.items())
    assert read_toml(YOLOv2Config, folder / "args.toml")["epochs"] == 2
    for refused, why in (["--epochs", "1"], "has done 2"), (["--epochs", "3", "--shards", "gone"], "does not exist"):
        done = CliRunner().invoke(trainer("yolov2", YOLOv2Config), ["--resume", str(folder), *refused])
        assert done.exit_code == 2 and why in done.stderr
        assert read_toml(YOLOv2Config, folder / "args.toml")["epochs"] == 2
    cosine = engine.train(small(twenty, tmp_path, name="cosine", epochs=1, schedule="cosine"), "yolov2")
    done = CliRunner().invoke(trainer("yolov2", YOLOv2Config), ["--resume", str(cosine), "--epochs", "2"])
    assert done.exit_code == 2 and len(steps(cosine)) == 5
    assert f"train anew, by --config {cosine}/args.toml --epochs 2 --name NEW" in done.stderr


@pytest.mark.parametrize(("before", "after"), [("fp16", "none"), ("none", "fp16")])
def test_a_run_goes_on_in_another_precision(
    twenty: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, before: str, after: str
) -> None:
    """Such as one in fp16, of a CUDA device, on a CPU, where fp16 is refused."""
    with monkeypatch.context() as patch, pytest.raises(StoppedError):
        patch.setattr(precision, "resolved", lambda amp, *_: (amp, ""))
        patch.setattr(distributed.Stop, "everywhere", lambda *_: True)
        engine.train(small(twenty, tmp_path, name="half", amp=before), "yolov2")
    command, folder = trainer("yolov2", YOLOv2Config), tmp_path / "yolov2/half"
    if before == "fp16":
        refused = CliRunner().invoke(command, ["--resume", str(folder), "--device", "cpu"])
        assert refused.exit_code == 2 and "amp is 'fp16' on cpu" in refused.stderr and "--amp auto" in refused.stderr
    monkeypatch.setattr(precision, "resolved", lambda amp, *_: (amp, ""))
    done = CliRunner().invoke(command, ["--resume", str(folder), "--amp", after])
    assert done.exit_code == 0, done.output
    assert len(steps(folder)) == 10 and read_toml(YOLOv2Config, folder / "args.toml")["amp"] == after


@pytest.mark.parametrize("amp", ["bf16", "fp16"])
def test_half_precision_trains(twenty: Path, tmp_path: Path, amp: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "resolved", lambda *_: (amp, ""))  # refuses fp16 on a CPU
    folder = engine.train(small(twenty, tmp_path, amp=amp, epochs=1, val_split=""), "yolov2")
    found = steps(folder)
    assert len(found) == 5 and all(math.isfinite(float(row["loss"])) for row in found)
    state = torch.load(folder / "weights/last.pt", weights_only=True)["train"]["model"]
    assert all(value.dtype != torch.float16 and torch.isfinite(value).all() for value in state.values())


def test_a_loss_that_is_not_finite_stops_the_run_and_names_the_records(twenty: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"step \d+: the loss is not finite .*records \[\d+.*split 'train'"):
        engine.train(small(twenty, tmp_path, lr=1e30, clip=0.0, warmup_steps=0), "yolov2")


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
        RuntimeError("[enforce fail at alloc_cpu.cpp:119] err == 0. DefaultCPUAllocator: can't allocate memory"),
        MemoryError(),
    ],
)
@pytest.mark.parametrize(("budget", "smaller"), [(0, "--batch-size 2"), (4 * 64 * 64, "--budget 8192")])
def test_too_little_memory_says_what_to_try(
    twenty: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, budget: int, smaller: str
) -> None:
    def forward(self: YOLOv2, images: Tensor) -> Tensor:
        raise error

    monkeypatch.setattr(YOLOv2, "forward", forward)
    with pytest.raises(ConfigError, match=rf"step 1: out of memory with 4 images of 64x64 and .* try {smaller}, "):
        engine.train(config("yolov2", twenty, tmp_path, val_split="", logger="quiet", budget=budget), "yolov2")


def test_an_error_of_ours_is_no_lack_of_memory(twenty: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def forward(self: YOLOv2, images: Tensor) -> Tensor:
        raise RuntimeError("size mismatch")

    monkeypatch.setattr(YOLOv2, "forward", forward)
    with pytest.raises(RuntimeError, match="size mismatch"):
        engine.train(config("yolov2", twenty, tmp_path, val_split="", logger="quiet"), "yolov2")


@pytest.mark.parametrize("died", [False, True])
def test_patience_ends_a_run_that_gets_no_better(
    twenty: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, died: bool
) -> None:
    """Scores rise once and then stay; a run that died in between counts on where it was."""
    scores = [0.1, 0.3, 0.3, 0.2, 0.9, 0.9]
    drawn: list[int] = []

    def score(model: Any, loader: Any, folder: Path | None) -> dict[str, float]:
        epoch = len(rows(tmp_path / "yolov2/p" / run.RESULTS)) if (tmp_path / "yolov2/p" / run.RESULTS).exists() else 0
        if died and epoch == 3 and not drawn:
            drawn.append(-1)
            raise ValueError("killed")
        drawn.extend([epoch] if folder else [])
        return {"AP": scores[epoch], "AP50": 0.5}

    monkeypatch.setattr(engine, "score", score)
    given = config("yolov2", twenty, tmp_path, epochs=6, patience=2, name="p", batch_size=20, logger="quiet")
    folder = tmp_path / "yolov2/p"
    if died:
        with pytest.raises(ValueError, match="killed"):
            engine.train(given, "yolov2")
        go_on(folder)
    else:
        engine.train(given, "yolov2")
    assert [float(row["mAP50-95"]) for row in rows(folder / run.RESULTS)] == scores[:4]
    assert [epoch for epoch in drawn if epoch >= 0] == [3], "the last evaluation's curves are there"
    best = torch.load(folder / "weights/last.pt", weights_only=True)["train"]["progress"]
    assert best["best"] == 0.3 and best["stale"] == 2
    go_on(folder)
    assert len(rows(folder / run.RESULTS)) == 4, "it has ended"


@pytest.fixture
def opened_boards() -> list[Any]:
    return []


@pytest.fixture(autouse=True)
def quiet(monkeypatch: pytest.MonkeyPatch, opened_boards: list[Any]) -> None:
    """A logger that shows nothing, as `logger="quiet"`: TensorBoard's costs more than the steps of these runs."""
    from trainers import config as configuration

    class Quiet:
        closed = 0

        def __init__(self) -> None:
            opened_boards.append(self)

        def add_scalar(self, name: str, value: float, step: int) -> None: ...

        def add_image(self, name: str, pixels: Any, step: int) -> None: ...

        def close(self) -> None:
            self.closed += 1

    check, opened = configuration.check_logger, log.open_board
    monkeypatch.setattr(configuration, "check_logger", lambda name: None if name == "quiet" else check(name))
    monkeypatch.setattr(
        log, "open_board", lambda given, *rest: Quiet() if given.logger == "quiet" else opened(given, *rest)
    )


def test_epochs_of_unequal_length(twenty: Path, tmp_path: Path) -> None:
    """Images of rare classes in several shapes, as many a step as a budget allows: epochs of unlike length.

    Milestones, what is saved in between and a run that goes on, within an epoch or at its end, know it.
    """
    given = {"sampling": "repeat-factor", "repeat_threshold": 1.5, "buckets": "64,96,96,64", "budget": 26000}
    given |= {"logger": "quiet", "val_split": "", "epochs": 3, "milestones": [1, 2], "warmup_steps": 0}
    given |= {"multiscale": [], "save_steps": 7, "keep": 99}
    folder = engine.train(small(twenty, tmp_path, **given), "yolov2")
    found = steps(folder)
    per_epoch = [[row["epoch"] for row in found].count(str(epoch)) for epoch in (1, 2, 3)]
    assert per_epoch == [7, 8, 7], "this test needs another threshold"
    assert [row["step"] for row in found] == [str(step) for step in range(1, sum(per_epoch) + 1)]
    rates = [1e-3, 1e-4, 1e-5]
    assert [float(row["lr"]) for row in found] == pytest.approx(
        [rate for rate, count in zip(rates, per_epoch, strict=True) for _ in range(count)]
    )
    for step in (14, 15):
        shutil.copytree(folder, tmp_path / str(step))
        (tmp_path / str(step) / "weights/last.pt").unlink()
        shutil.copy(folder / f"weights/step-{step:07d}.pt", tmp_path / str(step) / "weights/last.pt")
        go_on(tmp_path / str(step))
        assert steps(tmp_path / str(step)) == found


@pytest.fixture
def damaged(tmp_path: Path) -> Path:
    """The tiny set, whose second image is cut short in both splits."""
    folder = tiny.shards(tmp_path / "damaged")
    for split in ("train", "val"):
        tiny.damage(folder / split / "00000", 1)
    return folder


@pytest.mark.filterwarnings("ignore:skipped")
def test_damaged_images_are_an_error_or_told_of_and_counted(
    damaged: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    given = {"multiscale": [], "logger": "quiet", "augment": "flip"}
    with pytest.raises(DataError, match=r"00000 record 1 \(sub dir/b.jpg\): the image's bytes are not those"):
        engine.train(small(damaged, tmp_path / "raise", **given), "yolov2")
    engine.train(small(damaged, tmp_path / "skip", **given, on_error="skip"), "yolov2")
    said = capsys.readouterr().out
    assert said.count("damaged images skipped so far: ") == said.count("damaged images skipped so far: 2\n") == 2
    for split in ("train", "val"):
        assert said.count(f"\n  {damaged / split}/00000 record 1 (sub dir/b.jpg): the image's bytes are not those") == 2
    monkeypatch.setattr("trainers.training.log.LISTED", 1)
    engine.train(small(damaged, tmp_path / "few", **given, on_error="skip", epochs=1), "yolov2")
    assert "CRC-32 differs)\n  and 1 more\nResults saved to " in capsys.readouterr().out


def test_a_trace_of_a_few_steps(twenty: Path, tmp_path: Path) -> None:
    given = config("yolov2", twenty, tmp_path, profile=True, batch_size=3, val_split="", logger="quiet")
    folder = engine.train(given, "yolov2")
    events = json.loads((folder / "trace.json").read_text())["traceEvents"]
    assert {"ProfilerStep#3", "ProfilerStep#4", "ProfilerStep#5"} <= {event.get("name") for event in events}
    assert any("conv" in event.get("name", "") for event in events)


def test_a_run_on_a_view_of_the_shards(twenty: Path, tmp_path: Path) -> None:
    chosen = {"classes": ["dog", "cat"], "area": [16.0, math.inf], "empty": "drop"}
    given = small(twenty, tmp_path, name="view", epochs=1, eval_every=1, **chosen)
    folder = engine.train(given, "yolov2")
    _, best = checkpoint.load_detector(folder / "weights/best.pt")
    assert best["classes"] == chosen["classes"] and best["class_ids"] == [tiny.CLASS_IDS[1], tiny.CLASS_IDS[0]]
    again = read_toml(YOLOv2Config, folder / "args.toml")
    assert {key: again[key] for key in chosen} == chosen and YOLOv2Config(**again).view() == given.view()
    for wrong, said in (({"classes": ["cow"]}, "unknown class 'cow'"), ({"area": [3.0]}, "area is")):
        with pytest.raises(ConfigError, match=said):
            engine.train(small(twenty, tmp_path, **wrong), "yolov2")


def command(*flags: object, at: int = 0, name: str = "", awaited: Path = Path()) -> list[str]:
    """Return the words of a command; at a step, it sends itself the signal of that name, once a file exists."""
    start = ["tests.trainers.training.signalled", at, name, awaited] if at else ["trainers.yolov2"]
    return [sys.executable, "-m", *map(str, start), *map(str, flags)]


@pytest.mark.slow
def test_killed_twice_and_resumed_the_losses_are_the_same(twenty: Path, finished: Path, tmp_path: Path) -> None:
    """SIGKILL, whenever it comes, loses nothing but time; until then, the run cannot be resumed by another process."""
    write_toml(small(twenty, tmp_path, name="whole", save_steps=2), tmp_path / "config.toml")
    folder = tmp_path / "yolov2/whole"
    flags: list[object] = ["--config", tmp_path / "config.toml"]
    for at in (4, 8):
        saved_before = folder / f"weights/step-{at - 2:07d}.pt"
        trained = subprocess.Popen(
            command(*flags, at=at, name="SIGSTOP", awaited=saved_before), stdout=subprocess.DEVNULL
        )
        assert os.WIFSTOPPED(os.waitpid(trained.pid, os.WUNTRACED)[1])
        with pytest.raises(ConfigError, match=f"{folder}: another process trains this run; wait for it, or end it"):
            go_on(folder)
        trained.send_signal(signal.SIGKILL)
        trained.wait()
        assert len(steps(folder)) == at - 1 and saved(folder) == at - 2
        flags = ["--resume", folder]
    subprocess.run(command(*flags), check=True, stdout=subprocess.DEVNULL, timeout=200)
    assert steps(folder) == steps(finished)


@pytest.mark.slow
def test_ctrl_c_saves_and_says_how_to_go_on(twenty: Path, finished: Path, tmp_path: Path) -> None:
    write_toml(small(twenty, tmp_path, name="whole"), tmp_path / "config.toml")
    folder = tmp_path / "yolov2/whole"
    pressed = command("--config", tmp_path / "config.toml", at=3, name="SIGINT", awaited=folder / run.STEPS)
    trained = subprocess.run(pressed, stderr=subprocess.PIPE, text=True, timeout=200)
    assert trained.returncode == 130 and f"go on with --resume {folder}" in trained.stderr
    assert "Traceback" not in trained.stderr and saved(folder) == 3
    subprocess.run(command("--resume", folder), check=True, stdout=subprocess.DEVNULL, timeout=200)
    assert steps(folder) == steps(finished)
