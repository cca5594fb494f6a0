"""A process that does not arrive is named by the others, which end."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from trainers.watchdog import late

LATE = ("0,stop", "2,stop", "1,block")


@pytest.mark.skipif(sys.platform != "linux", reason="forks after torch is imported, and stops processes")
def test_the_others_end_and_name_the_late_one(tmp_path: Path) -> None:
    """Rank 0 keeps the store. One that is only slow ends nothing."""
    command = [sys.executable, "-m", "tests.trainers.stopped", str(tmp_path), *LATE, "1,slow"]
    subprocess.run(command, check=True, timeout=120)
    for case in LATE:
        for rank in {0, 1, 2} - {int(case[0])}:
            lines = (tmp_path / f"{case},{rank}").read_text().splitlines()
            ours = [line for line in lines if not line.startswith("[")]  # torch's own
            assert ours == [
                f"error: rank {case[0]} of 3: did not arrive within 4 s; stopped, blocked or slow",
                "exit 2",
            ]
    for rank in range(3):
        assert (tmp_path / f"1,slow,{rank}").read_text() == "exit 0\n"


def test_who_is_late() -> None:
    before = dict.fromkeys(range(3), (5, 1))
    assert late(1, before, {}) == [0]
    for after, ranks in (
        ({0: (5, 2), 1: (5, 2), 2: (5, 2)}, []),
        ({0: (5, 2), 1: (5, 2), 2: (5, 1)}, [2]),
        ({0: (4, 2), 1: (5, 2), 2: (4, 1)}, [0, 2]),
        ({0: (6, 2), 1: (5, 2), 2: (5, 2)}, []),
        ({0: (5, -1), 1: (5, 2), 2: (5, -1)}, []),
    ):
        assert late(1, before, after) == ranks
    assert late(1, {}, after) == []
