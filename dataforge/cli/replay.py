"""`dataforge replay`: draw the input of a training at a step."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from dataforge.command import OutFile, command, natural
from dataforge.process import run_module


@command()
@click.argument("folder", metavar="RUN", type=click.Path(path_type=Path))
@click.option("--step", type=natural(), required=True, help="Step number as in RUN/steps.csv, from 1.")
@click.option("--out", type=OutFile(), help="Output image [default: RUN/step-N.png].")
@click.option("--shards", type=click.Path(path_type=Path), help="Current path of the run's shards, if they were moved.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def replay(folder: Path, step: int, out: Path | None, shards: Path | None, as_json: bool) -> None:
    """Draw the pictures and boxes that RUN was trained on at a step, and name the records."""
    words: list[object] = [folder, "--step", step]
    words += (["--out", out] if out else []) + (["--shards", shards] if shards else [])
    words += ["--json"] if as_json else []
    sys.exit(run_module("trainers.replay", *words).returncode)
