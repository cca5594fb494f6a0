"""A run's folder: its arguments, rows, events and checkpoints, and how a stopped run finds its place again."""

from __future__ import annotations

import csv
import itertools
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dataforge.errors import ConfigError
from trainers import checkpoint
from trainers.config import Config, write_toml

ARGS, RESULTS, STEPS = "args.toml", "results.csv", "steps.csv"
START = "start.json"


def create(config: Config, detector: str) -> Path:
    """Make the folder of a new run and write its arguments there.

    Raises:
        ConfigError: the name is taken.
    """
    root = Path(config.runs) / detector
    names = [config.name] if config.name else ("exp" + (str(i) if i > 1 else "") for i in itertools.count(1))
    for name in names:
        try:
            (root / name / "weights").mkdir(parents=True)
        except FileExistsError:
            continue
        except OSError as error:
            raise ConfigError(f"{root / name}: cannot be made: {error.strerror}") from None
        config.name = name
        write_toml(config, root / name / ARGS)
        return root / name
    raise ConfigError(f"{root / config.name}: that run exists; choose another --name, or --resume {root / config.name}")


def begin(folder: Path, detector: str, loader: dict[str, Any]) -> None:
    """Note what a new run starts from: the detector's name, and the state of the loader, with its fingerprint."""
    (folder / START).write_text(json.dumps({"detector": detector, "loader": loader}) + "\n", "utf-8")


def start(folder: Path) -> dict[str, Any]:
    """What `begin` noted: "detector" and "loader".

    Raises:
        ConfigError: there is no such run.
    """
    try:
        found: dict[str, Any] = json.loads((folder / START).read_text("utf-8"))
    except (OSError, ValueError):
        raise ConfigError(f"{folder}: holds no {START} that can be read; expected the folder of a run") from None
    return found


def append(file: Path, row: Mapping[str, Any]) -> None:
    """Add a row to a CSV file, with a head if it is the first."""
    new = not file.exists()
    with open(file, "a", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, row)
        if new:
            writer.writeheader()
        writer.writerow(row)


def rewind(file: Path, step: int) -> None:
    """Take back the rows after a step: they were written after the checkpoint that a run resumes from."""
    if not file.exists():
        return
    with open(file, newline="", encoding="utf-8") as stream:
        head, *rows = csv.reader(stream)
    at = head.index("step")
    kept = [row for row in rows if len(row) == len(head) and int(row[at]) <= step]
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


def last(folder: Path) -> dict[str, Any]:
    """The newest checkpoint of a run.

    Raises:
        ConfigError: there is no such run, or it has no checkpoint yet.
    """
    if not (folder / ARGS).is_file():
        raise ConfigError(f"{folder}: holds no {ARGS}; expected the folder of a run")
    return checkpoint.load(folder / "weights" / "last.pt")
