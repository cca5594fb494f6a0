"""Measurements of a training step and the loader, from which the verdict is derived."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from dataforge.bench.measure import measure, memory
from dataforge.bench.stages import Setting, largest, load
from dataforge.bench.verdict import WAITS, Figures
from dataforge.process import module_json
from dataforge.shards.reader import Shards
from dataforge.sources.view import View
from dataforge.threads import cores
from dataforge.transform.bake import bake
from dataforge.transform.form import Form

ROOM = 1.2  # shorter side of a baked image relative to the batch's, so that zooming in has enough pixels


def step(path: Path, trainer: str, seconds: float, **given: Any) -> dict[str, Any]:
    """Run `trainers.bench`. Returns "step", "together" and "waited"; and "loader", the settings of its loader.

    Args:
        trainer: a detector of `trainers`.
        seconds: duration of each of the two measurements.
        given: "config", the trainer's TOML file, "size", "batch_size", "augment", "device", "threads"; missing
            ones default to the trainer's own value.

    Raises:
        ConfigError: the trainer failed; the message contains the last line that it printed.
    """
    words = [trainer, "--shards", path, "--split", largest(path), "--seconds", seconds]
    for key, value in given.items():
        words += [f"--{key.replace('_', '-')}", *(value if isinstance(value, tuple) else (value,))]
    trained = module_json("trainers.bench", *words)
    trained["loader"]["size"] = tuple(trained["loader"]["size"])
    return trained


def figures(given: Setting, rows: list[dict[str, Any]], trained: dict[str, Any], repeats: int) -> Figures:
    """Collect the figures for the verdict, and measure the effect of baking if the step waits.

    Args:
        rows: result of `stages.rows`.
        trained: result of `step`.
    """
    rate = {row["name"]: row["value"] for row in rows}
    name = f"all, {given.augment}" if given.augment else "all"
    costs = {stage: 1 / rate[stage] for stage in ("read", "decode", "resize")}
    if "read, cold" in rate:
        costs["read"] = 1 / rate["read, cold"]
    costs["augment"] = max(0.0, 1 / rate[name] - 1 / rate["all"])
    changes = {f"--threads {row['threads']}": row["value"] for row in rows if row["name"].startswith(f"{name}, ")}
    if trained["waited"] > WAITS:
        changes |= dict(_baked(given, repeats))
    if costs["augment"] == max(costs.values()):
        changes["augmentation left out"] = rate["all"]
    return Figures(
        step=trained["step"],
        loader=rate[name],
        together=trained["together"],
        threads=given.threads,
        waited=trained["waited"],
        costs=costs,
        changes=changes,
    )


def _baked(given: Setting, repeats: int) -> Iterator[tuple[str, float]]:
    """Bake a sample in up to two ways, load it, and yield what was done and images per second.

    Raw pixels are skipped if the whole split does not fit in memory, where the disk would be the limit.
    """
    height, width = given.size
    stretch = given.fit == "stretch"
    side = round(ROOM * (max(given.size) if stretch else min(given.size)) / 32) * 32
    forms = {f"bake --side {side}": Form(side=side)}
    if len(Shards(given.path, given.split)) * height * width * 3 < memory():
        words = f"bake --raw --size {height} {width}" + " --fit stretch" * stretch
        forms[words] = Form(shapes=(given.size,), raw=True, fit=given.fit)
    sample = Shards(given.path, given.split, View(limit=given.images))
    with TemporaryDirectory(prefix="dataforge-bench-") as folder:
        for number, (name, form) in enumerate(forms.items()):
            baked = replace(given, path=Path(folder) / str(number))
            bake(sample, baked.path, form, jobs=cores())
            yield name, measure(name, partial(load, baked), baked.images, repeats)["value"]
