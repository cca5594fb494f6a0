"""Common harness for all measurements, and the metadata of result rows."""

from __future__ import annotations

import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from datetime import date
from importlib.metadata import version
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

import dataforge
from dataforge.errors import ConfigError
from dataforge.threads import cores

LEAST_REPEATS = 5


def machine() -> dict[str, Any]:
    """Return the measurement environment: the entries "machine", "versions" and "date" of a result row."""
    versions = {"python": platform.python_version(), "torch": version("torch"), "numpy": version("numpy")}
    return {
        "machine": {"cpu": cpu(), "cores": cores(), "memory_gib": round(memory() / 2**30, 1)},
        "versions": versions | {"dataforge": dataforge.__version__},
        "date": date.today().isoformat(),
    }


def cpu() -> str:
    """Return the model of the CPU, or its architecture where the system does not tell."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    models = (line.partition(":")[2].strip() for line in lines if "model name" in line)
    return next(models, platform.processor() or platform.machine())


def memory() -> int:
    """Return the memory of this machine in bytes; 0 if unknown."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else 0


def record_rows(rows: Iterable[Mapping[str, Any]], file: Path | None) -> None:
    """Append rows to a file of results, adding `machine()` where it is missing; do nothing if `file` is None."""
    if file is not None:
        facts = machine()
        file.parent.mkdir(parents=True, exist_ok=True)
        with open(file, "a", encoding="utf-8") as lines:
            lines.writelines(json.dumps({**row, **facts, **row}) + "\n" for row in rows)


def measure(
    name: str, stage: Callable[[], Iterator[int]], images: int, repeats: int, *, fresh: bool = False
) -> dict[str, Any]:
    """Run a stage over all its images, once unmeasured and then `repeats` times.

    Args:
        stage: prepares (not measured), and returns an iterator that processes one batch per step and yields the number
            of bytes it passed on.
        fresh: run each pass in its own process, so that no file is still mapped.

    Returns:
        "name", "value" (images per second, the median), "unit", "low", "high" (the extremes), "repeats", "images",
        "mb_per_s" (of the bytes passed on), "cpu_percent" (100 is one core), "peak_mib" (memory of this process),
        "p50_ms" and "p99_ms" (from batch to batch).

    Raises:
        ConfigError: fewer than 5 repeats.
    """
    if repeats < LEAST_REPEATS:
        raise ConfigError(f"repeats is {repeats}; expected at least {LEAST_REPEATS}, to compute a median")
    passed = [_in_a_process(stage) if fresh else _once(stage) for _ in range(repeats + 1)][1:]
    seconds = [sum(gaps) for gaps, _, _, _ in passed]
    rates = [images / spent for spent in seconds]
    handed = [row[1] / spent for row, spent in zip(passed, seconds, strict=True)]
    used = [row[2] / spent for row, spent in zip(passed, seconds, strict=True)]
    gaps = np.concatenate([gaps for gaps, _, _, _ in passed])
    p50, p99 = np.percentile(gaps, [50, 99])
    return {
        "name": name,
        "value": round(statistics.median(rates), 1),
        "unit": "img/s",
        "low": round(min(rates), 1),
        "high": round(max(rates), 1),
        "repeats": repeats,
        "images": images,
        "mb_per_s": round(statistics.median(handed) / 1e6, 1),
        "cpu_percent": round(statistics.median(used) * 100),
        "peak_mib": round(max(row[3] for row in passed) / 2**20),
        "p50_ms": round(p50 * 1000, 4),
        "p99_ms": round(p99 * 1000, 4),
    }


def _once(stage: Callable[[], Iterator[int]]) -> tuple[list[float], int, float, int]:
    """Return seconds from batch to batch, bytes passed on, CPU seconds of all cores, and peak memory in bytes."""
    reset_peak()
    gaps, handed = [], 0
    batches = stage()
    used, last = time.process_time(), time.perf_counter()
    for count in batches:
        now = time.perf_counter()
        gaps.append(now - last)
        handed, last = handed + count, now
    return gaps, handed, time.process_time() - used, peak()


def _in_a_process(stage: Callable[[], Iterator[int]]) -> tuple[list[float], int, float, int]:
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(_once, stage).result()


def reset_peak() -> None:
    """Reset the value of `peak`, where the system supports it."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def peak() -> int:
    """Return the peak memory of this process since `reset_peak`, in bytes; 0 if unknown."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM")), 0)
