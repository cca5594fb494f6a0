"""`dataforge bench`: measure each stage of the data path, and the bottleneck of a training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from dataforge.cli.complete import RECIPE, TRAINER
from dataforge.cli.options import json_option
from dataforge.command import OutFile, command, echo, echo_json, natural, real

_OWN = "default: {}, or the value of --trainer"


@command()
@click.argument("directory", required=False, type=click.Path(path_type=Path))
@click.option("--size", type=natural(), nargs=2, metavar="H W", help=f"Size of the batches; {_OWN.format('320 320')}.")
@click.option("--batch-size", type=natural(), help=f"Images per batch; {_OWN.format(32)}.")
@click.option("--augment", type=RECIPE, help=f"Recipe, or none; {_OWN.format('yolo')}.")
@click.option("--device", default="cpu", show_default=True, help="Device of the batches.")
@click.option("--threads", type=natural(), help="Decoding threads [default: one per core].")
@click.option("--images", type=natural(), default=640, show_default=True, help="Number of images to measure.")
@click.option(
    "--repeats", type=natural(5), default=5, show_default=True, help="Number of measured passes over the images."
)
@click.option("--sweep/--no-sweep", default=True, help="Also measure with other numbers of threads.")
@click.option(
    "--cold",
    is_flag=True,
    help="Also measure reading from disk with an empty page cache, as for sets larger than memory: shuffled images, "
    "and as many bytes in the files' order.",
)
@click.option("--shuffle", metavar="window:N", help="Order of the images, as of the trainers' option [default: full].")
@click.option(
    "--trainer",
    metavar="NAME",
    type=TRAINER,
    help="Also measure this detector's training step and report the bottleneck.",
)
@click.option(
    "--config", type=click.Path(path_type=Path), help="TOML file of the trainer; options given here override it."
)
@click.option("--seconds", type=real(above=0), default=10.0, show_default=True, help="How long to measure the trainer.")
@click.option("--plot", type=OutFile(), help="Draw the stages as a chart into this PNG file.")
@json_option
def bench(
    directory: Path | None,
    size: tuple[int, int] | None,
    batch_size: int | None,
    augment: str | None,
    device: str,
    threads: int | None,
    images: int,
    repeats: int,
    sweep: bool,
    cold: bool,
    shuffle: str | None,
    trainer: str | None,
    config: Path | None,
    seconds: float,
    plot: Path | None,
    as_json: bool,
) -> None:
    """Measure each stage in img/s: read, decode, resize, collate, copy, all. Without DIRECTORY, draw a set."""
    from dataforge.bench import show, stages, training
    from dataforge.bench.measure import machine
    from dataforge.bench.verdict import verdict
    from dataforge.errors import ConfigError

    if config and not trainer:
        raise ConfigError(f"--config {config}: needs --trainer")
    with stages.shards_or_drawn(directory) as path:
        flags = {"size": size, "batch_size": batch_size, "augment": augment, "device": device, "threads": threads}
        how: dict[str, Any] = {key: value for key, value in flags.items() if value is not None}
        trained = None
        if trainer:
            own = {"config": config} if config else {}
            trained = training.step(path, trainer, seconds, **own, **how)
            how |= trained["loader"]
        given = stages.setting(path, images=images, shuffle=shuffle or True, **how)
        rows = stages.rows(given, repeats=repeats, sweep=sweep, with_cold=cold)
        facts: dict[str, Any] = {"rows": rows}
        if not as_json:
            echo(show.describe(rows))
        if plot:
            show.plot(rows, plot)
        if trained:
            weighed = training.figures(given, rows, trained, repeats)
            facts["verdict"] = {"name": "verdict", "text": verdict(weighed), **vars(weighed)} | machine()
            if not as_json:
                echo(facts["verdict"]["text"])
        if as_json:
            echo_json(facts)
