"""`--engine ray` of bake, lint and stats, on a cluster of several nodes in this machine: the results of one process."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import sys
import time
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from dataforge import cluster
from dataforge.cli.main import main
from dataforge.errors import ConfigError, DataError, ShardError
from dataforge.images.synth import write
from tests.ingest.test_ingest import files


def test_chunks_are_small_at_first_and_keep_what_came_before_an_error() -> None:
    def items() -> Iterator[int]:
        yield from range(10)
        raise ValueError("no more")

    seen = []
    with pytest.raises(ValueError, match="no more"):
        for chunk in cluster._chunks(items(), 2):
            seen.append(chunk)
    assert seen == [[0], [1], [2, 3], [4, 5], [6, 7, 8], [9]]
    assert list(cluster._chunks([], 2)) == []
    assert max(map(len, cluster._chunks(range(1000), 1))) == cluster.CHUNK


@pytest.mark.parametrize("form", ["127.0.0.1:{}", "ray://127.0.0.1:{}"])
def test_an_address_at_which_nothing_listens_is_told_at_once(form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("ray")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = form.format(free.getsockname()[1])
    monkeypatch.setenv("RAY_ADDRESS", address)
    for given in (address, None):
        start = time.monotonic()
        with (
            pytest.raises(ConfigError, match=rf"--address {address}: no Ray cluster can be reached there: "),
            cluster.connected(given),
        ):
            pass
        assert time.monotonic() - start < 2 * cluster.PATIENCE


def killed_once(log: Path) -> Callable[[int], np.ndarray]:
    """Return work whose process is killed at item 5, the first time."""

    def work(item: int) -> np.ndarray:
        if item == 5 and not log.exists():
            log.write_text("")
            os.kill(os.getpid(), signal.SIGKILL)
        if item == 30:
            raise DataError("30 is damaged")
        return np.full((2, 3), item)

    return work


@pytest.mark.slow
def test_a_process_that_is_killed_in_mid_task_loses_nothing(ray_cluster: Any, tmp_path: Path) -> None:
    numbers = iter(range(1000))
    with cluster.spreading(ray_cluster.address) as (spread, _):
        results = spread(killed_once(tmp_path / "killed"), numbers, 1)
        first = [next(results) for _ in range(30)]
        assert [array.tolist() for array in first] == [[[i] * 3] * 2 for i in range(30)]
        assert (tmp_path / "killed").exists() and next(numbers) < 100  # back-pressure: the rest is not drawn yet
        with pytest.raises(DataError, match="30 is damaged"):
            next(results)


def test_a_node_without_the_folder_of_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ray = types.SimpleNamespace(get=lambda reference: reference)
    monkeypatch.setitem(sys.modules, "ray", ray)
    before = Path.cwd()
    results, error = cluster._results([str, [1, 2]], tmp_path / "none")
    assert not results and isinstance(error, ShardError) and f"{tmp_path}/none: No such file" in str(error)
    assert cluster._results([str, [1, 2]], tmp_path) == (["1", "2"], None) and Path.cwd() == before


BAKES = ("--size 48 64 --raw", "--lossless", "--tile 40 --overlap 0")


@pytest.mark.slow
def test_commands_give_the_results_of_one_machine(
    ray_cluster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Relative paths are those of the folder in which the command runs."""
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "set", images=24, seed=0, size=(64, 96))
    next(Path("set").rglob("*.jpg")).write_bytes(b"\xff\xd8 damaged")
    shutil.make_archive("set", "zip", "set")

    def run(words: str, code: int = 0) -> str:
        result = CliRunner().invoke(main, words.split())
        assert result.exit_code == code, result.output
        return result.stdout

    ray = f"--engine ray --address {ray_cluster.address}"
    run("ingest auto set --out shards --max-bad 1")
    assert run(f"lint set.zip --json {ray}", 1) == run("lint set.zip --json", 1)
    assert run(f"stats shards --out a --json {ray}") == run("stats shards --out b --json")
    assert files(tmp_path / "a") == files(tmp_path / "b")
    for n, words in enumerate(BAKES):
        printed = [
            run(f"bake shards --out {out} {words} {more}").replace(out, "OUT")
            for out, more in ((f"r{n}", ray), (f"o{n}", ""))
        ]
        assert printed[0] == printed[1] != ""
        alone, together = files(tmp_path / f"o{n}"), files(tmp_path / f"r{n}")
        reports = [made.pop("ingest.jsonl") for made in (alone, together)]
        assert alone == together and len(alone) >= 3
        if "--tile" not in words:  # whose report states the command
            assert reports[0].replace(b"o%d" % n, b"r%d" % n) == reports[1]
    run("stats shards --address x", 2)
