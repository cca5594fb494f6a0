"""A sample of the faults; `python -m tests.faults` injects all."""

from __future__ import annotations

import random
import sys
from pathlib import Path

import pytest

from tests.faults.__main__ import inject, prepare

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="forks")


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("given")
    prepare(folder)
    return folder


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
@pytest.mark.parametrize("name", ["ingest", "bake raw", "export voc", "checkpoint"])
def test_a_fault_leaves_nothing_or_all(given: Path, tmp_path: Path, name: str) -> None:
    first = random.Random(name).randint(1, 9)
    outcomes, wrong = inject(name, given, tmp_path, every=12, first=first)
    assert not wrong and outcomes.total() >= 3
