"""Reproduce and draw the batch of a run's step: `dataforge replay RUN --step N`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from dataforge.command import OutFile, command, echo, echo_json, natural


@command()
@click.argument("folder", metavar="RUN", type=click.Path(path_type=Path))
@click.option("--step", type=natural(), required=True, help="Step number as in RUN/steps.csv, from 1.")
@click.option("--out", type=OutFile(), help="Output image [default: RUN/step-N.png].")
@click.option("--shards", default="", help="Current path of the run's shards, if they were moved.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def main(**given: Any) -> None:
    """Draw the images and boxes that RUN learned from at a step, and name the records."""
    from trainers import replay

    replay.draw(**given)


if __name__ == "__main__":  # before torch is imported: help and wrong options are answered at once
    main(prog_name="dataforge replay")

import dataclasses

import PIL.Image
import torch

from dataforge.errors import ConfigError, counted
from dataforge.files import writing
from dataforge.loading.batch import Batch
from dataforge.loading.loader import Loader
from trainers import registry
from trainers.config import read_toml
from trainers.results import plots
from trainers.training import run
from trainers.training.data import make_loaders

SIDE = 3840  # of a sheet, pixels; keeps the images of a large batch recognisable


def batch_at(folder: Path, step: int, shards: str = "") -> tuple[Loader, Batch]:
    """Reproduce the batch of a run's step, of all processes, on the CPU.

    If the run decoded or transformed on a device, pixels differ by rounding.

    Args:
        folder: of the run; step: 1 is the first, as in `steps.csv`.
        shards: the shards' current path, if they were moved.

    Raises:
        ConfigError: the run or step does not exist, or its shards or arguments have changed.
    """
    start = run.start(folder)
    kind = registry.config_class(start["detector"])
    config = kind(**read_toml(kind, folder / run.ARGS))
    config = dataclasses.replace(config, val_split="", decode="host", shards=shards or config.shards)
    loader, _ = make_loaders(config, registry.detector_class(start["detector"]), 0, 1, torch.device("cpu"))
    try:
        loader.load_state_dict(start["loader"])
    except ConfigError as error:
        raise ConfigError(f"{folder}: cannot be drawn again: {error}") from None
    before, epoch = 0, 0
    while step > before + len(loader) and epoch < config.epochs - 1:
        before, epoch = before + len(loader), epoch + 1
        loader.set_epoch(epoch)
    if not before < step <= before + len(loader):
        raise ConfigError(f"--step {step}; expected 1 to {before + len(loader)}, the steps of {folder}")
    loader.load_state_dict({**start["loader"], "epoch": epoch, "step": step - before - 1})
    return loader, next(iter(loader))


def draw(folder: Path, step: int, out: Path | None, shards: str, as_json: bool) -> None:
    """Carry out the command; the options are those of `main`."""
    loader, batch = batch_at(folder, step, shards)
    out = out or folder / f"step-{step}.png"
    drawn = plots.sheet(batch.images, batch.boxes, batch.labels, loader.classes, side=SIDE)
    try:
        with writing(f"--out {out}", ConfigError):
            PIL.Image.fromarray(drawn).save(out)
    except ValueError as error:  # a suffix that Pillow does not support
        raise ConfigError(f"--out {out}: cannot be written: {error}") from None
    keys = [str(loader.shards.table.key[i]) for i in batch.index.tolist()]
    boxes = (batch.labels >= 0).sum(1).tolist()
    split, epoch, size = loader.shards.split, loader.epoch + 1, list(batch.images.shape[-2:])
    if as_json:
        columns = zip(batch.index.tolist(), keys, boxes, strict=True)
        records = [{"split": split, "record": i, "key": key, "boxes": n} for i, key, n in columns]
        facts: dict[str, Any] = {"step": step, "epoch": epoch, "size": size, "records": records, "out": str(out)}
        echo_json(facts)
        return
    echo(f"step {step}, epoch {epoch}, {size[0]}x{size[1]}; left to right, line by line:")
    for key, n in zip(keys, boxes, strict=True):
        echo(f"{split}  {key}  {counted(n, 'box')}")
    echo(f"{out}: {drawn.shape[1]}x{drawn.shape[0]}")
