"""The comparison with torchvision's loops: the images that theirs sees, the rows, and the verdict."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

from dataforge.shards.reader import Shards

FILE = Path(__file__).parents[2] / "bench/reference.py"


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("bench_reference", FILE)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_flips_move_the_boxes_with_the_image(script: ModuleType, tiny_shards: Path) -> None:
    shards = Shards(tiny_shards, "train")
    row = int(np.argmax(np.diff(shards.table.offsets)))
    image, target = script.sample(shards, row, 1, False)
    flipped, moved = script.sample(shards, row, 1, True)
    assert torch.equal(flipped.flip(-1), image)
    width = image.shape[-1]
    back = torch.stack([width - moved["boxes"][:, 2], width - moved["boxes"][:, 0]], 1)
    torch.testing.assert_close(back, target["boxes"][:, [0, 2]])
    assert torch.equal(target["labels"], moved["labels"]) and target["labels"].min() >= 1


@pytest.mark.parametrize(("ours", "worse"), [(0.5, False), (0.395, False), (0.38, True)])
def test_rows_and_verdict(
    script: ModuleType, tiny_shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ours: float, worse: bool
) -> None:
    def training(detector: str, loop: str, seed: int) -> dict[str, Any]:
        score = (ours if loop == "ours" else 0.4) + 0.01 * seed
        return {"losses": [2.0] * 40, "mAP50": score, "mAP50-95": 0.2, "img/s": 2.0, "img/processor s": 4.0}

    monkeypatch.setattr(script, "settings", lambda *given: given[-1])
    monkeypatch.setattr(script, "training", training)
    flags = ["--shards", tiny_shards, "--pretrained", "none", "--work", tmp_path, "--detectors", "dense", "--seeds", 2]
    flags += ["--results", tmp_path / "rows.jsonl", "--plot", tmp_path / "losses.png"]
    monkeypatch.setattr(sys, "argv", ["reference.py", *map(str, flags)])
    with pytest.raises(SystemExit) as end:
        script.main()
    assert bool(end.value.code) == worse and (tmp_path / "losses.png").stat().st_size
    rows = {
        (row["name"], row["unit"]): row for row in map(json.loads, (tmp_path / "rows.jsonl").read_text().splitlines())
    }
    assert rows["dense, ours less torchvision", "mAP50"]["value"] == pytest.approx(ours - 0.4)
    assert rows["dense, ours", "mAP50"]["each"] == pytest.approx([ours, ours + 0.01])
    assert len(rows) == 9
