"""The measurement of growing sets does what it says, and rows say what they were measured on."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from dataforge.bench.measure import machine, record_rows
from dataforge.shards.reader import Shards
from dataforge.shards.verify import verify

FILE = Path(__file__).parents[2] / "bench/growth.py"


@pytest.fixture
def growth(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    spec = importlib.util.spec_from_file_location("growth", FILE)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setattr("sys.path", sys.path.copy())  # the script adds to it
    spec.loader.exec_module(module)
    for name, small in (("REPEATS", 1), ("TURNS", 2), ("BATCHES", 2), ("BATCH", 8), ("PLANNED", (50, 100))):
        monkeypatch.setattr(module, name, small)
    monkeypatch.setattr(module, "apart", lambda part, *given: part(*given))
    return module


def test_growth(growth: ModuleType, tmp_path: Path) -> None:
    sets = {40: tmp_path / "40", 90: tmp_path / "90"}
    for records, path in sets.items():
        growth.make(path, records)
        shards = Shards(path)
        assert len(shards) == records and not list(verify(shards))
        assert np.diff(shards.table.offsets).max() > 7
    rows = [*growth.plans(), *growth.growth(sets)]
    assert len({row["name"] for row in rows}) == len(rows) == 4 + 2 * 4
    assert all(row["low"] <= row["value"] <= row["high"] and row["value"] > 0 for row in rows)
    (ratio,) = (row["value"] for row in rows if row["name"] == "90 / 40 records: img/s, 96x96, uint8")
    assert 0.02 < ratio < 50


def test_rows_say_what_they_were_measured_on(tmp_path: Path) -> None:
    file = tmp_path / "new" / "rows.jsonl"
    record_rows([{"name": "a", "value": 1, "unit": "s"}], file)
    record_rows([{"name": "b", "value": 2, "unit": "s", "versions": {"other": "1"}}], file)
    record_rows([{"name": "c"}], None)
    first, second = map(json.loads, file.read_text("utf-8").splitlines())
    assert first == {"name": "a", "value": 1, "unit": "s", **machine()} and next(iter(first)) == "name"
    assert second["versions"] == {"other": "1"} and second["machine"] == machine()["machine"]
