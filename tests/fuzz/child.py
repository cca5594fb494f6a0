"""A child process that gives mutated files to one reader: `python -m tests.fuzz.child READER SEED SECONDS FOLDER`.

Before each input it writes the input's number to FOLDER/at, so that the parent knows which one ended it. It prints one
JSON object: how many inputs had which outcome, and the first undrawn error of each kind.
"""

from __future__ import annotations

import json
import random
import resource
import sys
import time
import traceback
from collections import Counter
from pathlib import Path

from dataforge.errors import DataforgeError
from tests.fuzz.readers import READERS

MEMORY = 6 << 30


def main(name: str, seed: int, seconds: float, folder: Path) -> None:
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    reader = READERS[name](folder)
    outcomes: Counter[str] = Counter()
    undrawn: dict[str, str] = {}
    at, end, n = folder / "at", time.monotonic() + seconds, 0
    while time.monotonic() < end:
        at.write_text(str(n))
        try:
            reader(random.Random(f"{seed} {n}"))
            outcomes["read"] += 1
        except DataforgeError:
            outcomes["refused"] += 1
        except Exception as error:
            outcomes["undrawn"] += 1
            frame = traceback.extract_tb(error.__traceback__)[-1]
            kind = f"{type(error).__name__} in {Path(frame.filename).name}:{frame.lineno}"
            undrawn.setdefault(kind, f"seed {seed}, input {n}: {error}"[:300])
        n += 1
    print(json.dumps({"inputs": n, "outcomes": outcomes, "undrawn": undrawn}))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), float(sys.argv[3]), Path(sys.argv[4]))
