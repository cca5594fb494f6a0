"""A process that does not arrive is named by the others, which end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path

import pytest

from trainers.watchdog import BEATS, Posts, Watchdog, late

LATE = ("0,stop", "2,stop", "1,block")


@pytest.mark.skipif(sys.platform != "linux", reason="forks after torch is imported, and stops processes")
def test_the_others_end_and_name_the_late_one(tmp_path: Path) -> None:
    """Rank 0 keeps the store. One that is only slow ends nothing."""
    command = [sys.executable, "-m", "tests.trainers.stopped", str(tmp_path), *LATE, "1,slow", "2,kill"]
    groups = subprocess.Popen(command, start_new_session=True)
    try:
        assert groups.wait(timeout=120) == 0
    finally:
        with suppress(ProcessLookupError):  # none is left
            os.killpg(groups.pid, signal.SIGKILL)
        groups.wait()
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
    for rank in range(2):
        [error, code] = (tmp_path / f"2,kill,{rank}").read_text().splitlines()
        assert error.startswith(f"error: rank {rank} of 3: another process has ended; see its output (")
        assert code == "exit 2"


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


class Answered(Watchdog):
    """Rank 1 of 2, which waits; `answers` are those of the store, and it ends with them."""

    def __init__(self, answers: list[Posts]) -> None:
        threading.Thread.__init__(self)
        self.limit, self.pause, self.rank, self.world = 0.001 * BEATS, 0.001, 1, 2
        self.ended = threading.Event()
        self.answers = answers

    def _post(self) -> int:
        return 5

    def _posts(self) -> Posts:
        if len(self.answers) == 1:
            self.ended.set()
        return self.answers.pop(0)


@pytest.mark.parametrize(("empty", "blamed"), [(1, False), (BEATS // 2 - 1, False), (BEATS // 2, True)])
def test_a_slow_answer_is_no_late_rank(
    empty: int, blamed: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """But several in a row are: rank 0, which keeps the store, is stopped."""
    codes: list[int] = []
    monkeypatch.setattr(os, "_exit", codes.append)
    beats: list[Posts] = [{0: (5, beat), 1: (5, beat)} for beat in range(2 * BEATS)]
    Answered([*beats[:BEATS], *[{} for _ in range(empty)], *beats[BEATS:]]).run()
    assert codes == [2] * blamed and ("rank 0 of 2" in capsys.readouterr().err) == blamed
