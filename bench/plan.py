"""What planning costs up to 10^9 records, how well windows shuffle, and what index, tables and caches cost at scale.

    python bench/plan.py [--parts plan,shuffle,index,table,cache,split] [--results FILE]

* "plan": from the call of `plan` to the first step of a window plan, then to a step in the middle of the epoch, as a
  resumed loader does, and a step; and the peak memory above that of the imports. The sizes of the images are one number
  that all records share, so that nothing but the plan takes memory. "full" is the full shuffle.
* "shuffle": a set in the order of its classes, as value i / N of record i: the variance of the mean value of one batch
  and of ten, over that of independent draws; the mean distance of two records of a batch, over that of two of the set.
  A full shuffle has 1.
* "index": size of an index, and time and memory of reading it; "table": the same of the tables of a set, by record.
* "cache": a simulated cache of a part of the set, from which the least recently used record goes: the share of records
  found in it, by epochs of the full shuffle and of windows, after two epochs.
* "split": grouping N random hashes, a tenth of which have a copy that differs in two bits, as lint and `split` do after
  they have hashed the images; and assigning N records with 7 boxes of 80 classes to three splits.

All times are processor time; what is timed runs in a process of its own.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import subprocess
import sys
import tempfile
import time
from collections import OrderedDict
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

REPEATS = 3
BATCH, BOXES = 32, 7
# records, loaders, records of a window (None: full shuffle), shapes
PLANS = [
    *((records, 1, 1 << 16, 1) for records in (10**6, 10**7, 10**8, 10**9)),
    (10**9, 1000, 1 << 20, 1),
    (10**6, 1, None, 1),
    (10**7, 1, None, 1),
    (10**7, 1, 1 << 16, 4),
]
SHARDS = (10**3, 10**4, 10**5, 10**6)
TABLES = ((10**5, 13), (10**6, 125))  # records, shards
SUCCESSIVE = 10  # batches that an optimizer's momentum of 0.9 averages
QUALITY, WINDOWS = 10**6, (1024, 4096, 16384, 65536)
DEALT = (10**5, 10**6)
CACHED, SHARES = 200_000, (0.25, 0.5, 0.75, 0.9)


def row_of(name: str, values: list[float], unit: str, **facts: Any) -> dict[str, Any]:
    middle, low, high = (float(f"{value:.4g}") for value in (statistics.median(values), min(values), max(values)))
    return {"name": name, "value": middle, "unit": unit, "low": low, "high": high, "runs": len(values), **facts}


def plan_once(records: int, world: int, window: int | None, shapes: int) -> dict[str, float]:
    from dataforge.bench.measure import peak, reset_peak
    from dataforge.loading.sampler import plan

    reset_peak()
    before = peak()
    side = np.broadcast_to(np.int32(480), records)
    sizes = [(320, 320), (288, 352), (352, 288), (256, 384)][:shapes]
    seconds, rank = {}, world // 2
    started = time.process_time()
    shuffle: bool | str = f"window:{window}" if window else True
    epoch = plan(side, side, sizes, BATCH * world, epoch=1, rank=rank, world=world, shuffle=shuffle)
    steps = iter(epoch)
    next(steps)
    seconds["first"] = time.process_time() - started
    count = 2 * (window or records // 4) // BATCH // world  # so that windows are planned among them
    started = time.process_time()
    assert sum(1 for _ in islice(steps, count)) == count
    seconds["step"] = (time.process_time() - started) / count
    started = time.process_time()
    length = len(epoch)
    seconds["len"] = time.process_time() - started
    started = time.process_time()
    assert next(epoch.dealt(length // 2))
    seconds["middle"] = time.process_time() - started
    return seconds | {"MiB": (peak() - before) / 2**20}


def index_once(path: str) -> dict[str, float]:
    from dataforge.bench.measure import peak
    from dataforge.shards.index import read_index

    before, started = peak(), time.process_time()
    index = read_index(Path(path))
    seconds = time.process_time() - started
    assert index["splits"]
    return {"first": seconds, "MiB": (peak() - before) / 2**20}


def table_once(path: str) -> dict[str, float]:
    from dataforge.bench.measure import peak
    from dataforge.shards.table import read_tables

    before, started = peak(), time.process_time()
    table = read_tables(sorted(Path(path).glob("*.arrow")))
    seconds = time.process_time() - started
    held = sum(column.nbytes for column in vars(table).values() if hasattr(column, "nbytes"))
    return {"first": seconds, "MiB": (peak() - before) / 2**20, "held": held, "records": len(table)}


def groups_once(records: int) -> dict[str, float]:
    from dataforge.bench.measure import peak
    from dataforge.transform.similar import groups

    rng = np.random.default_rng(0)
    hashes = rng.integers(1, 1 << 63, records, np.uint64)
    copies = records // 10
    bits = rng.integers(0, 63, (2, copies), np.uint64)
    hashes[:copies] = hashes[copies : 2 * copies] ^ (np.uint64(1) << bits[0]) ^ (np.uint64(1) << bits[1])
    before, started = peak(), time.process_time()
    group = groups(hashes)
    seconds = time.process_time() - started
    assert (group[:copies] == group[copies : 2 * copies]).all()
    return {"first": seconds, "MiB": (peak() - before) / 2**20}


def deal_once(records: int) -> dict[str, float]:
    from dataforge.bench.measure import peak
    from dataforge.transform.split import deal

    rng = np.random.default_rng(0)
    image, label = np.repeat(np.arange(records), BOXES), rng.zipf(1.5, records * BOXES) % 80
    keys = [f"train/{n:012d}.jpg" for n in range(records)]
    before, started = peak(), time.process_time()
    part = deal(np.arange(records), image, label, keys, (0.8, 0.1, 0.1))
    seconds = time.process_time() - started
    assert abs((part == 0).mean() - 0.8) < 0.01
    return {"first": seconds, "MiB": (peak() - before) / 2**20}


def apart(part: str, *given: Any) -> list[dict[str, float]]:
    """Run a part in processes of its own, one after the other."""
    words = [sys.executable, __file__, "once", part, *map(json.dumps, given)]
    runs = [subprocess.run(words, check=True, capture_output=True).stdout for _ in range(REPEATS)]
    return [json.loads(run.splitlines()[-1]) for run in runs]


def plans() -> Iterator[dict[str, Any]]:
    for records, world, window, shapes in PLANS:
        runs = apart("plan_once", records, world, window, shapes)
        name = f"plan, 1e{round(math.log10(records))} records, {f'window:{window}' if window else 'full'}, "
        name += f"{world} loaders, {shapes} shapes"
        texts = {"first": "to the first step", "middle": "to a step in the middle", "step": "a step", "len": "len"}
        for key, text in texts.items():
            yield row_of(f"{name}: {text}", [run[key] for run in runs], "CPU s")
        yield row_of(f"{name}: peak memory", [run["MiB"] for run in runs], "MiB")


def shuffles() -> Iterator[dict[str, Any]]:
    from dataforge.loading.sampler import plan

    side = np.broadcast_to(np.int32(480), QUALITY)
    for window in (None, *WINDOWS):
        shuffle: bool | str = f"window:{window}" if window else True
        spread, slow, distance = [], [], []
        for epoch in range(REPEATS):
            steps = plan(side, side, [(320, 320)], BATCH, epoch=epoch, shuffle=shuffle)
            order = np.stack([step.index for step in steps if len(step.index) == BATCH]) / QUALITY
            spread.append(float(order.mean(1).var() * 12 * BATCH))
            means = order[: len(order) // SUCCESSIVE * SUCCESSIVE].reshape(-1, SUCCESSIVE * BATCH).mean(1)
            slow.append(float(means.var() * 12 * BATCH * SUCCESSIVE))
            mixed = np.random.default_rng(0).permuted(order, axis=1)  # a step's own order is by block
            distance.append(float(np.abs(np.diff(mixed, axis=1)).mean() * 3))
        blocks = math.inf if window is None else max(64, window // 64)
        name = f"shuffle, {shuffle if window else 'full'}, sorted set, batches of {BATCH}"
        formula = round(1 + (SUCCESSIVE - 1) * BATCH / blocks, 3)
        yield row_of(f"{name}: variance of a batch's mean", spread, "x", formula=1.0)
        yield row_of(f"{name}: variance of the mean of {SUCCESSIVE} successive", slow, "x", formula=formula)
        yield row_of(f"{name}: mean distance in a batch", distance, "x", formula=1.0)


def indices() -> Iterator[dict[str, Any]]:
    from dataforge.shards.index import write_index

    for count in SHARDS:
        with tempfile.TemporaryDirectory() as folder:
            facts = {"images": 8192, "boxes": 57344, "bytes": 1 << 30, "table_crc": 3_000_000_000}
            shards = [{"path": f"train/{n:05d}", **facts} for n in range(count)]
            index = {"format_version": 1, "classes": ["a"], "class_ids": [1], "source": "coco", "store": "lmdb"}
            write_index(Path(folder), index | {"codec": "keep", "splits": {"train": shards}, "unions": {}})
            size = (Path(folder) / "index.json").stat().st_size
            runs = apart("index_once", folder)
        name = f"index of {count} shards"
        yield {"name": f"{name}: size", "value": size / count, "unit": "B/shard", "runs": 1, "mb": round(size / 1e6, 2)}
        yield row_of(f"{name}: read", [run["first"] for run in runs], "CPU s")
        yield row_of(f"{name}: peak memory", [run["MiB"] for run in runs], "MiB")


def tables() -> Iterator[dict[str, Any]]:
    from dataforge.shards.table import Jagged, write_table

    for records, shards in TABLES:
        each = records // shards
        with tempfile.TemporaryDirectory() as folder:
            none = [0] * each
            count = each * BOXES
            columns: dict[str, list[object]] = {name: list(none) for name in ("id", "orientation", "size", "crc")}
            columns |= {"height": [480] * each, "width": [640] * each}
            objects = Jagged(
                np.ones((count, 4), np.float32),
                np.zeros(count, np.int32),
                np.zeros(count, np.uint8),
                np.ones(count, np.float32),
                np.arange(0, count + 1, BOXES),
            )
            for shard in range(shards):
                columns["key"] = [f"images/{shard:05d}{n:07d}.jpg" for n in range(each)]
                write_table(Path(folder) / f"{shard:05d}.arrow", columns, objects)
            size = sum(file.stat().st_size for file in Path(folder).iterdir())
            runs = apart("table_once", folder)
        read = runs[0]["records"]
        name = f"tables of {records} records, {BOXES} boxes each"
        yield {"name": f"{name}: size", "value": round(size / read, 1), "unit": "B/record", "runs": 1}
        yield row_of(f"{name}: read", [run["first"] * 1e6 / read for run in runs], "CPU us/record")
        yield row_of(f"{name}: columns held", [run["held"] / read for run in runs], "B/record")
        yield row_of(f"{name}: peak memory", [run["MiB"] * 2**20 / read for run in runs], "B/record")


def caches() -> Iterator[dict[str, Any]]:
    from dataforge.loading.sampler import plan

    side = np.broadcast_to(np.int32(480), CACHED)
    for shuffle in (True, "window:4096"):
        for share in SHARES:
            kept: OrderedDict[int, None] = OrderedDict()
            rates = []
            for epoch in range(2 + REPEATS):
                hits = 0
                for steps in plan(side, side, [(320, 320)], BATCH, epoch=epoch, shuffle=shuffle).dealt():
                    index = np.concatenate([step.index for step in steps])
                    for i in (np.sort(index) if shuffle is not True else index).tolist():
                        if i in kept:
                            hits += 1
                            kept.move_to_end(i)
                            continue
                        kept[i] = None
                        if len(kept) > share * CACHED:
                            kept.popitem(last=False)
                rates.append(hits / CACHED)
            missing = 1 - share
            name = f"cache of {share} of the set, {'full shuffle' if shuffle is True else shuffle}: found"
            yield row_of(name, rates[2:], "share", formula=round(1 - missing + missing * math.log(missing), 3))


def splits() -> Iterator[dict[str, Any]]:
    for part, text in (("groups_once", "grouping similar hashes"), ("deal_once", "dealing records to splits")):
        for records in DEALT:
            runs = apart(part, records)
            yield row_of(f"{text}, {records}", [run["first"] for run in runs], "CPU s")
            yield row_of(f"{text}, {records}: peak memory", [run["MiB"] for run in runs], "MiB")


PARTS = {"plan": plans, "shuffle": shuffles, "index": indices, "table": tables, "cache": caches, "split": splits}


def main() -> None:
    from dataforge.bench.measure import record_rows

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", default=",".join(PARTS))
    parser.add_argument("--note", help="added to each row")
    parser.add_argument("--results", type=Path, help="a file of rows to add to")
    given = parser.parse_args()
    for part in given.parts.split(","):
        rows = [row | ({"note": given.note} if given.note else {}) for row in PARTS[part]()]
        for row in rows:
            print(f"{row['name']:<90} {row['value']:>10.4g} {row['unit']} {row.get('formula', '')}", flush=True)
        record_rows(rows, given.results)


if __name__ == "__main__":
    if sys.argv[1:2] == ["once"]:
        print(json.dumps(globals()[sys.argv[2]](*map(json.loads, sys.argv[3:]))))
    else:
        main()
