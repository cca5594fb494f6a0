"""The training loop that all detectors share. It reads from top to bottom; state that must survive a stop is in the
learner, the loader and one `Progress`, and everything random is a function of (seed, epoch, record) or saved with it.
"""

from __future__ import annotations

import dataclasses
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click
import torch
import torch.distributed as dist
from tqdm import tqdm

from dataforge.command import Command
from dataforge.errors import ConfigError, DataError
from trainers import checkpoint, distributed, registry
from trainers.config import Config, options, read_toml
from trainers.results import monitor, plots
from trainers.results.board import open_board
from trainers.results.report import draw_inputs, score, trace
from trainers.training import run
from trainers.training.data import make_loaders, skipped, timed
from trainers.training.learner import Learner
from trainers.training.optim import learning_rate

TOLD = 10  # damaged images that are listed after an epoch; a warning named each of them as it came


@dataclass
class Progress:
    """How far a run has come.

    Attributes:
        step, epoch: how many were finished.
        best: the best mAP50-95 so far; stale: evaluations since then.
        sums: of the losses and times of the epoch's steps.
    """

    step: int = 0
    epoch: int = 0
    best: float = -1.0
    stale: int = 0
    sums: dict[str, float] = field(default_factory=dict)


def train(config: Config, detector: str, resume: Path | None = None) -> Path:
    """Train a detector.

    Args:
        detector: its name in `registry.DETECTORS`.
        resume: the folder of a run that goes on from its newest checkpoint.

    Returns:
        The run's folder.

    Raises:
        ConfigError: a value is wrong, or the memory too small. DataError: the loss is not a number, or a record is
            damaged.
    """
    config.check()
    rank, world, device = distributed.place(config.device)
    torch.manual_seed(config.seed)
    kind = registry.detector_class(detector)
    loader, val_loader = make_loaders(config, kind, rank, world, device)
    shards = loader.shards
    state = run.last(resume) if resume else None
    if state and state["detector"] != detector:
        raise ConfigError(f"{resume}: is a run of {state['detector']}, not of {detector}")
    model_config = state["config"] if state else kind.configure(config, shards)
    model = kind(**model_config)
    if not state:
        loaded = model.pretrain(config)
        if loaded and rank == 0:
            click.echo(f"pretrained: {loaded}")
    learner = Learner(config, model, device, world)
    model.prepare(config, shards.classes)
    done = Progress()
    if state:
        assert resume is not None
        folder = resume
        learner.load_state_dict(state["train"], state["model"])
        loader.load_state_dict(state["train"]["loader"])
        done = Progress(**state["train"]["progress"])
        if rank == 0:
            run.rewind(folder / run.RESULTS, done.step)
            run.rewind(folder / run.STEPS, done.step)
    else:
        folder = run.create(config, detector) if rank == 0 else Path()
        if rank == 0:
            run.begin(folder, detector, loader.state_dict())
            draw_inputs(folder, loader)
    board = open_board(config, detector, folder, done.step) if rank == 0 else None
    watched = monitor.watched(val_loader or loader) if rank == 0 else None
    if rank == 0:
        click.echo(
            f"{detector} on {device}: {sum(p.numel() for p in model.parameters()) / 1e6:.2f} M parameters, "
            f"{len(shards)} images, {len(loader)} steps an epoch, epochs {done.epoch + 1}..{config.epochs}; {folder}"
        )

    def snapshot() -> dict[str, Any]:
        state = learner.state_dict() | {"loader": loader.state_dict(), "progress": dataclasses.asdict(done)}
        return {
            "detector": detector,
            "config": model_config,
            "classes": list(shards.classes),
            "class_ids": list(shards.class_ids),
            "size": config.size,
            "fit": config.fit,
            "model": learner.judged.state_dict(),
            "train": state,
        }

    stop = distributed.Stop()
    tracer = trace(folder) if config.profile and rank == 0 else None
    while done.epoch < config.epochs and not (config.patience and done.stale >= config.patience):
        if loader.epoch != done.epoch:
            loader.set_epoch(done.epoch)
        steps, first = len(loader), loader.state_dict()["step"]  # epochs differ where sampling meets buckets
        progress = tqdm(
            total=steps,
            initial=first,
            desc=f"epoch {done.epoch + 1}/{config.epochs}",
            disable=None if rank == 0 else True,
            leave=False,
        )
        for place, (batch, waited, started) in enumerate(timed(loader), first):
            rate = learning_rate(config, done.step, done.epoch + place / steps)
            with distributed.memory_errors(batch, done.step + 1, config):
                try:
                    row = learner.gradients(batch)
                except DataError as error:
                    raise DataError(
                        f"step {done.step + 1}: {error} of split {shards.split!r}; try a lower --lr, or look at them: "
                        f"dataforge replay {folder} --step {done.step + 1}"
                    ) from None
                if board and place + 1 == steps:
                    monitor.gradients(board, model, done.step + 1, learner.scaler.get_scale())
                learner.update(rate, done.step)
            done.step += 1
            counts = {"images": len(batch) * world, "seconds": time.perf_counter() - started, "waited": waited}
            for name, value in {**row, **counts, "steps": 1.0}.items():
                done.sums[name] = done.sums.get(name, 0.0) + value
            if tracer:
                tracer.step()
            if board:
                run.append(folder / run.STEPS, {"step": done.step, "epoch": done.epoch + 1, **row, "lr": rate})
                for name, value in {**row, "lr": rate}.items():
                    board.add_scalar(f"train/{name}", value, done.step)
                progress.update()
                progress.set_postfix_str(_line(row, done.sums, device))
            stopping = stop.everywhere(device)
            due = config.save_steps and done.step % config.save_steps == 0 and place + 1 < steps
            if rank == 0 and (due or stopping):
                run.save(folder, snapshot(), done.step, config.keep)
            if stopping:
                raise click.ClickException(f"stopped after step {done.step}; go on with --resume {folder}")
        progress.close()

        done.epoch += 1
        sums, done.sums = done.sums, {}
        means = {name: value / sums["steps"] for name, value in sums.items() if name not in _COUNTS}
        results: dict[str, Any] = {"epoch": done.epoch, "step": done.step, **means}
        rate = learning_rate(config, done.step - 1, done.epoch - 1 / steps)
        results |= {"lr": rate, "mAP50": "", "mAP50-95": ""}
        said, better = "", not val_loader
        if val_loader and (done.epoch % config.eval_every == 0 or done.epoch == config.epochs):
            last = done.epoch == config.epochs or 0 < config.patience <= done.stale + 1
            numbers = score(learner.judged, val_loader, folder if rank == 0 and last else None)
            results |= {"mAP50": numbers["AP50"], "mAP50-95": numbers["AP"]}
            said = f", mAP50 {numbers['AP50']:.4f}, mAP50-95 {numbers['AP']:.4f}"
            better = numbers["AP"] > done.best
            done.best, done.stale = max(done.best, numbers["AP"]), 0 if better else done.stale + 1
        bad = skipped(loader, val_loader)
        results |= {
            "img/s": round(sums["images"] / sums["seconds"], 1),
            "data-wait %": round(100 * sums["waited"] / sums["seconds"], 2),
        }
        loader.set_epoch(done.epoch)
        if board:
            run.append(folder / run.RESULTS, results)
            plots.results(folder / run.RESULTS, folder / "results.png")
            for name, value in results.items():
                if value != "":
                    board.add_scalar(f"epoch/{name}", value, done.step)
            click.echo(f"epoch {done.epoch}/{config.epochs}: {_line(means, sums, device)}{said}")
            if bad:
                rest = [f"and {len(bad) - TOLD} more"] if len(bad) > TOLD else []
                click.echo("\n  ".join([f"damaged images skipped so far: {len(bad)}", *bad[:TOLD], *rest]))
            if watched and monitor.due(done.epoch, config.epochs):
                monitor.write(board, learner.judged, watched, loader.classes, done.step)
            state = snapshot()
            run.save(folder, state, done.step, config.keep)
            if better:
                checkpoint.save(folder / "weights" / "best.pt", {k: v for k, v in state.items() if k != "train"})
    if tracer:
        tracer.stop()
    if board:
        board.close()
        if done.epoch < config.epochs:
            click.echo(f"ended after epoch {done.epoch}: {done.stale} evaluations without a better mAP50-95")
    if world > 1:
        dist.destroy_process_group()
    return folder


