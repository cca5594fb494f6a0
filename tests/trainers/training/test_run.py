"""The run's folder and its checkpoints when the disk is full, the process is killed, or the files are altered."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest
import torch

from dataforge.errors import ConfigError
from tests.fuzz.mutate import mutate
from trainers import checkpoint
from trainers.training import run
from trainers.yolov2 import YOLOv2Config


def state(value: float = 0.0) -> dict:
    model = {"weight": torch.full((64, 33), value), "count": torch.tensor(3), "empty": torch.zeros(0, 4)}
    facts = {"detector": "yolov2", "config": {}, "classes": ["cat", "dog"], "class_ids": [1, 2], "size": (32, 64)}
    return {**facts, "fit": "letterbox", "model": model}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "weights").mkdir()
    return tmp_path


def value(folder: Path) -> float:
    file = run.newest(folder)
    assert file is not None
    return float(checkpoint.load(file)["model"]["weight"][0, 0])


def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    checkpoint.save(tmp_path / "a.pt", state(2.0))
    loaded = checkpoint.load(tmp_path / "a.pt")
    assert loaded.keys() == state().keys() and loaded["size"] == (32, 64)
    assert all(torch.equal(loaded["model"][name], tensor) for name, tensor in state(2.0)["model"].items())


def test_a_copy_is_the_state_at_its_time(tmp_path: Path) -> None:
    """With the file that it would have been: tensors that are one are stored once, in the same form."""
    layer = torch.nn.Conv2d(64, 64, 3).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    whole = state() | {"model": layer.state_dict(), "train": {"model": layer.state_dict(), "steps": [1, (2, None)]}}
    checkpoint.save(tmp_path / "a.pt", whole)
    copied = checkpoint.copied(whole)
    torch.nn.init.zeros_(layer.weight)
    whole["train"]["steps"].append(3)
    checkpoint.save(tmp_path / "b.pt", copied)
    before, after = (torch.load(tmp_path / name, weights_only=True) for name in ("a.pt", "b.pt"))
    assert checkpoint.digest(after) == checkpoint.digest(before) == before["digest"]
    assert after["train"]["steps"] == [1, (2, None)] and after["model"]._metadata == before["model"]._metadata
    assert after["model"]["weight"].stride() == before["model"]["weight"].stride()
    assert (tmp_path / "b.pt").stat().st_size < 1.5 * layer.weight.nbytes


@pytest.mark.parametrize(
    "change",
    [{"classes": ["dog", "cat"]}, {"class_ids": [2, 1]}, {"size": (64, 32)}, {"model": state(1.0)["model"]}],
)
def test_an_edited_checkpoint_is_refused(tmp_path: Path, change: dict) -> None:
    checkpoint.save(tmp_path / "a.pt", state())
    torch.save(torch.load(tmp_path / "a.pt", weights_only=True) | change, tmp_path / "a.pt")
    with pytest.raises(ConfigError, match=r"a\.pt: is damaged or was edited"):
        checkpoint.load(tmp_path / "a.pt")


def test_a_file_that_is_no_checkpoint_is_not_advised_to_be_run(tmp_path: Path) -> None:
    (tmp_path / "notes.pt").write_text("# Notes\n")
    torch.save({"model": Path("an object")}, tmp_path / "object.pt")
    for name in ("notes.pt", "object.pt"):
        with pytest.raises(ConfigError, match="expected tensors and plain values alone") as raised:
            checkpoint.load(tmp_path / name)
        assert name in str(raised.value) and "weights_only" not in str(raised.value)


def test_a_damaged_file_is_called_so(tmp_path: Path) -> None:
    checkpoint.save(tmp_path / "a.pt", state())
    whole = (tmp_path / "a.pt").read_bytes()
    for data in (b"", whole[:500], whole[:-20], b"hello"):
        (tmp_path / "a.pt").write_bytes(data)
        with pytest.raises(ConfigError, match=r"a\.pt: not a checkpoint that can be read: the file is damaged or inc"):
            checkpoint.load(tmp_path / "a.pt")


def test_a_checkpoint_without_digest_is_read_and_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save(state(), tmp_path / "a.pt")
    assert checkpoint.load(tmp_path / "a.pt")["classes"] == ["cat", "dog"]
    assert "a.pt: has no digest" in capsys.readouterr().err


def test_no_mutation_loads_other_weights(tmp_path: Path) -> None:
    file = tmp_path / "a.pt"
    checkpoint.save(file, state(1.5))
    sound, rng = file.read_bytes(), random.Random(0)
    for _ in range(100):
        file.write_bytes(mutate(sound, rng))
        try:
            loaded = checkpoint.load(file)
        except ConfigError:
            continue
        assert torch.equal(loaded["model"]["weight"], state(1.5)["model"]["weight"])
        assert loaded["classes"] == ["cat", "dog"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize("file", ["weights/step-0000002.pt.tmp", "weights/best.pt.tmp"])
def test_a_full_disk(folder: Path, file: str) -> None:
    run.save(folder, state(1.0), 1, keep=2)
    (folder / file).symlink_to("/dev/full")
    name = file.removesuffix(".tmp")
    with pytest.raises(ConfigError) as raised:
        checkpoint.save(folder / name, state(2.0))
    text = str(raised.value)
    assert text.startswith(f"{folder / name}: cannot be written: No space left on device; it needs about 0.0 MB, ")
    assert "\n" not in text
    assert value(folder) == 1.0 and not list((folder / "weights").glob("*.tmp"))


def test_a_failure_at_any_step_leaves_a_checkpoint(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fail the n-th call of the system, for every n until none fails."""
    run.save(folder, state(1.0), 1, keep=1)
    for n in range(1, 50):
        calls = 0

        def failing(real: object) -> object:
            def call(*args: object, **options: object) -> object:
                nonlocal calls
                calls += 1
                if calls == n:  # noqa: B023
                    raise OSError(28, "No space left on device")
                return real(*args, **options)  # type: ignore[operator]

            return call

        with monkeypatch.context() as patch:
            for name in ("fsync", "replace", "open", "link"):
                patch.setattr(os, name, failing(getattr(os, name)))
            try:
                run.save(folder, state(float(n + 1)), n + 1, keep=1)
                done = calls < n
            except ConfigError as error:
                assert "cannot be written: No space left on device" in str(error)
                done = False
        assert value(folder) in [float(m) for m in range(1, n + 2)]
        assert checkpoint.load(folder / "weights/last.pt")["classes"] == ["cat", "dog"]
        if done:
            break
    assert done and n > 3


