"""Checkpoints at a URL: what a fresh machine continues from, whatever happens to the machine or the store before."""

from __future__ import annotations

import itertools
import os
import shutil
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner

from dataforge.errors import ConfigError, StoppedError
from tests.cloud.double import BUCKET, SECRET, Double
from tests.trainers.runs import small, steps
from tests.trainers.training.test_engine import go_on
from trainers import distributed
from trainers.command import command as trainer
from trainers.training import engine, run
from trainers.training.objects import Objects
from trainers.training.remote import OWNER, Remote
from trainers.yolov2 import YOLOv2Config

numbers = itertools.count()


@pytest.fixture(params=["memory", "file"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return f"memory://bucket/run{next(numbers)}" if request.param == "memory" else f"file://{tmp_path}/objects"


@pytest.fixture
def memory() -> str:
    return f"memory://bucket/run{next(numbers)}"


def test_a_fresh_machine_takes_the_steps_of_an_uninterrupted_run(
    finished: Path, twenty: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, memory: str
) -> None:
    """Lost in an epoch after an evaluation, and continued by the same job of torchrun; lost again at the end."""
    given = {"name": "whole", "save_steps": 2, "keep": 2, "checkpoints": memory}
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "night1")
    count = itertools.count(1)
    with monkeypatch.context() as patch, pytest.raises(StoppedError):
        patch.setattr(distributed.Stop, "everywhere", lambda *_: next(count) == 7)
        engine.train(small(twenty, tmp_path, **given), "yolov2")
    names = Objects(memory).names()
    assert sorted(name for name in names if name.startswith("step")) == ["step-0000006.json", "step-0000007.json"]
    assert len(names) == 1 + 2 + 3, "the owner, two checkpoints, and their files: two and one best"
    shutil.rmtree(tmp_path / "yolov2/whole")
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "night2")
    with pytest.raises(ConfigError, match="holds the run of"):
        engine.train(small(twenty, tmp_path, **given), "yolov2")
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "night1")
    folder = engine.train(small(twenty, tmp_path, **given), "yolov2")
    assert steps(folder) == steps(finished)
    ours, theirs = (torch.load(one / "weights/last.pt", weights_only=True) for one in (folder, finished))
    assert all(torch.equal(tensor, ours["model"][name]) for name, tensor in theirs["model"].items())
    fresh = tmp_path / "fresh"
    done = CliRunner().invoke(trainer("yolov2", YOLOv2Config), ["--resume", str(fresh), "--checkpoints", memory])
    assert done.exit_code == 0 and f"{memory}: fetched the checkpoint of step 10\n" in done.output
    for name in ("weights/best.pt", "weights/last.pt", "weights/step-0000010.pt", run.RESULTS, run.STEPS):
        assert (fresh / name).read_bytes() == (folder / name).read_bytes(), name


def state(folder: Path, step: int) -> Path:
    """Write what a run's folder holds after a step."""
    (folder / "weights").mkdir(parents=True, exist_ok=True)
    (folder / f"weights/step-{step:07d}.pt").write_bytes(b"weights %d" % step)
    run.point(folder / f"weights/step-{step:07d}.pt")
    (folder / run.STEPS).write_text(f"step\n{step}\n")
    return folder


def opened(url: str, folder: Path | None = None, keep: int = 4) -> Remote:
    return Remote(YOLOv2Config(shards="s", checkpoints=url, keep=keep), "yolov2", folder)


def sent(url: str, folder: Path, *saved: int) -> None:
    with opened(url) as remote:
        remote.begin(folder)
        for step in saved:
            remote.save(state(folder, step), step)
            remote._waiting.result()  # type: ignore[union-attr]


def fetched(url: str, folder: Path) -> str:
    """Fetch to a folder; return the weights there."""
    (folder / "weights").mkdir(parents=True)
    opened(url, folder)
    file = run.newest(folder)
    if file is None:
        return ""
    assert (folder / run.STEPS).read_text().split()[1] == file.read_text().split()[1], "parts of two checkpoints"
    return file.read_text()