_COUNTS = ("images", "seconds", "waited", "steps")


def _line(losses: dict[str, float], sums: dict[str, float], device: torch.device) -> str:
    memory = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else distributed.resident()
    return (
        " ".join(f"{name} {value:.3f}" for name, value in losses.items())
        + f" | {sums['images'] / sums['seconds']:.1f} img/s, {memory / 2**30:.2f} GiB"
        + f", data-wait {100 * sums['waited'] / sums['seconds']:.1f} %"
    )


def command(detector: str, kind: type[Config]) -> click.Command:
    """The command line of a trainer: `python -m trainers.<detector> --shards DIR`.

    Args:
        kind: the detector's configuration, whose fields become flags.
    """

    @click.command(cls=Command, help=f"Train {detector}. Values come from --config, then from the flags.")
    @click.option("--config", "toml", type=click.Path(path_type=Path), help="flat TOML file with any of these values")
    @click.option("--resume", type=click.Path(path_type=Path), help="folder of a stopped run; it goes on where it was")
    @options(kind)
    def run_it(toml: Path | None, resume: Path | None, **flags: Any) -> None:
        given = {key: value for key, value in flags.items() if value is not None}
        if resume:
            if toml or given.keys() - {"shards", "device", "threads", "decode", "on_error"}:
                raise ConfigError(
                    "--resume goes with shards, device, threads, decode, on-error only; the run keeps its values"
                )
            toml = resume / run.ARGS
            run.last(resume)
        values = (read_toml(kind, toml) if toml else {}) | given
        train(dataclasses.replace(kind(), **values), detector, resume)

    return run_it
