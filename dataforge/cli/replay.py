"""`dataforge replay`: draw the input of a training at a step."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from dataforge.process import run_module


@click.command()
@click.argument("folder", metavar="RUN", type=click.Path(path_type=Path))
@click.option("--step", type=click.IntRange(1), required=True, help="As in RUN/steps.csv: 1 is the first.")
@click.option("--out", type=click.Path(path_type=Path), help="The picture; RUN/step-N.png if not given.")
@click.option("--shards", type=click.Path(path_type=Path), help="Where the run's shards are now, if they were moved.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object for machines.")
def replay(folder: Path, step: int, out: Path | None, shards: Path | None, as_json: bool) -> None:
    """Draw the pictures and boxes that RUN was trained on at a step, and name the records."""
    words: list[object] = [folder, "--step", step]
    words += (["--out", out] if out else []) + (["--shards", shards] if shards else [])
    words += ["--json"] if as_json else []
    sys.exit(run_module("trainers.replay", *words).returncode)
