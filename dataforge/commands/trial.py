"""`dataforge synth`, `bench` and `demo`: to try things without data of one's own."""

from __future__ import annotations

import json
from pathlib import Path

import click

from dataforge.commands.options import json_option


@click.command()
@click.argument("directory", type=click.Path(path_type=Path))
@click.option("--images", type=int, default=640, show_default=True, help="How many; a fifth goes to val.")
@click.option("--seed", type=int, default=0, show_default=True, help="The same seed draws the same bytes.")
@click.option(
    "--size", type=int, nargs=2, default=(200, 320), show_default=True, metavar="LOW HIGH", help="Range of the sides."
)
def synth(directory: Path, images: int, seed: int, size: tuple[int, int]) -> None:
    """Draw a small detection set into DIRECTORY, as COCO lays it out."""
    from dataforge.synth import write

    write(directory, images=images, seed=seed, size=size)
    click.echo(f"{images} pictures drawn in {directory}; next: dataforge ingest coco {directory} --out shards")


@click.command()
@click.argument("directory", required=False, type=click.Path(path_type=Path))
@click.option("--size", type=int, nargs=2, default=(320, 320), show_default=True, metavar="H W", help="Of the batches.")
@click.option("--batch-size", type=click.IntRange(1), default=32, show_default=True)
@click.option("--repeats", type=int, default=5, show_default=True, help="Passes over the data that are measured.")
@json_option
def bench(directory: Path | None, size: tuple[int, int], batch_size: int, repeats: int, as_json: bool) -> None:
    """Images a second: reading, decoding, the loader. Without DIRECTORY, on a drawn set."""
    from dataforge import bench as stages

    with stages.shards_or_drawn(directory) as path:
        found = stages.rows(path, size=size, batch_size=batch_size, repeats=repeats)
    for row in found if as_json else ():
        click.echo(json.dumps(row, ensure_ascii=False))
    if not as_json:
        click.echo(stages.describe(found))


@click.command()
@click.option("--out", default="demo", show_default=True, type=click.Path(path_type=Path), help="Folder for all of it.")
def demo(out: Path) -> None:
    """The whole line, with no data needed: draw, ingest, train, evaluate, predict."""
    from dataforge.demo import run

    run(out)
