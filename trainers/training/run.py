"""Run folder: arguments, rows, events and checkpoints, and resuming a stopped run."""

from __future__ import annotations

import csv
import itertools
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from dataforge.errors import ConfigError
from dataforge.files import writing
from trainers import checkpoint
from trainers.config import Config, write_toml

ARGS, RESULTS, STEPS = "args.toml", "results.csv", "steps.csv"
START = "start.json"


def create(config: Config, detector: str) -> Path:
    """Create the folder of a new run and write its arguments there.

    A run of the same name that ended before its first checkpoint is started over.

    Raises:
        ConfigError: the name is taken, or the folder cannot be written.
    """
    root = Path(config.runs) / detector
    names = [config.name] if config.name else ("exp" + (str(i) if i > 1 else "") for i in itertools.count(1))
    for name in names:
        folder = root / name
        with writing(folder, ConfigError):
            try:
                (folder / "weights").mkdir(parents=True)
            except FileExistsError:
                if not config.name or not (folder / ARGS).is_file() or newest(folder):
                    continue
                start_over(folder)
            config.name = name
            write_toml(config, folder / ARGS)
        return folder
    raise ConfigError(f"{root / config.name}: that run exists; choose another --name, or --resume {root / config.name}")


def start_over(folder: Path) -> Path:
    """Remove the rows of a run that ended before its first checkpoint, print a message, return its folder."""
    with writing(folder, ConfigError):
        for name in (RESULTS, STEPS):
            (folder / name).unlink(missing_ok=True)
    click.echo(f"{folder}: has no checkpoint; the run starts over")
    return folder


def begin(folder: Path, detector: str, loader: dict[str, Any]) -> None:
    """Record the start of a new run: the detector's name, and the state of the loader, with its fingerprint."""
    (folder / START).write_text(json.dumps({"detector": detector, "loader": loader}) + "\n", "utf-8")


def start(folder: Path) -> dict[str, Any]:
    """Return what `begin` recorded: "detector" and "loader".

    Raises:
        ConfigError: the run does not exist.
    """
    try:
        noted: dict[str, Any] = json.loads((folder / START).read_text("utf-8"))
    except (OSError, ValueError):
        raise ConfigError(f"{folder}: holds no {START} that can be read; expected the folder of a run") from None
    return noted


def arguments(folder: Path) -> Path:
    """Return the file with a run's values.

    Raises:
        ConfigError: the run does not exist.
    """
    if not (folder / ARGS).is_file():
        raise ConfigError(f"{folder}: holds no {ARGS}; expected the folder of a run")
    return folder / ARGS


def append(file: Path, row: Mapping[str, Any]) -> None:
    """Add a row to a CSV file, with a header if it is the first."""
    new = not file.exists()
    with open(file, "a", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, row)
        if new:
            writer.writeheader()
        writer.writerow(row)


def rewind(file: Path, step: int) -> None:
    """Remove the rows after a step: they were written after the checkpoint that a run resumes from."""
    if not file.exists():
        return
    with open(file, newline="", encoding="utf-8") as stream:
        head, *rows = csv.reader(stream)
    column = head.index("step")
    kept = [row for row in rows if len(row) == len(head) and int(row[column]) <= step]
    temporary = file.with_name(file.name + ".tmp")
    with open(temporary, "w", newline="", encoding="utf-8") as stream:
        csv.writer(stream).writerows([head, *kept])
    os.replace(temporary, file)


def save(folder: Path, state: dict[str, Any], step: int, keep: int) -> None:
    """Write `weights/step-N.pt`, point `weights/last.pt` at it, and remove all but the newest `keep`."""
    weights = folder / "weights"
    file = weights / f"step-{step:07d}.pt"
    checkpoint.save(file, state)
    link = weights / "last.pt.tmp"
    link.unlink(missing_ok=True)
    try:
        link.hardlink_to(file)
        os.replace(link, weights / "last.pt")
        link.unlink(missing_ok=True)  # rename of two links to one file leaves both
    except OSError:  # a file system without hard links
        checkpoint.save(weights / "last.pt", state)
    for old in sorted(weights.glob("step-*.pt"))[:-keep]:
        old.unlink()


def newest(folder: Path) -> Path | None:
    """Return the newest checkpoint file of a run; None before the first."""
    files = [*sorted((folder / "weights").glob("step-*.pt")), folder / "weights" / "last.pt"]
    return next((file for file in reversed(files) if file.is_file()), None)


def last(folder: Path) -> dict[str, Any] | None:
    """Read the newest checkpoint of a run; None before the first.

    Raises:
        ConfigError: the run does not exist, or the file cannot be read.
    """
    arguments(folder)
    file = newest(folder)
    return checkpoint.load(file) if file else None
