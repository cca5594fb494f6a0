"""An ingest on a Ray cluster of three nodes in this machine, of which one is killed, is the set of one process."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from dataforge.cli.main import main
from dataforge.errors import ConfigError, ShardError
from dataforge.images.synth import write
from dataforge.ingest.on_ray import ingest_on_ray
from dataforge.ingest.run import ingest
from dataforge.record import Finding, Record, Source
from dataforge.shards.reader import Shards
from tests.ingest.test_ingest import HOW
from tests.ingest.test_parts import MADE, comparable, items, source

pytestmark = pytest.mark.slow


def test_a_node_that_is_killed_loses_nothing(
    ray_cluster: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stocked = items(tmp_path / "in")
    whole = ingest(source(stocked), tmp_path / "whole", made=MADE, **HOW)
    log = tmp_path / "log"
    log.touch()
    lost = next(iter(ray_cluster.worker_nodes))
    lost_id = lost.node_id  # a node itself cannot be sent to a task

    def stuck() -> tuple[Source, str]:
        """A source that tells where it was begun, and that on the lost node does not get past its 40th record."""

        def records() -> Iterator[Record | Finding]:
            import ray

            node = ray.get_runtime_context().get_node_id()
            with open(log, "a") as file:
                file.write(f"{node}\n")
            for n, item in enumerate(items(tmp_path / "in")):
                while n == 40 and node == lost_id:
                    time.sleep(0.1)
                yield item

        return replace(source([]), records=records()), ""

    def kill() -> None:
        while lost_id not in log.read_text():
            time.sleep(0.05)
        ray_cluster.remove_node(lost, allow_graceful=False)

    killer = threading.Thread(target=kill)
    killer.start()
    seen: list[int] = []
    summary = ingest_on_ray(
        stuck,
        tmp_path / "out",
        address=ray_cluster.address,
        parts=3,
        progress=seen.append,
        made=MADE,
        **HOW | {"jobs": 1},
    )
    killer.join()
    assert comparable(tmp_path / "out") == comparable(tmp_path / "whole")
    assert summary.images == whole.images and seen == sorted(seen) and seen[-1] > 0
    assert capsys.readouterr().out == "" and not (tmp_path / "out.parts").exists()
    assert len(log.read_text().splitlines()) > 3


def test_errors_of_tasks_are_those_of_an_ingest(ray_cluster: Any, tmp_path: Path) -> None:
    stocked = [item for item in items(tmp_path / "in") if isinstance(item, Record)][:9]
    broken = [replace(stocked[0], image=tmp_path / "gone.jpg"), *stocked]

    def make() -> tuple[Source, str]:
        return source(list(broken)), ""

    with pytest.raises(ShardError, match=r"part 1: refused images: \d+, --max-bad allows 0"):
        ingest_on_ray(make, tmp_path / "out", address=ray_cluster.address, parts=1)
    assert (tmp_path / "out.parts/1/ingest.jsonl").exists() and not (tmp_path / "out").exists()
    (tmp_path / "mine.parts/1").mkdir(parents=True)
    with pytest.raises(ShardError, match=r"mine\.parts/1: was not made by `dataforge ingest`"):
        ingest_on_ray(make, tmp_path / "mine", address=ray_cluster.address, parts=1)
    with pytest.raises(ConfigError, match=r"--address nowhere: "):
        ingest_on_ray(make, tmp_path / "none", address="nowhere")


def test_the_command(ray_cluster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Relative paths are those of the folder in which the command runs."""
    write(tmp_path / "set", images=9, seed=0, size=(64, 96))
    monkeypatch.chdir(tmp_path)
    words = ["ingest", "auto", "set", "--class-map", "names.toml", "--add", "coco:set", "--json"]
    Path("names.toml").write_text('ball = "sphere"')
    ray_words = ["--out", "out", "--engine", "ray", "--address", ray_cluster.address, "--parts", "3"]
    for more in (ray_words, ["--out", "whole"]):
        result = CliRunner().invoke(main, [*words, *more])
        assert result.exit_code == 0, result.output
        assert json.loads(result.stdout)["images"] == 18
    assert Shards(tmp_path / "out").fingerprint == Shards(tmp_path / "whole").fingerprint
    assert "sphere" in Shards(tmp_path / "out").classes and not (tmp_path / "out.parts").exists()
    for wrong, text in (("--part 1/2 --engine ray", "--engine ray writes all parts"), ("--parts 2", "is for --engine")):
        result = CliRunner().invoke(main, [*words, "--out", "other", *wrong.split()])
        assert result.exit_code == 2 and text in result.stderr
