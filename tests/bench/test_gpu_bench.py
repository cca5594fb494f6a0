"""bench/gpu.py: its parts on the CPU, tiny, and what it says where there is no GPU."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch

from dataforge.images.header import probe
from dataforge.shards.writer import ShardWriter
from tests import tiny

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def gpu() -> Iterator[ModuleType]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(Path(__file__).resolve().parents[2] / "bench")  # workers import it by its name
        yield importlib.import_module("gpu")


@pytest.fixture(scope="module")
def jpegs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("gpu") / "s"
    with ShardWriter(out, tiny.CLASSES, tiny.CLASS_IDS, source="tiny") as writer:
        for record in tiny.records():
            assert isinstance(record.image, bytes)
            if record.key.endswith(".jpg"):
                writer.add(record, record.image, probe(record.image))
        writer.publish()
    return out


@pytest.mark.filterwarnings("ignore:The image decoding and encoding capabilities:DeprecationWarning")
def test_its_rows(gpu: ModuleType, jpegs: Path) -> None:
    rows = list(gpu.kernel(CPU, 1, count=2, side=16, times=1))
    names = [row["name"].removeprefix("GPU, ") for row in rows]
    assert names[:3] == [
        "copy of the batch, read and written",
        "flip, colour, normalise to float32, read and written",
        "flip, colour, normalise to bfloat16, read and written",
    ]
    assert names[3:5] == ["augment, dataforge", "augment, torchvision, one draw a batch"]
    assert rows[3]["ours"] == 1 and not rows[0]["fused"]
    rows += gpu.loader(CPU, 1, jpegs, batch=3, side=32, workers=0)
    assert rows[-1]["name"].endswith("torchvision and DataLoader") and rows[-1]["ratio"] == 1
    for row in rows:
        assert row["low"] <= row["value"] <= row["high"] and row["machine"]["cores"] and json.dumps(row)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_so(gpu: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["gpu.py"])
    with pytest.raises(SystemExit, match="measures a GPU, and PyTorch sees no CUDA device here"):
        gpu.main()
