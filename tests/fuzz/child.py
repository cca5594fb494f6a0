"""A child process that gives mutated files to a reader: `tests.fuzz.child READER SEED FIRST INPUTS SECONDS FOLDER`.

Before each input it writes the input's number and the outcomes so far to FOLDER/at, so that the parent knows which one
ended it. It prints the first undrawn error of each kind. An input that takes longer than `STUCK` seconds ends it by
SIGALRM.
"""

from __future__ import annotations

import json
import os
import random
import resource
import signal
import sys
import time
import traceback
from collections import Counter
from pathlib import Path

from dataforge.errors import DataforgeError
from tests.fuzz.readers import READERS

MEMORY = 6 << 30
STUCK = 60


def main(name: str, seed: int, first: int, inputs: int, seconds: float, folder: Path) -> None:
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    reader = READERS[name](folder)
    outcomes: Counter[str] = Counter()
    kinds: set[str] = set()
    at, end = os.open(folder / "at", os.O_CREAT | os.O_WRONLY), time.monotonic() + seconds
    for n in range(first, first + inputs):
        os.pwrite(at, json.dumps({"input": n, "outcomes": outcomes}).ljust(200).encode(), 0)
        if time.monotonic() > end:
            return
        signal.alarm(STUCK)
        try:
            reader(random.Random(f"{seed} {n}"))
            outcomes["read"] += 1
        except DataforgeError:
            outcomes["refused"] += 1
        except Exception as error:
            outcomes["undrawn"] += 1
            frame = traceback.extract_tb(error.__traceback__)[-1]
            kind = f"{type(error).__name__} in {Path(frame.filename).name}:{frame.lineno}"
            if kind not in kinds:
                kinds.add(kind)
                print(f"{kind}: seed {seed}, input {n}: {error}"[:300].replace("\n", " "), flush=True)
    os.pwrite(at, json.dumps({"input": first + inputs, "outcomes": outcomes}).ljust(200).encode(), 0)


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:5]), float(sys.argv[5]), Path(sys.argv[6]))
