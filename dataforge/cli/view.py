"""`dataforge view`: look through a set in a browser."""

from __future__ import annotations

import secrets
import webbrowser
from contextlib import closing
from pathlib import Path

import click

from dataforge.cli.options import polite_kill
from dataforge.cli.pages import check_installed, listen, serve


@click.command()
@click.argument("directory", type=click.Path(path_type=Path))
@click.option("--split", help="Only this split.")
@click.option(
    "--predictions", type=click.Path(path_type=Path), help="Detections to show beside the boxes: COCO's result format."
)
@click.option("--augment", metavar="RECIPE", help="Show images augmented by this recipe, too.")
@click.option("--port", type=click.IntRange(0, 65535), help="Of the server (default: one that the shards keep).")
@click.option("--no-browser", is_flag=True, help="Only print the address.")
def view(
    directory: Path,
    split: str | None,
    predictions: Path | None,
    augment: str | None,
    port: int | None,
    no_browser: bool,
) -> None:
    """Look through a shard folder in a browser: filters, statistics, findings, a model's errors.

    DIRECTORY is a shard folder, or a version of an overlay of one. Nothing is written.
    """
    check_installed("view")
    from dataforge.analysis.detections import read_detections
    from dataforge.augment.recipes import recipe
    from dataforge.shards.reader import Shards
    from dataforge.web.gallery import Gallery
    from dataforge.web.viewer import application

    shards = Shards(directory, split)
    detections = read_detections(predictions, shards) if predictions else None
    gallery = Gallery(shards, detections, recipe(augment) if augment else None)
    with listen(port, directory) as listening, closing(gallery.findings), polite_kill():
        port, token = listening.getsockname()[1], secrets.token_urlsafe(32)
        address = f"http://127.0.0.1:{port}/?token={token}"
        click.echo(f"{directory}: {len(shards)} images\n{address}\nCtrl-C ends it")
        if not no_browser:
            webbrowser.open(address)
        serve(application(gallery, token, port, augment or ""), listening)
