"""`dataforge bench`: measure each stage of the data path, and the bottleneck of a training."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from dataforge.cli.options import json_option

_OWN = "{}, or what the trainer has"


@click.command()
@click.argument("directory", required=False, type=click.Path(path_type=Path))
@click.option("--size", type=int, nargs=2, metavar="H W", help=f"Of the batches; {_OWN.format('320 320')}.")
@click.option("--batch-size", type=click.IntRange(1), help=f"By default {_OWN.format(32)}.")
@click.option("--augment", help=f"Recipe, or none; by default {_OWN.format('yolo')}.")
@click.option("--device", default="cpu", show_default=True, help="Where the batches go.")
@click.option("--threads", type=click.IntRange(1), help="That decode; as many as there are cores by default.")
@click.option("--images", type=click.IntRange(1), default=640, show_default=True, help="How many of them are measured.")
@click.option("--repeats", type=int, default=5, show_default=True, help="Passes over the images that are measured.")
@click.option("--sweep/--no-sweep", default=True, help="Measure other numbers of threads as well.")
@click.option("--cold", is_flag=True, help="Also read from the disk itself, as a set larger than the memory is read.")
@click.option("--trainer", metavar="NAME", help="Also measure this detector's training step, and say what waits.")
@click.option("--config", type=click.Path(path_type=Path), help="The trainer's TOML file; the options here come first.")
@click.option("--seconds", type=float, default=10.0, show_default=True, help="How long the trainer is measured.")
@click.option("--plot", type=click.Path(path_type=Path), help="Draw the stages into this PNG file.")
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
        raise ConfigError(f"--config {config}: goes with --trainer")
    with stages.shards_or_drawn(directory) as path:
        flags = {"size": size, "batch_size": batch_size, "augment": augment, "device": device, "threads": threads}
        how: dict[str, Any] = {key: value for key, value in flags.items() if value is not None}
        trained = None
        if trainer:
            own = {"config": config} if config else {}
            trained = training.step(path, trainer, seconds, **own, **how)
            how |= trained["loader"]
        given = stages.setting(path, images=images, **how)
        rows = stages.rows(given, repeats=repeats, sweep=sweep, cold=cold)
        for row in rows if as_json else ():
            click.echo(json.dumps(row, ensure_ascii=False))
        if not as_json:
            click.echo(show.describe(rows))
        if plot:
            show.plot(rows, plot)
        if trained:
            weighed = training.figures(given, rows, trained, repeats)
            if as_json:
                click.echo(json.dumps({"name": "verdict", "text": verdict(weighed), **vars(weighed)} | machine()))
            else:
                click.echo(verdict(weighed))
