"""The campaign: mutated inputs for every reader, in children with limits of time and memory, and a table of outcomes.

    python -m tests.fuzz [--inputs 1000000 | --seconds 10] [--seed 0] [--row FILE] [READER ...]

A child that a signal ends is a crash, or a hang if it is SIGALRM; the campaign goes on with the next input. Exits with
1 if there was one, or an error that is no `DataforgeError`. `TMPDIR=/dev/shm` spares the disk. `--first N --inputs 1`
gives one reader input N of a seed again.

Mutations are blind: they know no code coverage. atheris, which does, found nothing more in a minute each for `via` and
`labelme`, since most of the time goes to files, and it is a dependency of 35 MB; so it is left out.
"""

from __future__ import annotations

import argparse
import json
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from dataforge.bench.measure import record_rows
from tests.fuzz.readers import READERS

COLUMNS = ("read", "refused", "undrawn", "crash", "hang")
MOST_FAULTS = 20  # of a reader, after which its campaign ends


def campaign(
    name: str, seed: int, seconds: float = float("inf"), first: int = 0, inputs: int = 1 << 40
) -> tuple[Counter[str], list[str]]:
    """Return the number of inputs by outcome, and a text for each crash, hang and kind of undrawn error."""
    outcomes: Counter[str] = Counter()
    faults: list[str] = []
    start, last = time.monotonic(), first + inputs
    while first < last and (left := start + seconds - time.monotonic()) > 0 and len(faults) < MOST_FAULTS:
        with tempfile.TemporaryDirectory() as folder:
            numbers = map(str, (seed, first, last - first, left))
            command = [sys.executable, "-m", "tests.fuzz.child", name, *numbers, folder]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            at = json.loads(Path(folder, "at").read_text())
        outcomes.update(at["outcomes"])
        faults += done.stdout.splitlines()
        if done.returncode == 0:
            break
        kind = "hang" if done.returncode == -signal.SIGALRM else "crash"
        outcomes[kind] += 1
        faults.append(f"{kind}, exit {done.returncode}: seed {seed}, input {at['input']}: {done.stderr[-300:]}")
        first = at["input"] + 1
    return outcomes, faults


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz")
    parser.add_argument("--inputs", type=int, help="for all readers together")
    parser.add_argument("--seconds", type=float, default=10, help="for each reader, without --inputs")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0, help="number of the first input")
    parser.add_argument("--row", type=Path, help="append the outcomes as rows to this file")
    parser.add_argument("readers", nargs="*", choices=[[], *READERS], metavar="READER", help=", ".join(READERS))
    given = parser.parse_args()
    names = given.readers or list(READERS)
    limit = {"inputs": -(-given.inputs // len(names))} if given.inputs else {"seconds": given.seconds}
    print(f"{'':12}{'inputs':>9}" + "".join(f"{column:>9}" for column in COLUMNS))
    bad = 0
    for name in names:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        outcomes, faults = campaign(name, given.seed, first=given.first, **limit)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        taken = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        bad += len(faults)
        counts = {column: outcomes[column] for column in COLUMNS}
        print(f"{name:12}{outcomes.total():9}" + "".join(f"{n:9}" for n in counts.values()), flush=True)
        print("".join(f"    {fault}\n" for fault in faults), end="", flush=True)
        row = {"name": f"fuzz: {name}", "value": outcomes.total(), "unit": "inputs", **counts, "runs": 1}
        record_rows([row | {"seed": given.seed, "first": given.first, "processor_s": round(taken, 1)}], given.row)
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