@pytest.mark.parametrize("lacks", ["step-0000002.json", "weights"])
def test_what_was_not_sent_completely_is_not_picked_up(url: str, tmp_path: Path, lacks: str) -> None:
    """Killed before the upload, in it, or before its end; then what is left is removed."""
    first = tmp_path / "first"
    (first / "weights").mkdir(parents=True)
    sent(url, first, 1)
    before = set(Objects(url).names())
    with opened(url, first) as remote:
        remote.save(state(first, 2), 2)
    new = set(Objects(url).names()) - before
    assert len(new) == 2
    Objects(url).delete([lacks] if lacks in new else [name for name in new if name.endswith(".pt")])
    assert fetched(url, tmp_path / "other") == "weights 1"
    assert set(Objects(url).names()) - before <= {"step-0000002.json"}


def test_a_fetch_that_was_killed_is_made_again(memory: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At any of its writes; the folder then holds nothing, or all of one checkpoint."""
    (tmp_path / "first/weights").mkdir(parents=True)
    sent(memory, tmp_path / "first", 1)
    replace, other = os.replace, tmp_path / "other"
    (other / "weights").mkdir(parents=True)
    for most in itertools.count():
        left = itertools.repeat(None, most)

        def killed(*paths: Any) -> None:
            next(left)  # noqa: B023
            replace(*paths)

        with monkeypatch.context() as patch:
            patch.setattr(os, "replace", killed)
            try:
                opened(memory, other)
                break
            except StopIteration:
                assert run.newest(other) is None or (other / run.STEPS).read_text() == "step\n1\n"
    assert most == 3 and run.newest(other).read_text() == "weights 1"  # type: ignore[union-attr]


@pytest.mark.parametrize("kind", ["weights", "rows", "owner"])
def test_damage_is_an_error_that_names_the_object(url: str, tmp_path: Path, kind: str) -> None:
    (tmp_path / "first/weights").mkdir(parents=True)
    sent(url, tmp_path / "first", 1)
    objects = Objects(url)
    [weights] = [name for name in objects.names() if name.endswith(".pt")]
    name = {"weights": weights, "rows": "step-0000001.json", "owner": OWNER}[kind]
    objects.put(name, b"weights 2" if kind == "weights" else b'{"digest": "00", "content": {"run": ""}}')
    with pytest.raises(ConfigError, match=f"{objects.path / name}: is damaged: "):
        fetched(url, tmp_path / "other")
    assert run.newest(tmp_path / "other") is None


def test_another_run_at_the_url_is_refused_before_anything_is_written(url: str, twenty: Path, tmp_path: Path) -> None:
    first, other = tmp_path / "first", tmp_path / "other"
    for folder in (first, other):
        (folder / "weights").mkdir(parents=True)
    sent(url, first, 1)
    before = sorted(Objects(url).names())
    with pytest.raises(ConfigError, match=r"holds the run of .* since .*; choose another --checkpoints, or continue"):
        engine.train(small(twenty, tmp_path / "runs", checkpoints=url), "yolov2")
    assert not (tmp_path / "runs").exists()
    with pytest.raises(ConfigError, match="holds the run of"):
        opened(url, state(other, 3))
    done = CliRunner().invoke(trainer("ssd", YOLOv2Config), ["--resume", str(tmp_path / "new"), "--checkpoints", url])
    assert done.exit_code == 2 and "holds a run of yolov2" in done.output and not (tmp_path / "new").exists()
    done = CliRunner().invoke(
        trainer("ssd", YOLOv2Config), ["--resume", str(tmp_path / "new"), "--checkpoints", f"{url}2"]
    )
    assert done.exit_code == 2 and "holds no run" in done.output and not (tmp_path / "new").exists()
    assert sorted(Objects(url).names()) == before
    Objects(url).delete([OWNER])
    with pytest.raises(ConfigError, match=r"holds checkpoints without owner\.json"):
        opened(url)


def test_a_run_whose_first_reply_is_lost_is_its_own(s3: Double) -> None:
    url, turns = f"s3://{BUCKET}/run{next(numbers)}", itertools.count()
    s3.fault = lambda method, key: "lost" if key.endswith(OWNER) and method == "PUT" and next(turns) == 0 else None
    with opened(url):
        assert next(turns) == 2, "sent twice"
    with pytest.raises(ConfigError, match="holds the run of"):
        opened(url)


def test_a_process_whose_run_was_resumed_elsewhere_sends_nothing_more(
    memory: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = tmp_path / "first"
    (first / "weights").mkdir(parents=True)
    with opened(memory) as remote:
        remote.begin(first)
        remote.save(state(first, 1), 1)
        remote._waiting.result()  # type: ignore[union-attr]
        assert fetched(memory, tmp_path / "other") == "weights 1"
        remote.save(state(first, 2), 2)
    assert "the checkpoint of step 2 was not sent: another process has resumed this run" in capsys.readouterr().err
    assert "step-0000002.json" not in Objects(memory).names()


def test_a_newer_checkpoint_takes_the_place_of_one_that_waits(
    memory: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Saving does not wait, however slow the store is, and files that are removed meanwhile are still sent."""
    folder, ready, put = tmp_path, threading.Event(), Objects.put

    def slow(self: Objects, name: str, *args: Any) -> None:
        assert name == OWNER or ready.wait(60)
        put(self, name, *args)

    monkeypatch.setattr(Objects, "put", slow)
    (folder / "weights").mkdir()
    with opened(memory) as remote:
        remote.begin(folder)
        for step in (1, 2, 3, 4):
            remote.save(state(folder, step), step)
            (folder / f"weights/step-{step:07d}.pt").unlink()
            while step == 1 and not remote._waiting.running():  # type: ignore[union-attr]
                pass
        ready.set()
    assert [name for name in sorted(Objects(memory).names()) if name.startswith("step")] == [
        "step-0000001.json",
        "step-0000004.json",
    ]


def test_the_folder_is_followed_where_it_is_newer(memory: str, tmp_path: Path) -> None:
    """An upload that failed at a run's end is made good by --resume."""
    first = tmp_path / "first"
    (first / "weights").mkdir(parents=True)
    sent(memory, first, 1)
    state(first, 2)
    with opened(memory, first) as remote:
        assert (first / "weights/last.pt").read_text() == "weights 2"
        remote.begin(first)
    assert fetched(memory, tmp_path / "other") == "weights 2"


def test_a_wrong_place_is_one_line_before_the_first_step(
    s3: Double,
    twenty: Path,
    tmp_path: Path,
) -> None:
    cases = {
        "ftp://bucket/run": "ftp://bucket/run: expected a folder, or s3://bucket/folder",
        "s3://other/run": "s3://other/run: 404 Not Found, NoSuchBucket",
        f"s3://{BUCKET}/denied": f"s3://{BUCKET}/denied/owner.json: 400 Bad Request, ExpiredToken",
    }
    for url, text in cases.items():
        s3.fault = lambda method, key: "expired" if "denied" in key else None
        with pytest.raises(ConfigError, match=text) as error:
            engine.train(small(twenty, tmp_path / "runs", checkpoints=url), "yolov2")
        assert "\n" not in str(error.value) and SECRET not in str(error.value)
        assert not (tmp_path / "runs").exists()


def test_a_store_that_fails_does_not_end_training(
    s3: Double,
    twenty: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Some requests are answered after a while; none that would complete the checkpoint of the end."""
    url, turns = f"s3://{BUCKET}/run{next(numbers)}", itertools.count()

    def fault(method: str, key: str) -> str | None:
        if method == "PUT" and "step-0000005" in key:
            return "expired"
        return "503" if next(turns) % 3 == 0 else None

    s3.fault = fault
    given = small(twenty, tmp_path, name="whole", save_steps=2, checkpoints=url, epochs=1, val_split="")
    folder = engine.train(given, "yolov2")
    error = capsys.readouterr().err
    assert f"{url}: the checkpoint of step 5 was not sent: 400 Bad Request" in error and SECRET not in error
    assert len(steps(folder)) == 5 and "step-0000005.json" not in Objects(url).names()
    s3.fault = None
    go_on(folder)  # only sends what is missing
    assert "fetched" not in capsys.readouterr().out
    assert "step-0000005.json" in Objects(url).names()