def test_a_killed_processs_temporary_file_is_removed(folder: Path) -> None:
    (folder / "weights/step-0000001.pt.tmp").write_bytes(b"half")
    run.save(folder, state(), 2, keep=2)
    assert sorted(file.name for file in (folder / "weights").iterdir()) == ["last.pt", "step-0000002.pt"]


@pytest.mark.parametrize("files", [[], ["args.toml"], ["args.toml", "start.json"]])
def test_a_run_killed_before_its_first_checkpoint_starts_over(tmp_path: Path, files: list[str]) -> None:
    folder = tmp_path / "yolov2/a"
    (folder / "weights").mkdir(parents=True)
    (folder / "weights/step-0000001.pt.tmp").write_bytes(b"half")
    for name in files:
        (folder / name).write_text("cut")
    with ExitStack() as held:
        assert run.create(YOLOv2Config(shards="s", name="a", runs=str(tmp_path)), "yolov2", held) == folder
    assert "shards" in (folder / "args.toml").read_text()
    run.save(folder, state(), 1, keep=1)
    with ExitStack() as held, pytest.raises(ConfigError, match="that run exists"):
        run.create(YOLOv2Config(shards="s", name="a", runs=str(tmp_path)), "yolov2", held)


def test_a_run_killed_before_its_first_file_starts_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, config = tmp_path / "yolov2/a", YOLOv2Config(shards="s", name="a", runs=str(tmp_path))
    folder.mkdir(parents=True)
    with pytest.raises(ConfigError, match="ended before its values were written; start it again, with --name a"):
        run.arguments(folder)
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "job")
    assert run.restarted(config, "yolov2") is None
    with ExitStack() as held:
        assert run.create(config, "yolov2", held) == folder


def test_a_second_process_is_refused(folder: Path) -> None:
    code = f"from pathlib import Path\nfrom trainers.training import run\nwith run.locked(Path({str(folder)!r})): pass"
    command = [sys.executable, "-c", f"import sys\nsys.path[:] = {sys.path!r}\n{code}"]
    with run.locked(folder):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert f"{folder}: another process trains this run" in done.stderr
    with run.locked(folder):
        pass
    assert subprocess.run(command, check=False).returncode == 0


@pytest.mark.parametrize("cut", ["", "a,b\n1,2\n", "step,loss\n1,0.5\n2,0.4\n3,0.", "step,loss\n1,0.5\n2,0.4\n\0,1\n"])
def test_rows_that_were_cut_are_dropped(tmp_path: Path, cut: str) -> None:
    file = tmp_path / "steps.csv"
    file.write_text(cut)
    run.rewind(file, 2)
    run.append(file, {"step": 3, "loss": 0.3})
    lines = file.read_text().split()
    assert lines in (["step,loss", "1,0.5", "2,0.4", "3,0.3"], ["step,loss", "3,0.3"])


def test_start_is_whole_or_absent(folder: Path) -> None:
    run.begin(folder, "yolov2", {"epoch": 0})
    assert json.loads((folder / "start.json").read_text())["detector"] == "yolov2" == run.start(folder)["detector"]
