"""Seconds until a model has proposed boxes for every image of a folder, as `dataforge annotate --model` has it do.

    python bench/proposals.py MODEL PHOTOS [--before DIR] [--repeats 3] [--note TEXT] [--results FILE]

Images are asked for one after another, each as soon as the one before is there; "first" is the time to the first. Each
round is a process, in turn with another checkout's, DIR. The processor time is that of the model's processes.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(HERE))

from dataforge.bench.measure import record_rows  # noqa: E402

ROUND = """
import json, resource, sys, tempfile, time
from pathlib import Path
from dataforge.transform.edited import open_base
from dataforge.web.proposals import Proposals
from dataforge.web.session import Session

with tempfile.TemporaryDirectory() as folder:
    session = Session(open_base(Path(sys.argv[2])), Path(folder, "overlay"))
    began, proposals, times = time.perf_counter(), Proposals(session, Path(sys.argv[1])), []
    for n in range(len(session.base.places)):
        while (facts := proposals.of(n))["pending"]:
            time.sleep(0.02)
        assert "error" not in facts, facts
        times.append(time.perf_counter() - began)
    proposals.close()
    session.close()
used = resource.getrusage(resource.RUSAGE_CHILDREN)
cpu = used.ru_utime + used.ru_stime
print(json.dumps({"images": len(times), "value": times[-1], "first": times[0], "cpu_s": cpu}))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("photos", type=Path)
    parser.add_argument("--before", type=Path, help="another checkout")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--note", default="")
    parser.add_argument("--results", type=Path)
    options = parser.parse_args()
    trees = {"before": options.before, "after": HERE} if options.before else {"after": HERE}
    rounds: dict[str, list[dict[str, float]]] = {name: [] for name in trees}
    words = [sys.executable, "-c", ROUND, str(options.model.resolve()), str(options.photos.resolve())]
    for _ in range(options.repeats):
        for name, tree in trees.items():
            done = subprocess.run(
                words, cwd=tree, env=os.environ | {"PYTHONPATH": str(tree)}, stdout=subprocess.PIPE, check=True
            )
            rounds[name].append(json.loads(done.stdout))
    rows = [
        {"name": f"proposals, {name}", "unit": "s", "model": options.model.name, "repeats": options.repeats}
        | {key: round(statistics.median(one[key] for one in of_tree), 2) for key in of_tree[0]}
        | {"note": options.note}
        for name, of_tree in rounds.items()
    ]
    print(*map(json.dumps, rows), sep="\n")
    record_rows(rows, options.results)


if __name__ == "__main__":
    main()
