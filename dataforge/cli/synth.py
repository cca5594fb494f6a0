"""`dataforge synth`: draw a small synthetic set for experiments."""

from __future__ import annotations

from pathlib import Path

import click

from dataforge.command import LocalPath, command, echo, natural
from dataforge.errors import counted


@command()
@click.argument("directory", type=LocalPath())
@click.option(
    "--images", type=natural(), default=640, show_default=True, help="Number of images; one fifth goes to split val."
)
@click.option("--seed", type=natural(0), default=0, show_default=True, help="Seed; the same seed gives the same bytes.")
@click.option(
    "--size",
    type=natural(),
    nargs=2,
    default=(200, 320),
    show_default=True,
    metavar="LOW HIGH",
    help="Range of the images' sides, in pixels.",
)
def synth(directory: Path, images: int, seed: int, size: tuple[int, int]) -> None:
    """Draw a small detection set into DIRECTORY, in the layout of COCO."""
    from dataforge.images.synth import write

    write(directory, images=images, seed=seed, size=size)
    echo(f"{counted(images, 'picture')} drawn in {directory}; next: dataforge ingest coco {directory} --out shards")
