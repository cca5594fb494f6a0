"""Time a training step, alone and with the loader: `python -m trainers.bench yolov2 --shards DIR`.

The last line of the output is a JSON object.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from dataforge.command import command, natural, real


@command()
@click.argument("detector")
@click.option("--config", "toml", type=click.Path(path_type=Path), help="Flat TOML file, as for the trainers.")
@click.option("--shards", required=True)
@click.option("--split", default="train", show_default=True)
@click.option("--size", type=natural(), nargs=2, help="Height and width.")
@click.option("--batch-size", type=natural())
@click.option("--augment", help="Recipe.")
@click.option("--device", default="cpu", show_default=True)
@click.option("--threads", type=natural(0), default=0, help="Decoding threads; 0 for one per core.")
@click.option("--seconds", type=real(above=0), default=10.0, show_default=True, help="Seconds per measured part.")
def main(**given: Any) -> None:
    """Measure the images a second of DETECTOR's training step, alone and with the loader.

    What neither options nor --config state is chosen as for a training.
    """
    from trainers import bench

    bench.measure(**given)


if __name__ == "__main__":  # before torch is imported: help and wrong options are answered at once
    main(prog_name="python -m trainers.bench")

import json
import statistics
import time
from dataclasses import replace

from dataforge.loading.batch import Batch
from trainers import distributed, registry
from trainers.config import Config, read_toml
from trainers.training import defaults, precision
from trainers.training.data import make_loaders, timed
from trainers.training.learner import Learner

WARM = 2  # warm-up steps that are not measured
LEAST = 3  # minimum number of measured steps


@distributed.memory_kept()  # as in a training
def time_steps(config: Config, detector: str, seconds: float) -> dict[str, Any]:
    """Time training on one repeated batch, then on the loader's batches.

    Args:
        seconds: duration of each measurement; longer if that is not enough for 3 steps.

    Returns:
        "step" and "together": images per second of the first and the second measurement; "waited": the share of the
        second's time spent waiting for data; "steps": the number of measured steps of each; "loader": its settings.

    Raises:
        ConfigError: a value is wrong.
    """
    config.check()
    device = distributed.device_of(config.device)
    config = replace(config, amp=precision.resolved(config.amp, device)[0])
    kind = registry.detector_class(detector)
    loader, _ = make_loaders(config, kind, 0, 1, device)
    learner = Learner(config, kind(**kind.configure(config, loader.shards)), device)

    def train(batch: Batch) -> None:
        learner.gradients(batch)
        learner.update(config.lr, 0)

    batch = next(iter(loader)).clone()
    size = len(batch)
    alone: list[float] = []
    while len(alone) < WARM + LEAST or sum(alone[WARM:]) < seconds:
        started = time.perf_counter()
        train(batch)
        alone.append(time.perf_counter() - started)

    spent: list[float] = []
    waits: list[float] = []
    images = 0
    while len(spent) < WARM + LEAST or sum(spent[WARM:]) < seconds:
        for batch, waited, started in timed(loader):
            train(batch)
            spent.append(time.perf_counter() - started)
            waits.append(waited)
            images += len(batch) if len(spent) > WARM else 0
            if len(spent) >= WARM + LEAST and sum(spent[WARM:]) >= seconds:
                break
        loader.set_epoch(loader.epoch + 1)
    return {
        "step": size / statistics.median(alone[WARM:]),
        "together": images / sum(spent[WARM:]),
        "waited": sum(waits[WARM:]) / sum(spent[WARM:]),
        "steps": [len(alone) - WARM, len(spent) - WARM],
        "loader": {key: getattr(config, key) for key in ("size", "fit", "batch_size", "augment")}
        | {"threads": loader.threads},
    }


def measure(detector: str, toml: Path | None, split: str, seconds: float, **flags: Any) -> None:
    """Carry out the command; the options are those of `main`."""
    kind = registry.config_class(detector)
    values = (read_toml(kind, toml) if toml else {}) | {key: value for key, value in flags.items() if value is not None}
    values |= {"train_split": split, "val_split": "", "multiscale": []}
    config = kind(**values)
    config.check()
    if config.defaults == "auto":
        config = defaults.choose(config, values.keys(), detector)
    click.echo(json.dumps(time_steps(config, detector, seconds)))
