"""What an ingest on a Ray cluster refuses, and what it survives, with a Ray that runs tasks in this process."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from dataforge.errors import ConfigError, ShardError
from dataforge.ingest import on_ray
from dataforge.ingest.on_ray import ingest_on_ray
from dataforge.ingest.run import ingest
from dataforge.record import Source
from dataforge.shards.out_folder import BusyError, locked
from dataforge.shards.reader import Shards
from tests import tiny
from tests.ingest.test_ingest import files


class RayError(Exception):
    pass


class RayTaskError(RayError):
    pass


class _Ray(ModuleType):
    """A cluster of nodes with 2 and 1 CPUs. `calls` is what was called; a task of a part in `lost` is lost."""

    exceptions = SimpleNamespace(RayError=RayError, RayTaskError=RayTaskError)

    def __init__(self) -> None:
        super().__init__("ray")
        self.calls: list[str] = []
        self.lost: set[int] = set()
        self.actor_lost = False

    def init(self, *_: Any, **__: Any) -> None:
        self.calls.append("init")

    def shutdown(self) -> None:
        self.calls.append("shutdown")

    def nodes(self) -> list[dict[str, Any]]:
        return [{"Alive": True, "Resources": {"CPU": cpus}} for cpus in (2.0, 1.0)] + [{"Alive": False}]

    def get_runtime_context(self) -> Any:
        return SimpleNamespace(get_node_id=lambda: "")

    def put(self, value: Any) -> Any:
        return value

    def remote(self, function: Any) -> Any:
        if function is on_ray._Images:
            images = on_ray._Images()
            total = SimpleNamespace(remote=lambda: self._total(images))
            handle = SimpleNamespace(count=SimpleNamespace(remote=images.count), total=total)
            made: Callable[..., Any] = lambda: handle  # noqa: E731
        else:
            made = lambda *given: self._task(function, *given)  # noqa: E731
        return SimpleNamespace(options=lambda **_: SimpleNamespace(remote=made))

    def _total(self, images: Any) -> Any:
        return lambda: self._raise("the actor") if self.actor_lost else images.total()

    def _task(self, function: Any, *given: Any) -> Any:
        number = given[2][0]
        self.calls.append(f"part {number}")
        return lambda: self._raise(f"part {number}") if number in self.lost else function(*given)

    def _raise(self, what: str) -> None:
        raise RayError(f"{what} is gone")

    def wait(self, references: list[Any], timeout: float) -> tuple[list[Any], list[Any]]:
        return references[:1], references[1:]

    def get(self, reference: Any) -> Any:
        return reference()

    def cancel(self, reference: Any, force: bool) -> None:
        self.calls.append("cancel")


@pytest.fixture
def stub(monkeypatch: pytest.MonkeyPatch) -> _Ray:
    ray, strategies = _Ray(), ModuleType("ray.util.scheduling_strategies")
    strategies.NodeAffinitySchedulingStrategy = lambda *_, **__: None  # type: ignore[attr-defined]
    for name, module in (("ray", ray), ("ray.util", ModuleType("ray.util")), (strategies.__name__, strategies)):
        monkeypatch.setitem(sys.modules, name, module)
    return ray


def make() -> tuple[Source, str]:
    return Source(tiny.CLASSES, iter(tiny.records())), "tiny"


def left(out: Path, *names: str) -> Path:
    """Make folders of parts that an earlier command has left."""
    for name in names:
        (on_ray.parts_of(out) / name).mkdir(parents=True)
        (on_ray.parts_of(out) / name / "ingest.jsonl").write_text("")
    return on_ray.parts_of(out)


@pytest.mark.parametrize("taken", ["file", "foreign", "shards"])
def test_a_folder_that_is_taken_is_known_before_a_cluster_is(stub: _Ray, tmp_path: Path, taken: str) -> None:
    out = tmp_path / "out"
    if taken == "file":
        out.write_text("mine")
    elif taken == "foreign":
        out.mkdir()
        (out / "notes.txt").write_text("mine")
    else:
        ingest(make()[0], out)
    before = files(tmp_path)
    with pytest.raises(ShardError, match=r"is a file|not made by|already holds shards"):
        ingest_on_ray(make, out)
    assert stub.calls == [] and files(tmp_path) == before


def test_a_second_command_leaves_the_parts_of_the_first(stub: _Ray, tmp_path: Path) -> None:
    out = tmp_path / "out"
    root = left(out, "1", "2")
    with locked(root, on_ray.LOCK), pytest.raises(BusyError, match=r"out\.parts: another process is writing to it"):
        ingest_on_ray(make, out)
    assert stub.calls == [] and (root / "1/ingest.jsonl").exists()
    with locked(root / "1"), pytest.raises(BusyError, match=r"parts/1: another process"):  # its command was killed
        ingest_on_ray(make, out, parts=1)
    assert (root / "1/ingest.jsonl").exists() and not any(call.startswith("part") for call in stub.calls)
    left(out, "40")
    assert ingest_on_ray(make, out).images == 10
    assert stub.calls.count("part 3") == 1 and not root.exists()  # a part for each CPU; part 40 is removed as well
    ingest(make()[0], tmp_path / "whole", source_name="tiny")
    assert Shards(out).fingerprint == Shards(tmp_path / "whole").fingerprint


def test_more_jobs_than_a_node_has(stub: _Ray, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--jobs 3: no node of the cluster has more than 2 CPUs"):
        ingest_on_ray(make, tmp_path / "out", jobs=3)
    assert stub.calls == ["init", "shutdown"] and not list(tmp_path.iterdir())


def test_the_part_that_is_lost_is_named_and_the_count_may_be_lost(stub: _Ray, tmp_path: Path) -> None:
    stub.actor_lost, stub.lost = True, {2}
    seen: list[int] = []
    with pytest.raises(ShardError, match=r"out\.parts/2: its task was lost 6 times: part 2 is gone"):
        ingest_on_ray(make, tmp_path / "out", parts=3, progress=seen.append)
    assert stub.calls[-2:] == ["cancel", "shutdown"] and seen == []
    stub.lost = set()
    stub.calls = []
    assert ingest_on_ray(make, tmp_path / "out", resume=True, progress=seen.append).images == 10
    assert seen == []


def test_resuming_keeps_the_number_of_parts(stub: _Ray, tmp_path: Path) -> None:
    out = tmp_path / "out"
    ingest(make()[0], on_ray.parts_of(out) / "2", part=(2, 5), source_name="tiny", shard_bytes=1000)
    with pytest.raises(ConfigError, match=r"--parts 3: .*out\.parts holds parts of 5; --resume without --parts"):
        ingest_on_ray(make, out, parts=3, resume=True, shard_bytes=1000)
    ingest_on_ray(make, out, resume=True, shard_bytes=1000)
    assert stub.calls.count("part 5") == 1 and not on_ray.parts_of(out).exists()
