"""`dataforge replay`: what a training saw at a step."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import click


@click.command()
@click.argument("folder", metavar="RUN", type=click.Path(path_type=Path))
@click.option("--step", type=click.IntRange(1), required=True, help="As in RUN/steps.csv: 1 is the first.")
@click.option("--out", type=click.Path(path_type=Path), help="The picture; RUN/step-N.png if not given.")
@click.option("--shards", type=click.Path(path_type=Path), help="Where the run's shards are now, if they were moved.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object for machines.")
def replay(folder: Path, step: int, out: Path | None, shards: Path | None, as_json: bool) -> None:
    """Draw the pictures and boxes that RUN learned from at a step, and name the records."""
    words = [str(folder), "--step", str(step)]
    words += (["--out", str(out)] if out else []) + (["--shards", str(shards)] if shards else [])
    words += ["--json"] if as_json else []
    # a run's own values are the trainers' to read; they are another program to this package
    sys.exit(subprocess.run([sys.executable, "-m", "trainers.replay", *words], check=False).returncode)
