"""The training loop that all detectors share. It reads from top to bottom; state that must survive a stop is in one
dictionary, and everything random is a function of (seed, epoch, record) or saved with it.
"""

from __future__ import annotations

import copy
import dataclasses
import math
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import click
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from dataforge.batch import Batch
from dataforge.command import Command
from dataforge.errors import ConfigError, DataError
from dataforge.loader import Loader
from trainers import checkpoint, plots, process, run
from trainers.config import Config, options, read_toml
from trainers.report import draw_inputs, score


def learning_rate(config: Config, step: int, steps_an_epoch: int) -> float:
    """The learning rate of a step (0, 1, ...), a pure function so that nothing has to be saved."""
    rate = config.lr
    if config.warmup_steps:
        rate *= min(1.0, (step + 1) / config.warmup_steps)
    if config.schedule == "step":
        rate *= 0.1 ** sum(step // steps_an_epoch >= milestone for milestone in config.milestones)
    elif config.schedule == "cosine":
        rate *= 0.01 + 0.99 * (1 + math.cos(math.pi * step / (config.epochs * steps_an_epoch))) / 2
    return rate


def make_optimizer(config: Config, model: nn.Module) -> torch.optim.Optimizer:
    """SGD or AdamW; tensors of one dimension (biases, norms) get no weight decay."""
    weights = [p for p in model.parameters() if p.requires_grad and p.ndim > 1]
    others = [p for p in model.parameters() if p.requires_grad and p.ndim <= 1]
    groups = [{"params": weights, "weight_decay": config.weight_decay}, {"params": others, "weight_decay": 0.0}]
    if config.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=config.lr, momentum=config.momentum)
    return torch.optim.AdamW(groups, lr=config.lr, betas=(config.momentum, 0.999))


@torch.no_grad()
def update_average(average: nn.Module, model: nn.Module, decay: float, step: int) -> None:
    """Exponential moving average of weights and buffers; the decay grows from 0, so that early steps are forgotten."""
    decay *= 1 - math.exp(-(step + 1) / 500)
    pairs = list(zip(average.state_dict().values(), model.state_dict().values(), strict=True))
    moving = [pair for pair in pairs if pair[0].is_floating_point()]
    torch._foreach_lerp_([mean for mean, _ in moving], [value for _, value in moving], 1 - decay)
    for mean, value in pairs:
        if not mean.is_floating_point():
            mean.copy_(value)


