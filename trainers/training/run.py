"""Run folder: arguments, rows, events and checkpoints, and resuming a stopped run."""

from __future__ import annotations

import csv
import itertools
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from dataforge.command import echo
from dataforge.errors import ConfigError
from dataforge.files import lock_file, reading, writing
from trainers import checkpoint
from trainers.config import Config, read_toml, write_toml

ARGS, RESULTS, STEPS = "args.toml", "results.csv", "steps.csv"
KEPT = ("epochs", "amp")  # arguments that a resumed run may change for good
START, LOCK = "start.json", "lock"


def create(config: Config, detector: str, held: ExitStack) -> Path:
    """Create the folder of a new run, lock it, and write its arguments there.

    A run of the same name that ended before its first checkpoint is started over.

    Args:
        held: releases the lock when it is closed.

    Raises:
        ConfigError: the name is taken, another process runs it, or the folder cannot be written.
    """
    root = Path(config.runs) / detector
    names = [config.name] if config.name else ("exp" + (str(i) if i > 1 else "") for i in itertools.count(1))
    for name in names:
        folder = root / name
        with writing(folder, ConfigError):
            try:
                (folder / "weights").mkdir(parents=True)
            except FileExistsError:
                if not config.name or not unfinished(folder):
                    continue
                held.enter_context(locked(folder))
                start_over(folder)
            else:
                held.enter_context(locked(folder))
            config.name = name
            _write(config, folder)
        return folder
    raise ConfigError(f"{root / config.name}: that run exists; choose another --name, or --resume {root / config.name}")


def _write(config: Config, folder: Path) -> None:
    write_toml(config, folder / (ARGS + ".tmp"))
    os.replace(folder / (ARGS + ".tmp"), folder / ARGS)


def keep(folder: Path, config: Config) -> None:
    """Write the number of epochs and the precision of a resumed run to its arguments: later ones take the same.

    Raises:
        ConfigError: the file cannot be read or written.
    """
    old = read_toml(type(config), folder / ARGS)
    new = old | {name: getattr(config, name) for name in KEPT}
    if new != old:
        with writing(folder / ARGS, ConfigError):
            _write(type(config)(**new), folder)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the lock of a run's folder, which ends with the process at the latest.

    Raises:
        ConfigError: another process holds it, or the folder cannot be written.
    """
    with writing(folder, ConfigError):
        handle = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT)
    try:
        try:
            lock_file(handle)
        except BlockingIOError:
            raise ConfigError(f"{folder}: another process trains this run; wait for it, or end it first") from None
        yield
    finally:
        os.close(handle)


def unfinished(folder: Path) -> bool:
    """Return whether a folder is that of a run without a checkpoint: it may have been killed at any moment."""
    if not folder.is_dir():
        return False
    names = {entry.name for entry in folder.iterdir()}
    begun = {"weights", ARGS} <= names or names <= {"weights", LOCK, ARGS + ".tmp"}
    return begun and newest(folder) is None


def start_over(folder: Path) -> Path:
    """Remove the rows of a run that ended before its first checkpoint, print a message, return its folder."""
    with writing(folder, ConfigError):
        for name in (RESULTS, STEPS):
            (folder / name).unlink(missing_ok=True)
    echo(f"{folder}: has no checkpoint; the run starts over")
    return folder


def begin(folder: Path, detector: str, loader: dict[str, Any]) -> None:
    """Record the start of a new run: the detector's name, the loader's state, with its fingerprint, and the job."""
    temporary = folder / (START + ".tmp")
    noted = {"detector": detector, "loader": loader} | ({"job": job()} if job() else {})
    with writing(folder / START, ConfigError):
        temporary.write_text(json.dumps(noted) + "\n", "utf-8")
        os.replace(temporary, folder / START)


def start(folder: Path) -> dict[str, Any]:
    """Return what `begin` recorded: "detector" and "loader".

    Raises:
        ConfigError: the run does not exist.
    """
    try:
        noted: dict[str, Any] = json.loads((folder / START).read_text("utf-8"))
    except (OSError, ValueError):
        reason = f"holds no {START} that can be read" if folder.exists() else "does not exist"
        raise ConfigError(f"{folder}: {reason}; expected the folder of a run") from None
    return noted


def job() -> str:
    """Return the `--rdzv-id` of the torchrun that started this process; "" without one."""
    return os.environ.get("TORCHELASTIC_RUN_ID", "none").removeprefix("none")


def restarted(config: Config, detector: str) -> Path | None:
    """Return the folder of the named run if this job began it: torchrun has started its processes again.

    A process was lost, or the number of processes has changed. Without a checkpoint, `create` starts the run over.
    """
    folder = Path(config.runs) / detector / config.name
    if not (config.name and job() and folder.is_dir()) or unfinished(folder):
        return None
    return folder if start(folder).get("job") == job() else None


def arguments(folder: Path) -> Path:
    """Return the file with a run's values.

    Raises:
        ConfigError: the run does not exist.
    """
    if not (folder / ARGS).is_file():
        if unfinished(folder):
            raise ConfigError(
                f"{folder}: ended before its values were written; start it again, with --name {folder.name}"
            )
        reason = f"holds no {ARGS}" if folder.exists() else "does not exist"
        raise ConfigError(f"{folder}: {reason}; expected the folder of a run")
    return folder / ARGS


def append(file: Path, row: Mapping[str, Any]) -> None:
    """Add a row to a CSV file, with a header if it is the first."""
    new = not file.exists() or not file.stat().st_size
    with writing(file, ConfigError), open(file, "a", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, row)
        if new:
            writer.writeheader()
        writer.writerow(row)


def rewind(file: Path, step: int) -> None:
    """Remove the rows after a step: they were written after the checkpoint that a run resumes from."""
    if not file.exists():
        return
    with reading(file, ConfigError), open(file, newline="", encoding="utf-8", errors="replace") as stream:
        rows = list(csv.reader(stream))
    head = rows[0] if rows and "step" in rows[0] else []
    kept = [head, *(row for row in rows[1:] if len(row) == len(head) and _step(row, head) <= step)] if head else []
    temporary = file.with_name(file.name + ".tmp")
    with writing(file, ConfigError):
        with open(temporary, "w", newline="", encoding="utf-8") as stream:
            csv.writer(stream).writerows(kept)
        os.replace(temporary, file)


def _step(row: list[str], head: list[str]) -> float:
    """Return a row's step, or infinity if it is no number, as in a row that a kill or a full disk cut."""
    text = row[head.index("step")]
    return int(text) if text.isascii() and text.isdigit() else float("inf")


