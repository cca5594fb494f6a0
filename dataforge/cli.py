"""The `dataforge` command: all its commands. None of their files imports anything heavy: `--help` is instant."""

from __future__ import annotations

import click

from dataforge import __version__
from dataforge.command import Group
from dataforge.commands.bake import bake
from dataforge.commands.bench import bench
from dataforge.commands.diff import diff
from dataforge.commands.export import export
from dataforge.commands.ingest import ingest, merge
from dataforge.commands.lint import lint
from dataforge.commands.look import info, show
from dataforge.commands.replay import replay
from dataforge.commands.split import split
from dataforge.commands.stats import stats
from dataforge.commands.trial import demo, synth
from dataforge.commands.verify import verify


@click.group(
    cls=Group,
    context_settings={"help_option_names": ["-h", "--help"]},
    commands=(ingest, merge, split, diff, lint, info, show, stats, verify, export, bake, synth, bench, demo, replay),
)
@click.version_option(__version__, prog_name="dataforge")
def main() -> None:
    """Annotated images to shards, shards to batches."""