def make_loaders(
    config: Config, stride: int, rank: int, world: int, device: torch.device
) -> tuple[Loader, Loader | None]:
    """The loaders of the training and the validation split; without a validation split, None.

    Raises:
        ConfigError: a size, a split or a batch size that cannot be.
    """
    if config.batch_size % world:
        raise ConfigError(f"batch_size {config.batch_size} is not a multiple of the {world} processes")
    if any(side % stride for side in config.size):
        raise ConfigError(f"size is {config.size}; expected multiples of {stride}")
    size = (config.size[0], config.size[1])
    common: dict[str, Any] = {"batch_size": config.batch_size // world, "size": size, "fit": config.fit}
    common |= {"rank": rank, "world": world, "device": device, "threads": config.threads or None}
    low, high = (round(factor * max(size) / 32) for factor in config.multiscale or (1.0, 1.0))
    scales = [side * 32 / max(size) for side in range(max(low, 1), max(high, 1) + 1)]
    loader = Loader(
        config.shards, config.train_split, augment=config.augment, seed=config.seed, scales=scales, **common
    )
    if not len(loader.shards):
        raise ConfigError(f"{config.shards}: split {loader.shards.split!r} has no images")
    return loader, Loader(config.shards, config.val_split, shuffle=False, **common) if config.val_split else None


def train(config: Config, detector: str, resume: Path | None = None) -> Path:
    """Train a detector.

    Args:
        detector: its name in `checkpoint.DETECTORS`.
        resume: the folder of a run that goes on from its newest checkpoint.

    Returns:
        The run's folder.

    Raises:
        ConfigError: a value is wrong. DataError: the loss is not a number, or a record is damaged.
    """
    config.check()
    rank, world, device = process.place(config.device)
    torch.manual_seed(config.seed)
    kind = checkpoint.detector_class(detector)
    loader, val_loader = make_loaders(config, kind.stride, rank, world, device)
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
    model = model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    average = copy.deepcopy(model).requires_grad_(False).eval()
    optimizer = make_optimizer(config, model)
    scaler = torch.amp.GradScaler(device.type, enabled=config.amp == "fp16")
    step, epoch, best = 0, 0, -1.0
    sums: dict[str, float] = {}
    if state:
        assert resume is not None
        folder = resume
        average.load_state_dict(state["model"])
        kept = state["train"]
        model.load_state_dict(kept["model"])
        optimizer.load_state_dict(kept["optimizer"])
        scaler.load_state_dict(kept["scaler"])
        loader.load_state_dict(kept["loader"])
        torch.set_rng_state(kept["rng"])
        if device.type == "cuda" and kept["cuda_rng"] is not None:
            torch.cuda.set_rng_state(kept["cuda_rng"], device)
        step, epoch, best, sums = kept["step"], kept["epoch"], kept["best"], kept["sums"]
        if rank == 0:
            run.rewind(folder / run.RESULTS, step)
            run.rewind(folder / run.STEPS, step)
    else:
        folder = run.create(config, detector) if rank == 0 else Path()
        if rank == 0:
            draw_inputs(folder, loader)
    board = SummaryWriter(str(folder), purge_step=step + 1) if rank == 0 else None
    steps_an_epoch = len(loader)
    if rank == 0:
        click.echo(
            f"{detector} on {device}: {sum(p.numel() for p in model.parameters()) / 1e6:.2f} M parameters, "
            f"{len(shards)} images, {steps_an_epoch} steps an epoch, epochs {epoch + 1}..{config.epochs}; {folder}"
        )
    net: nn.Module = model
    if world > 1:
        net = DistributedDataParallel(model, device_ids=[device.index] if device.type == "cuda" else None)

    def snapshot() -> dict[str, Any]:
        return {
            "detector": detector,
            "config": model_config,
            "classes": list(shards.classes),
            "class_ids": list(shards.class_ids),
            "size": config.size,
            "fit": config.fit,
            "model": average.state_dict() if config.ema else model.state_dict(),
            "train": {
                "model": model.state_dict(),
                "optimizer": optimizer.state_dict(),
                "scaler": scaler.state_dict(),
                "loader": loader.state_dict(),
                "rng": torch.get_rng_state(),
                "cuda_rng": torch.cuda.get_rng_state(device) if device.type == "cuda" else None,
                "step": step,
                "epoch": epoch,
                "best": best,
                "sums": sums,
            },
        }

    stop = process.Stop()
    model.train()
    while epoch < config.epochs:
        if loader.epoch != epoch:
            loader.set_epoch(epoch)
        progress = tqdm(
            total=steps_an_epoch,
            initial=step - epoch * steps_an_epoch,
            desc=f"epoch {epoch + 1}/{config.epochs}",
            disable=None if rank == 0 else True,
            leave=False,
        )
        for batch, waited, started in _timed(loader):
            rate = learning_rate(config, step, steps_an_epoch)
            for group in optimizer.param_groups:
                group["lr"] = rate
            with _autocast(config, device):
                raw = net(batch.images)
            losses = model.loss(raw, batch)
            parts = torch.stack(list(losses.values()))
            loss = parts.sum()
            row = dict(zip(losses, parts.tolist(), strict=True))  # the step's one wait for the device
            row["loss"] = sum(row.values())
            if not math.isfinite(row["loss"]):
                raise DataError(
                    f"step {step}: the loss is not finite ("
                    + ", ".join(f"{name} {value:.4g}" for name, value in row.items())
                    + f"); records {batch.index.tolist()} of split {shards.split!r}; try a lower --lr"
                )
            share, stopping = process.agree(len(batch), stop.asked, world, device)
            scaler.scale(loss * share).backward()
            scaler.unscale_(optimizer)
            if config.clip:
                nn.utils.clip_grad_norm_(model.parameters(), config.clip)
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad(set_to_none=True)
            if config.ema:
                update_average(average, model, config.ema, step)
            step += 1
            spent = time.perf_counter() - started
            for name, value in {**row, "images": len(batch) * world, "seconds": spent, "waited": waited}.items():
                sums[name] = sums.get(name, 0.0) + value
            sums["steps"] = sums.get("steps", 0.0) + 1
            if board:
                run.append(folder / run.STEPS, {"step": step, "epoch": epoch + 1, **row, "lr": rate})
                for name, value in row.items():
                    board.add_scalar(f"train/{name}", value, step)
                board.add_scalar("train/lr", rate, step)
                progress.update()
                progress.set_postfix_str(_line(row, sums, device))
            due = config.save_steps and step % config.save_steps == 0 and step % steps_an_epoch
            if rank == 0 and (due or stopping):
                run.save(folder, snapshot(), step, config.keep)
            if stopping:
                raise click.ClickException(f"stopped after step {step}; go on with --resume {folder}")
        progress.close()

        epoch += 1
        means = {name: total / sums["steps"] for name, total in sums.items() if name not in _COUNTS}
        results: dict[str, Any] = {"epoch": epoch, "step": step, **means, "lr": rate, "mAP50": "", "mAP50-95": ""}
        if val_loader and (epoch % config.eval_every == 0 or epoch == config.epochs):
            judge = average if config.ema else model
            numbers = score(judge, val_loader, folder if rank == 0 and epoch == config.epochs else None)
            results |= {"mAP50": numbers["AP50"], "mAP50-95": numbers["AP"]}
        results |= {
            "img/s": round(sums["images"] / sums["seconds"], 1),
            "data-wait %": round(100 * sums["waited"] / sums["seconds"], 2),
        }
        line = _line(means, sums, device)
        sums = {}
        loader.set_epoch(epoch)
        if board:
            run.append(folder / run.RESULTS, results)
            plots.results(folder / run.RESULTS, folder / "results.png")
            for name, value in results.items():
                if value != "":
                    board.add_scalar(f"epoch/{name}", value, step)
            scored = results["mAP50"] != ""
            scores = f", mAP50 {results['mAP50']:.4f}, mAP50-95 {results['mAP50-95']:.4f}" if scored else ""
            click.echo(f"epoch {epoch}/{config.epochs}: {line}{scores}")
            better = scored and results["mAP50-95"] > best
            best = max(best, results["mAP50-95"]) if scored else best
            state = snapshot()
            run.save(folder, state, step, config.keep)
            if better or not val_loader:
                checkpoint.save(folder / "weights" / "best.pt", {k: v for k, v in state.items() if k != "train"})
    if board:
        board.close()
    if world > 1:
        dist.destroy_process_group()
    return folder


_COUNTS = ("images", "seconds", "waited", "steps")


def _timed(loader: Loader) -> Iterator[tuple[Batch, float, float]]:
    """Batches, each with the seconds that were spent waiting for it and the moment the waiting began."""
    batches = iter(loader)
    while True:
        started = time.perf_counter()
        batch = next(batches, None)
        if batch is None:
            return
        yield batch, time.perf_counter() - started, started


def _autocast(config: Config, device: torch.device) -> AbstractContextManager[Any]:
    if config.amp == "none":
        return nullcontext()
    return torch.autocast(device.type, torch.bfloat16 if config.amp == "bf16" else torch.float16)


def _line(losses: dict[str, float], sums: dict[str, float], device: torch.device) -> str:
    memory = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else process.resident()
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
            movable = {"shards", "device", "threads"}
            if toml or given.keys() - movable:
                raise ConfigError(f"--resume goes with {', '.join(sorted(movable))} only; the run keeps its values")
            toml = resume / run.ARGS
            run.last(resume)
        values = (read_toml(kind, toml) if toml else {}) | given
        train(dataclasses.replace(kind(), **values), detector, resume)

    return run_it