def save(folder: Path, state: dict[str, Any], step: int, keep: int) -> None:
    """Write `weights/step-N.pt`, point `weights/last.pt` at it, and remove all but the newest `keep`.

    Raises:
        ConfigError: a file cannot be written; the checkpoints before it stay.
    """
    weights = folder / "weights"
    file = weights / f"step-{step:07d}.pt"
    checkpoint.save(file, state)
    point(file)
    cut = weights.glob("*.tmp")  # by a kill
    with writing(weights, ConfigError):
        for old in (*sorted(weights.glob("step-*.pt"))[:-keep], *cut):
            old.unlink(missing_ok=True)


def point(file: Path) -> None:
    """Make `last.pt` beside a checkpoint a link to it.

    Raises:
        ConfigError: it cannot be written.
    """
    last = file.with_name("last.pt")
    link = file.with_name("last.pt.tmp")
    with writing(last, ConfigError):
        link.unlink(missing_ok=True)
        try:
            link.hardlink_to(file)
        except OSError:  # a file system without hard links
            shutil.copyfile(file, link)
        os.replace(link, last)
        link.unlink(missing_ok=True)  # rename of two links to one file leaves both


def newest(folder: Path) -> Path | None:
    """Return the newest checkpoint file of a run; None before the first."""
    files = [folder / "weights" / "last.pt", *sorted((folder / "weights").glob("step-*.pt"))]
    return next((file for file in reversed(files) if file.is_file()), None)


def last(folder: Path) -> dict[str, Any] | None:
    """Read the newest checkpoint of a run; None before the first.

    Raises:
        ConfigError: the run does not exist, or the file cannot be read.
    """
    arguments(folder)
    file = newest(folder)
    return checkpoint.load(file) if file else None
