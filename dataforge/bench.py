"""How many images a second each stage gives here: reading, decoding, and the loader as a whole."""

from __future__ import annotations

import os
import platform
import statistics
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import date
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import dataforge
from dataforge.decode import decode
from dataforge.errors import ConfigError
from dataforge.loader import Loader, cores
from dataforge.shards.reader import Shards


def machine() -> dict[str, Any]:
    """What a figure was measured on and with: the parts "machine", "versions" and "date" of a result row."""
    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.is_file():
        models = [line.partition(":")[2].strip() for line in info.read_text().splitlines() if "model name" in line]
        cpu = models[0] if models else cpu
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else 0
    versions = {"python": platform.python_version(), "torch": version("torch"), "numpy": version("numpy")}
    return {
        "machine": {"cpu": cpu, "cores": cores(), "memory_gib": round(memory / 2**30, 1)},
        "versions": versions | {"dataforge": dataforge.__version__},
        "date": date.today().isoformat(),
    }


def rows(
    path: Path, *, size: tuple[int, int] = (320, 320), batch_size: int = 32, repeats: int = 5
) -> list[dict[str, Any]]:
    """Measure each stage over all records, once unmeasured and then `repeats` times; so the page cache is warm.

    Returns:
        One row a stage, as `bench/results/*.jsonl` holds them: "name", "value" (the median), "unit", "low" and "high"
        (the extremes), "repeats", "cache", "images", and `machine()`.

    Raises:
        ConfigError: fewer than 5 repeats. ShardError, DataError: the shards are damaged.
    """
    if repeats < 5:
        raise ConfigError(f"repeats is {repeats}; expected at least 5, so that a median means something")
    shards = Shards(path)
    split = max(shards.index["splits"], key=lambda name: len(shards.splits[name]))
    shards = Shards(path, split)
    count, orientation, threads = len(shards), shards.table.orientation, cores()

    def read() -> None:
        for i in range(count):
            bytes(shards.blob(i))

    def decode_part(part: int) -> None:
        for i in range(part, count, threads):
            decode(shards.blob(i), int(orientation[i]))

    def load(augment: str | None) -> Callable[[], None]:
        loader = Loader(path, split, batch_size, size, augment)

        def epoch() -> None:
            for _ in loader:
                pass

        return epoch

    found = []
    with ThreadPoolExecutor(threads) as pool:
        stages: dict[str, Callable[[], object]] = {
            "read": read,
            "decode": lambda: list(pool.map(decode_part, range(threads))),
            "loader": load(None),
            "loader, flip": load("flip"),
            "loader, yolo": load("yolo"),
        }
        setting = {"batch_size": batch_size, "size": list(size), "threads": threads, "images": count}
        for name, run in stages.items():
            run()
            rates = sorted(count / _seconds(run) for _ in range(repeats))
            row = {"name": name, "value": round(statistics.median(rates), 1), "unit": "img/s"}
            row |= {"low": round(rates[0], 1), "high": round(rates[-1], 1), "repeats": repeats, "cache": "warm"}
            found.append(row | setting | machine())
    return found


@contextmanager
def shards_or_drawn(path: Path | None, images: int = 320) -> Iterator[Path]:
    """The given shards, or those of a drawn set in a temporary folder."""
    if path is not None:
        yield path
        return
    from dataforge.formats.coco import read
    from dataforge.ingest import ingest
    from dataforge.synth import write

    with TemporaryDirectory(prefix="dataforge-bench-") as folder:
        write(Path(folder) / "pictures", images=images, size=(480, 640))
        ingest(read(Path(folder) / "pictures"), Path(folder) / "shards", source_name="coco")
        yield Path(folder) / "shards"


def _seconds(run: Callable[[], object]) -> float:
    started = time.perf_counter()
    run()
    return time.perf_counter() - started


def describe(found: list[dict[str, Any]]) -> str:
    """`rows` as text."""
    first = found[0]
    here, (height, width) = first["machine"], first["size"]
    lines = [
        f"{first['images']} images, batches of {first['batch_size']} at {height}x{width}, {first['threads']} threads; "
        f"warm page cache; median of {first['repeats']} passes (lowest to highest)",
        f"{here['cpu']}, {here['cores']} cores, {here['memory_gib']} GiB",
    ]
    lines += [f"{row['name']:<14}{row['value']:>10.0f} img/s  ({row['low']:.0f} to {row['high']:.0f})" for row in found]
    return "\n".join(lines)
