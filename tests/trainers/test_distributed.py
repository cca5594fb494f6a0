"""Two processes under torchrun do what one does."""

from __future__ import annotations

import os
import platform
import runpy
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

from dataforge.errors import DataforgeError
from dataforge.loading.loader import Loader
from tests.trainers import distributed, runs
from trainers import checkpoint, registry, watchdog
from trainers import distributed as processes
from trainers.config import Config, read_toml, write_toml
from trainers.results.report import score
from trainers.training import engine, run

HOUR = timedelta(hours=1)
LAUNCH = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


def config(detector: str, shards: Path, folder: Path) -> Config:
    """20 images in steps of 6 and what is left: the two processes have unequal shares of the last ones."""
    given = {"batch_size": 6, "ema": 0.0, "lr": 1e-4, "threads": 1, "name": "run", "logger": "tensorboard"}
    given |= {"save_steps": 2} if detector == "vit" else {}
    return runs.config(detector, shards, folder, **given)


@pytest.fixture(scope="module")
def by_two(twenty: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of all detectors' runs by two processes."""
    folder = tmp_path_factory.mktemp("two")
    for detector in registry.DETECTORS:
        write_toml(config(detector, twenty, folder), folder / f"{detector}.toml")
    program = ["-m", "tests.trainers.distributed", str(folder), *registry.DETECTORS]
    done = subprocess.run([*LAUNCH, *program], timeout=550, env=ENVIRONMENT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("detector", list(registry.DETECTORS))
def test_two_processes_train_as_one(
    by_two: Path, twenty: Path, tmp_path: Path, detector: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    distributed.fix_norms(monkeypatch.setattr)
    alone = engine.train(config(detector, twenty, tmp_path), detector)
    ours, theirs = runs.steps(by_two / detector / "run"), runs.steps(alone)
    assert len(ours) == len(theirs) == 4
    for one, other in zip(ours, theirs, strict=True):
        assert {k: float(v) for k, v in one.items()} == pytest.approx({k: float(v) for k, v in other.items()}, rel=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("detector", list(registry.DETECTORS))
def test_two_processes_evaluate_as_one(by_two: Path, twenty: Path, detector: str) -> None:
    """The last evaluation of the run, which two processes did, and one of its weights alone."""
    folder = by_two / detector / "run"
    model, facts = checkpoint.load_detector(folder / "weights/last.pt")
    size = (facts["size"][0], facts["size"][1])
    numbers = score(model, Loader(twenty, "val", batch_size=6, size=size, fit=facts["fit"], shuffle=False))
    [row] = runs.rows(folder / run.RESULTS)
    assert float(row["mAP50"]) == pytest.approx(numbers["AP50"], abs=1e-6)
    assert float(row["mAP50-95"]) == pytest.approx(numbers["AP"], abs=1e-6)


@pytest.mark.slow
def test_divided_weights_train_as_whole_ones(by_two: Path, tmp_path: Path) -> None:
    """Two processes with FSDP2, and one, continue from a checkpoint of two with DDP; one continues from FSDP2's."""
    rows = [{k: float(v) for k, v in row.items()} for row in runs.steps(by_two / "vit/run")]
    folders = [tmp_path / name for name in ("fsdp", "alone")]
    for folder in folders:
        shutil.copytree(by_two / "vit/run", folder)
        for newer in ("last", "best", "step-0000004"):
            (folder / f"weights/{newer}.pt").unlink()
        args = (folder / "args.toml").read_text()
        (folder / "args.toml").write_text(args.replace("ema = 0.0", "ema = 0.9").replace("steps = 2", "steps = 1"))
    program = ["-m", "trainers.vit", "--fsdp", "--resume", str(folders[0])]
    subprocess.run([*LAUNCH, *program], check=True, timeout=300, env=ENVIRONMENT)
    kind = registry.config_class("vit")
    given = kind(**read_toml(kind, folders[1] / "args.toml"))
    engine.train(given, "vit", folders[1])
    for folder in folders:
        for row, expected in zip(runs.steps(folder), rows, strict=True):
            assert {k: float(v) for k, v in row.items()} == pytest.approx(expected, rel=1e-5)
    divided, alone = (checkpoint.load(folder / "weights/last.pt") for folder in folders)
    same(divided, alone)
    for newer in ("last", "best", "step-0000004"):
        (folders[0] / f"weights/{newer}.pt").unlink()
    engine.train(given, "vit", folders[0])
    same(checkpoint.load(folders[0] / "weights/last.pt"), alone)


def same(one: Any, other: Any) -> None:
    """Compare checkpoints: exactly, except the values of floating-point tensors, which were summed in another order."""
    assert isinstance(one, dict) == isinstance(other, dict)
    if isinstance(one, torch.Tensor):
        assert one.dtype == other.dtype and one.shape == other.shape
        torch.testing.assert_close(one, other, rtol=1e-3 if one.is_floating_point() else 0, atol=1e-5)
    elif isinstance(one, dict):
        assert list(one) == list(other)
        for name in set(one) - {"rng", "progress"}:
            same(one[name], other[name])
    elif isinstance(one, list):
        for parts in zip(one, other, strict=True):
            same(*parts)
    else:
        assert type(one) is type(other) and one == other


def test_processes_that_are_started_again_do_not_meet_those_before() -> None:
    """torchrun's store is kept: starts of three processes, of which one had ended early before, then of two."""
    store, names = dist.HashStore(), list[set[str]]()
    store.set("start of 2", "a process that ended before it was answered")
    for count in (3, 3, 2):
        with ThreadPoolExecutor(count) as pool:
            names.append(set(pool.map(lambda rank: processes._name_of_start(store, rank, count, HOUR), range(count))))  # noqa: B023
    assert [len(of_start) for of_start in names] == [1, 1, 1] and len(set.union(*names)) == 3


@pytest.mark.parametrize(
    ("rank", "words"),
    [(0, "ranks have not started within 0:00:00.200000 h: 1, 2;"), (2, "rank 0 has not started within")],
)
def test_processes_that_do_not_start_are_named(rank: int, words: str) -> None:
    """Rank 1 posted its name and then ended; the other one never came."""
    store = dist.HashStore()
    store.set("start of 1", "a process that ended")
    with pytest.raises(DataforgeError, match=words):
        processes._name_of_start(store, rank, 3, timedelta(seconds=0.2))


@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize("fails", [False, True])
def test_a_process_group_ends_with_its_block(monkeypatch: pytest.MonkeyPatch, device: str, fails: bool) -> None:
    """Except NCCL's after an error: the other ranks may wait for this one, and it would wait for them."""
    calls: list[str] = []
    monkeypatch.setattr(dist, "init_process_group", lambda backend, timeout, **_: calls.append(f"{backend} {timeout}"))
    monkeypatch.setattr(
        sys.modules["torch.distributed.rendezvous"], "rendezvous", lambda *_, **__: iter([(dist.HashStore(), 1, 2)])
    )
    monkeypatch.setattr(processes, "_name_of_start", lambda *_: "start")
    monkeypatch.setattr(watchdog, "Watchdog", lambda limit: nullcontext())
    monkeypatch.setattr(dist, "destroy_process_group", lambda: calls.append("destroyed"))
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: None)
    monkeypatch.setattr(processes, "device_of", torch.device)
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    with pytest.raises(ZeroDivisionError) if fails else nullcontext(), processes.joined(device, 4) as joined:
        assert joined == (1, 2, torch.device(device))
        assert not fails or 1 / 0
    # the limit also bounds how long the processes may take to find each other
    backend = {"cpu": "gloo", "cuda": "nccl"}[device] + " 0:30:00"
    assert calls == ([backend] if fails and device == "cuda" else [backend, "destroyed"])


def test_one_process_needs_no_torch_distributed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Which some builds of torch lack; the watchdog imports it."""
    monkeypatch.setitem(sys.modules, "trainers.watchdog", None)
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with runpy.run_path(processes.__file__)["joined"]("cpu", 1) as joined:
        assert joined == (0, 1, torch.device("cpu"))


@pytest.mark.slow
def test_every_process_names_the_runs_folder(twenty: Path, tmp_path: Path) -> None:
    given = runs.config("yolov2", twenty, tmp_path, name="run", lr=1e30, clip=0.0, warmup_steps=0, threads=1)
    write_toml(given, tmp_path / "args.toml")
    program = ["-m", "trainers.yolov2", "--config", str(tmp_path / "args.toml")]
    done = subprocess.run([*LAUNCH, *program], timeout=300, env=ENVIRONMENT, capture_output=True, text=True)
    errors = [line for line in done.stderr.splitlines() if "dataforge replay" in line]
    assert done.returncode and errors
    assert all(f"dataforge replay {tmp_path}/yolov2/run --step" in line for line in errors)
    assert "destroy_process_group() was not called" not in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize(("processes", "words"), [("2", []), ("3", ["--tile", "40"])])
def test_processes_evaluate_from_the_command_line(
    finished: Path, twenty: Path, processes: str, words: list[str]
) -> None:
    """20 images for 3 processes are unequal parts."""
    weights = [str(finished / "weights/last.pt"), "--shards", str(twenty), "--split", "val", "--json", *words]
    one, all_ = (
        subprocess.run(
            [*start, "-m", "trainers.evaluate", *weights], check=True, timeout=300, env=ENVIRONMENT, stdout=-1
        )
        for start in ([sys.executable], [*LAUNCH[:-1], processes])
    )
    assert one.stdout == all_.stdout and b"AP50" in one.stdout


@pytest.mark.parametrize(
    ("cuda", "mps", "world", "expected"),
    [
        (False, False, 1, "cpu"),
        (False, True, 1, "mps"),
        (True, True, 1, "cuda"),
        (False, True, 2, "cpu"),  # processes cannot communicate on MPS
        (False, "fails", 1, "cpu"),
    ],
)
def test_auto_is_the_best_device_that_computes(
    monkeypatch: pytest.MonkeyPatch, cuda: bool, mps: bool | str, world: int, expected: str
) -> None:
    ones, zeros = torch.ones(8) if mps is True else None, torch.zeros(1)

    def on_device(*shape: int, device: object) -> torch.Tensor:
        if ones is None:
            raise RuntimeError("MPS backend out of memory")
        return ones

    monkeypatch.setenv("WORLD_SIZE", str(world))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: bool(mps))
    monkeypatch.setattr(torch, "ones", on_device)
    monkeypatch.setattr(torch, "zeros", lambda *shape, device: zeros)
    assert processes.device_of("auto").type == expected


_REUSE = """
import ctypes, resource
from trainers.distributed import memory_kept, torch
ctypes.CDLL(None).prctl(41, 1, 0, 0, 0)  # PR_SET_THP_DISABLE: no huge pages, which are few faults
def faults(count):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(count)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
with memory_kept():
    pass
print(*(faults(1 << 20) for _ in range(9)))
with memory_kept():
    print(*(faults(1 << 23) for _ in range(9)))
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other systems keep memory or not as they like")
def test_memory_that_a_step_freed_is_used_by_the_next() -> None:
    done = subprocess.run([sys.executable, "-c", _REUSE], capture_output=True, text=True, check=True)
    after, within = ([int(word) for word in line.split()] for line in done.stdout.splitlines())
    assert within[0] > 1000 and min(within) < 100, "of 8,192 pages"
    assert min(after) < 100, "of 1,024: tensors of 4 MB are kept, as in a process that never entered the block"
