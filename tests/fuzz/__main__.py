"""The campaign: mutated inputs for every reader, in children with limits of time and memory, and a table of outcomes.

    python -m tests.fuzz [--seconds 60] [--seed 0] [--row FILE] [READER ...]

A child that a signal ends is a crash, one that is silent for longer than `STUCK` seconds a hang; the campaign goes on
with the next seed. Exits with 1 if there was one, or an error that is no `DataforgeError`.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from tests.fuzz.readers import READERS

STUCK = 180.0


def campaign(name: str, seed: int, seconds: float) -> tuple[Counter[str], list[str]]:
    """Return the number of inputs by outcome, and a text for each crash, hang and kind of undrawn error."""
    outcomes: Counter[str] = Counter()
    faults: list[str] = []
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0 and len(faults) < 20:
        with tempfile.TemporaryDirectory() as folder:
            command = [sys.executable, "-m", "tests.fuzz.child", name, str(seed), str(left), folder]
            at = Path(folder, "at")
            try:
                done = subprocess.run(command, capture_output=True, text=True, timeout=left + STUCK, check=False)
            except subprocess.TimeoutExpired:
                outcomes["hang"] += 1
                faults.append(f"hang: seed {seed}, input {at.read_text() if at.exists() else 'none'}")
            else:
                if done.returncode == 0:
                    report = json.loads(done.stdout.splitlines()[-1])
                    outcomes.update(report["outcomes"])
                    faults += [f"{kind}: {text}" for kind, text in report["undrawn"].items()]
                else:
                    outcomes["crash"] += 1
                    where = at.read_text() if at.exists() else "none"
                    faults.append(f"exit {done.returncode}: seed {seed}, input {where}: {done.stderr[-300:]}")
        seed += 1000
    return outcomes, faults


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz")
    parser.add_argument("--seconds", type=float, default=60, help="for each reader")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--row", type=Path, help="append the outcomes as rows to this file")
    parser.add_argument("readers", nargs="*", choices=[[], *READERS], metavar="READER", help=", ".join(READERS))
    given = parser.parse_args()
    columns = ("read", "refused", "undrawn", "crash", "hang")
    print(f"{'':12}{'inputs':>9}" + "".join(f"{column:>9}" for column in columns))
    bad = 0
    for name in given.readers or READERS:
        outcomes, faults = campaign(name, given.seed, given.seconds)
        bad += len(faults)
        print(f"{name:12}{outcomes.total():9}" + "".join(f"{outcomes[column]:9}" for column in columns), flush=True)
        print("".join(f"    {fault}\n" for fault in faults), end="", flush=True)
        if given.row:
            row = {"name": f"fuzz: {name}", "value": outcomes.total(), "unit": "inputs", **outcomes, "seed": given.seed}
            with open(given.row, "a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
