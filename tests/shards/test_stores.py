"""`--store` on the commands that write shards: the same records, whatever holds the images."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from dataforge.cli.main import main
from dataforge.images import synth
from dataforge.shards.reader import Shards
from dataforge.shards.verify import verify


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("stores") / "pictures"
    synth.write(root, images=12)
    return root


@pytest.mark.parametrize("name", ["lmdb", "memmap", "zarr"])
def test_ingest_and_merge_into_a_store(pictures: Path, tmp_path: Path, name: str) -> None:
    made, both = tmp_path / "made", tmp_path / "both"
    arguments = ["ingest", "coco", str(pictures), "--store", name, "--out", str(made)]
    assert CliRunner().invoke(main, arguments).exit_code == 0
    assert CliRunner().invoke(main, ["merge", str(made), "--store", "memmap", "--out", str(both)]).exit_code == 0
    one, other = Shards(made), Shards(both)
    assert (one.index["store"], other.index["store"], len(one)) == (name, "memmap", 12)
    assert not list(verify(one)) and not list(verify(other))
    for i in range(12):
        assert one.blob(i) == other.blob(i)
        np.testing.assert_array_equal(one.pixels(i), other.pixels(i))


def test_a_store_that_is_not_known(pictures: Path, tmp_path: Path) -> None:
    done = CliRunner().invoke(main, ["ingest", "coco", str(pictures), "--store", "tape", "--out", str(tmp_path / "s")])
    assert done.exit_code == 2 and "unknown store 'tape'; known: lmdb, memmap, rows, zarr" in done.stderr
    assert not (tmp_path / "s").exists()
