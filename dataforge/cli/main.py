"""The `dataforge` command and its subcommands. Their modules import nothing heavy, so that `--help` is fast."""

from __future__ import annotations

import click

from dataforge import __version__
from dataforge.cli.annotate import annotate
from dataforge.cli.bake import bake
from dataforge.cli.bench import bench
from dataforge.cli.demo import demo
from dataforge.cli.diff import diff
from dataforge.cli.doctor import doctor
from dataforge.cli.export import export
from dataforge.cli.info import info
from dataforge.cli.ingest import ingest
from dataforge.cli.lint import lint
from dataforge.cli.log import log
from dataforge.cli.merge import merge
from dataforge.cli.overlay import overlay
from dataforge.cli.replay import replay
from dataforge.cli.show import show
from dataforge.cli.split import split
from dataforge.cli.stats import stats
from dataforge.cli.synth import synth
from dataforge.cli.verify import verify
from dataforge.cli.view import view
from dataforge.command import Group


@click.group(
    cls=Group,
    commands=(
        ingest,
        annotate,
        view,
        overlay,
        merge,
        split,
        diff,
        lint,
        info,
        log,
        show,
        stats,
        verify,
        export,
        bake,
        synth,
        bench,
        demo,
        doctor,
        replay,
    ),
)
@click.version_option(__version__, prog_name="dataforge")
def main() -> None:
    """Annotated images to shards, shards to batches."""
