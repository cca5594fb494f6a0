"""`dataforge view`: look through a set in a browser."""

from __future__ import annotations

import secrets
import subprocess
import tempfile
import webbrowser
from contextlib import closing
from pathlib import Path

import click

from dataforge.cli.complete import RECIPE, SPLIT
from dataforge.cli.options import Directory, polite_kill
from dataforge.cli.pages import listen, serve
from dataforge.command import command, echo, natural
from dataforge.errors import ConfigError, counted
from dataforge.process import run_module


@command()
@click.argument("directory", type=Directory())
@click.option("--split", type=SPLIT, help="Only this split.")
@click.option(
    "--predictions",
    type=click.Path(path_type=Path),
    help="Detections to show beside the boxes: a .json of COCO's results, or a checkpoint, a run's folder or an .onnx, "
    "which detects on --split first.",
)
@click.option("--augment", metavar="RECIPE", type=RECIPE, help="Show images augmented by this recipe, too.")
@click.option(
    "--report",
    type=click.Path(path_type=Path),
    help="A file of what `diff`, `lint` or `stats` printed with --json: show it over the images.",
)
@click.option("--port", type=natural(0, 65535), help="Of the server (default: one that the shards keep).")
@click.option("--no-browser", is_flag=True, help="Only print the address.")
def view(
    directory: Path,
    split: str | None,
    predictions: Path | None,
    augment: str | None,
    report: Path | None,
    port: int | None,
    no_browser: bool,
) -> None:
    """Look through a shard folder in a browser: filters, statistics, findings, a model's errors.

    DIRECTORY is a shard folder, or a version of an overlay of one. Nothing is written.
    """
    from dataforge.analysis.detections import read_detections
    from dataforge.augment.recipes import recipe
    from dataforge.shards.reader import Shards
    from dataforge.web.gallery import Gallery
    from dataforge.web.reports import read_report
    from dataforge.web.viewer import application

    shards = Shards(directory, split)
    detections = None
    if predictions is not None:
        with tempfile.TemporaryDirectory(prefix="dataforge-") as folder:
            if predictions.suffix.lower() != ".json":
                predictions = _detected(predictions, directory, split, Path(folder, "detections.json"))
            detections = read_detections(predictions, shards)
    opened = read_report(report) if report else None
    gallery = Gallery(shards, detections, recipe(augment) if augment else None, opened)
    with listen(port, directory) as listening, closing(gallery.findings), polite_kill():
        port, token = listening.getsockname()[1], secrets.token_urlsafe(32)
        address = f"http://127.0.0.1:{port}/?token={token}"
        echo(f"{directory}: {counted(len(shards), 'image')}\n{address}\nCtrl-C ends it")
        if not no_browser:
            webbrowser.open(address)
        serve(application(gallery, token, port, augment or ""), listening)


def _detected(model: Path, directory: Path, split: str | None, file: Path) -> Path:
    """Write to a file what a model detects in a split, and return it."""
    if not model.exists():
        raise ConfigError(
            f"--predictions {model}: no such file; expected a .json, a checkpoint, a run's folder or an .onnx"
        )
    if split is None:
        raise ConfigError(f"--predictions {model}: is a model; give the --split to run it on")
    words = (model, "--shards", directory, "--split", split, "--save-json", file)
    if run_module("trainers.evaluate", *words, stdout=subprocess.DEVNULL).returncode or not file.is_file():
        raise ConfigError(f"--predictions {model}: the model failed")
    return file
