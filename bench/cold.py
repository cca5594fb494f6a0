"""Reading images with an empty page cache: in the order of the full shuffle, and of windows, each pass a process.

    python bench/cold.py SHARDS [--window 4096] [--repeats 7] [--results FILE]

Each pass reads an epoch by the stage of `dataforge bench --cold`; the orders take turns. SHARDS must be on a disk, and
used by no other process.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import sys
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))


def row_of(name: str, values: list[float], unit: str, **facts: Any) -> dict[str, Any]:
    middle, low, high = (float(f"{value:.4g}") for value in (statistics.median(values), min(values), max(values)))
    return {"name": name, "value": middle, "unit": unit, "low": low, "high": high, "repeats": len(values), **facts}


def main() -> None:
    from dataforge.bench import measure, stages

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shards", type=Path)
    parser.add_argument("--window", type=int, default=4096)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--note", help="added to each row")
    parser.add_argument("--results", type=Path)
    given = parser.parse_args()
    names = {"in order": None, "full shuffle": True, f"window:{given.window}": f"window:{given.window}"}
    rates: dict[str, list[float]] = {name: [] for name in names}
    used: dict[str, list[float]] = {name: [] for name in names}
    for _ in range(given.repeats):
        for name, shuffle in names.items():
            setting = stages.setting(given.shards, images=sys.maxsize, shuffle=True if shuffle is None else shuffle)
            stage = stages.read_in_order if shuffle is None else stages.read_ahead
            gaps, handed, cpu, _peak = measure._in_a_process(partial(stages.cold, setting, stage))
            rates[name].append(handed / sum(gaps) / 1e6)
            used[name].append(1e6 * cpu / setting.images)
            print(name, round(rates[name][-1], 1), "MB/s", flush=True)
    facts = {"images": setting.images, "threads": setting.threads, "cache": "cold"} | (
        {"note": given.note} if given.note else {}
    )
    rows = [
        row_of(f"read, cold: {name}", rates[name], "MB/s", cpu_us=round(statistics.median(used[name])), **facts)
        for name in names
    ]
    for base, name in itertools.combinations(names, 2):
        ratios = [a / b for a, b in zip(rates[name], rates[base], strict=True)]
        rows.append(row_of(f"read, cold: {name} / {base}, each turn", ratios, "x", **facts))
    measure.record_rows(rows, given.results)
    for row in rows:
        print(json.dumps(row))


if __name__ == "__main__":
    main()
