"""What a training step of a detector consists of, by its configuration for BCCD, and what changes of it gain. Linux.

    python bench/steps.py dense ssd --shards SHARDS --pretrained FILE --results bench/results/DATE.jsonl

One thread, float32, the first batch of the train split. "operators" are the shares of a step in torch's profiler, above
3 %. Variants take turns in processes forked from one that has built the detector; a row is the ratio of the medians of
processor time, user and system, and how much the loss differs after the steps.
"""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from typing import Any

import click
import torch
from torch.profiler import profile

from dataforge.bench.measure import record_rows
from dataforge.command import natural
from dataforge.loading.batch import Batch
from trainers import distributed, registry
from trainers.config import included, read_toml
from trainers.models import convolution
from trainers.training import precision
from trainers.training.data import make_loaders
from trainers.training.learner import Learner

LEAST = 3.0  # per cent
HELD = ExitStack()  # of a forked process, until it ends
STEPS = 3  # of a process, of which the first does not count


def kept(learner: Learner, batch: Batch) -> None:
    HELD.enter_context(distributed.memory_kept())


def fused(learner: Learner, batch: Batch) -> None:
    for group in learner.optimizer.param_groups:
        group["fused"], group["foreach"] = True, False


def channels_first(learner: Learner, batch: Batch) -> None:
    learner.model.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    batch.images = batch.images.contiguous()


def winograd(learner: Learner, batch: Batch) -> None:
    convolution._LEAST_CHANNELS = 32


def compiled(learner: Learner, batch: Batch) -> None:
    learner.model.compile(dynamic=False)


VARIANTS: dict[str, Callable[[Learner, Batch], None]] = {
    "memory kept": kept,
    "fused optimizer": fused,
    "channels first": channels_first,
    "Winograd from 64 channels": winograd,
    "compiled": compiled,
}


def made(detector: str, shards: str, weights: str) -> tuple[Learner, Batch]:
    """Return a detector as at the start of a training, and a batch."""
    kind, model = registry.config_class(detector), registry.detector_class(detector)
    values = {"shards": shards, "train_split": "train", "val_split": "", "threads": 1, "amp": "none"}
    config = kind(**read_toml(kind, included(f"{detector}_bccd")) | values | {"pretrained": weights})
    config.check()
    torch.manual_seed(0)
    loader, _ = make_loaders(config, model, 0, 1, torch.device("cpu"))
    network = model(**model.configure(config, loader.shards))
    network.pretrain(config)
    learner = Learner(config, network, torch.device("cpu"))
    network.prepare(config, loader.shards.classes)
    return learner, next(iter(loader)).clone()


def step(learner: Learner, batch: Batch) -> tuple[float, float]:
    """Take a step; return its processor time in seconds and the loss."""
    before = time.process_time()
    losses = learner.gradients(batch)
    learner.update(1e-4, 0)
    return time.process_time() - before, losses["loss"]


def operators(learner: Learner, batch: Batch) -> Iterator[tuple[str, float]]:
    """Yield the operators of a step and their shares in per cent."""
    step(learner, batch)
    with profile() as profiler:
        step(learner, batch)
    events = profiler.key_averages()
    total = sum(event.self_cpu_time_total for event in events)
    for event in sorted(events, key=lambda event: -event.self_cpu_time_total):
        if (share := 100 * event.self_cpu_time_total / total) >= LEAST:
            yield event.key, share


def forked(
    learner: Learner, batch: Batch, change: Callable[[Learner, Batch], None] | None
) -> list[tuple[float, float]]:
    """Return the steps that a forked process takes after a change."""
    here, there = multiprocessing.Pipe(duplex=False)

    def work() -> None:
        if change:
            change(learner, batch)
        there.send([step(learner, batch) for _ in range(STEPS)])

    process = multiprocessing.get_context("fork").Process(target=work)
    process.start()
    there.close()
    steps: list[tuple[float, float]] = here.recv()
    process.join()
    return steps


def compare(learner: Learner, batch: Batch, names: list[str], rounds: int) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the name and the row of each variant."""
    times: dict[str, list[float]] = {"": [], **{name: [] for name in names}}
    losses, first = {}, {}
    for _ in range(rounds):
        for name in times:
            steps = forked(learner, batch, VARIANTS.get(name))
            times[name] += [seconds for seconds, _ in steps[1:]]
            losses[name] = steps[-1][1]
            first.setdefault(name, steps[0][0])
    before = median(times.pop(""))
    for name, seconds in times.items():
        row = {"value": round(median(seconds) / before, 3), "unit": "x", "runs": rounds * (STEPS - 1)}
        row |= {"low": round(min(seconds) / before, 3), "high": round(max(seconds) / before, 3)}
        row |= {"before_s": round(before, 3), "first_step_s": round(first[name], 2)}
        yield name, row | {"loss_differs": abs(losses[name] / losses[""] - 1)}


@click.command()
@click.argument("detectors", nargs=-1, required=True, type=click.Choice(list(registry.DETECTORS)))
@click.option("--shards", required=True)
@click.option("--pretrained", required=True, help="File of an EfficientNet-Lite0's weights.")
@click.option("--rounds", type=natural(), default=3, show_default=True)
@click.option("--variants", default=",".join(VARIANTS), show_default=True)
@click.option("--results", type=click.Path(path_type=Path), help="Rows are added to this file.")
def main(
    detectors: tuple[str, ...], shards: str, pretrained: str, rounds: int, variants: str, results: Path | None
) -> None:
    """Measure a step of DETECTORS."""
    torch.set_num_threads(1)
    rows: list[dict[str, Any]] = []

    def add(name: str, **row: Any) -> None:
        note = f"one thread; other work ran on the machine (load {os.getloadavg()[0]:.0f})"
        rows.append({"name": name, "runs": 1, "note": note} | row)
        click.echo(f"{name}: {row['value']} {row['unit']} {row}")

    started = time.process_time()
    add("a few layers in bf16, to float32 (trainers.training.precision)",
        value=round(precision.cost(torch.bfloat16), 1), unit="x",
        processor_s=round(time.process_time() - started, 2))  # fmt: skip
    for detector in detectors:
        learner, batch = made(detector, shards, pretrained)
        data = f"{detector}_bccd.toml, {len(batch)} images of {batch.images.shape[2]}x{batch.images.shape[3]}"
        for name, row in compare(learner, batch, [name for name in variants.split(",") if name], rounds):
            add(f"{detector}, training step, {name}, to as it is", data=data, **row)
        for name, share in operators(learner, batch):
            add(f"{detector}, training step: {name}", value=round(share, 1), unit="%", data=data)
    record_rows(rows, results)


if __name__ == "__main__":
    main()
