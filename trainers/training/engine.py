"""Training loop shared by all detectors.

`train` calls `start`, which creates or resumes a run, `train_epoch`, which takes the steps of an epoch, and
`end_epoch`, which evaluates, logs and saves. `state.Training` contains the state needed to resume; everything random is
a function of (seed, epoch, record) or saved with it.
"""

from __future__ import annotations

import time
from collections.abc import Set as Names
from contextlib import ExitStack, nullcontext
from pathlib import Path

import torch

from dataforge.command import echo
from dataforge.errors import ConfigError, DataError, StoppedError
from dataforge.loading.batch import Batch
from trainers import distributed, registry
from trainers.config import Config, check_splits, read_toml
from trainers.results.report import draw_inputs, score
from trainers.training import auto_batch, defaults, precision, remote, run
from trainers.training.data import make_loaders, skipped, timed
from trainers.training.learner import Learner
from trainers.training.log import Log
from trainers.training.optim import learning_rate
from trainers.training.state import Training


def train(config: Config, detector: str, resume: Path | None = None, stated: Names[str] | None = None) -> Path:
    """Train a detector.

    Seeds torch's generators and does not restore their state. Ctrl-C and SIGTERM are handled until it returns.

    Args:
        detector: its name in `registry.DETECTORS`.
        resume: the folder of a run that continues from its newest checkpoint, or starts over without one. By default,
            the run of this name, with its own values, if it was begun by the same job of torchrun.
        stated: the names of the fields that keep their values in a new run, where `config.defaults` is "auto"; rank 0
            chooses the others for all. None if all do.

    Returns:
        The run's folder.

    Raises:
        ConfigError: a value is invalid, or the memory too small. DataError: the loss is not a number, or a record is
            damaged. StoppedError: training was stopped; a checkpoint was written.
    """
    config.check()
    check_splits(config)
    if not resume and (resume := run.restarted(config, detector) or remote.restarted(config, detector)):
        config = type(config)(**read_toml(type(config), run.arguments(resume)))
        config.check()
    with distributed.joined(config.device, config.timeout) as (rank, world, device), ExitStack() as held:
        if resume and rank == 0:
            held.enter_context(run.locked(resume))
        if stated is not None and config.defaults == "auto" and not resume:
            config = distributed.gathered(defaults.choose(config, stated, detector))[0]
            config.check()
        fsdp = getattr(config, "fsdp", False)
        if fsdp and world == 1:
            echo("fsdp: has no effect on one process; several are started by torchrun")
        fp16 = not fsdp or world == 1
        config.amp, words = distributed.gathered(precision.resolved(config.amp, device, fp16))[0]
        if words and rank == 0:
            echo(words)
        if config.auto_batch and not resume:
            config.batch_size, config.auto_batch = auto_batch.fitting(config, detector, device, world), False
        training = start(config, detector, resume, rank, world, device, held)
        if training.progress.epoch > config.epochs:
            raise ConfigError(f"--epochs {config.epochs}: the run has done {training.progress.epoch}; expected as many")
        if resume and rank == 0:
            run.keep(resume, config)
        with distributed.Stop() as stop, training.remote or nullcontext(), training.writer, Log(training) as log:
            stopped = False
            while not stopped and not training.finished:
                stopped = train_epoch(training, log, stop)
                if not stopped:
                    end_epoch(training, log)
            training.writer.wait()
            if not stopped:
                log.end()
    if stopped:
        raise StoppedError(f"stopped after step {training.progress.step}; go on with --resume {training.folder}")
    return training.folder


def start(
    config: Config,
    detector: str,
    resume: Path | None,
    rank: int,
    world: int,
    device: torch.device,
    held: ExitStack,
) -> Training:
    """Create a new run, whose lock `held` releases, or resume one from its newest checkpoint."""
    torch.manual_seed(config.seed)
    kind = registry.detector_class(detector)
    loader, val_loader = make_loaders(config, kind, rank, world, device)
    place = None
    if config.checkpoints and rank == 0:
        place = remote.Remote(config, detector, resume)
    if config.checkpoints:
        distributed.gathered(None)  # all read what rank 0 may have fetched
    state = run.last(resume) if resume else None
    model_config = state["config"] if state else kind.configure(config, loader.shards)
    model = kind(**model_config)
    if not state:
        loaded = model.pretrain(config)
        if rank == 0:
            echo(f"pretrained: {loaded}" if loaded else "from random weights; --pretrained starts from others")
    learner = Learner(config, model, device, world)
    model.prepare(config, loader.shards.classes)
    folder = resume or Path()
    if rank == 0 and not state:
        folder = run.start_over(resume) if resume else run.create(config, detector, held)
        run.begin(folder, detector, loader.state_dict())
        draw_inputs(folder, loader)
    folder = distributed.gathered(folder)[0]
    training = Training(config, detector, model_config, loader, val_loader, learner, folder, rank, world, remote=place)
    if place:
        place.begin(folder)
    if state:
        training.load_state_dict(state)
    return training


def train_epoch(training: Training, log: Log, stop: distributed.Stop) -> bool:
    """Take the remaining steps of an epoch, and save every `save_steps` of them.

    Returns:
        True if a stop was requested; a checkpoint is then being written.
    """
    config, loader, progress = training.config, training.loader, training.progress
    if loader.epoch != progress.epoch:
        loader.set_epoch(progress.epoch)
    steps, before = len(loader), loader.state_dict()["step"]  # epochs differ in length with sampling and buckets
    log.start_epoch(steps, before)
    for done, (batch, waited, started) in enumerate(timed(loader), before + 1):
        rate = learning_rate(config, progress.step, progress.epoch + (done - 1) / steps)
        losses = take_step(training, batch, rate, log if done == steps else None)
        progress.step += 1
        counts = {"images": len(batch) * training.world, "seconds": time.perf_counter() - started, "waited": waited}
        for name, value in {**losses, **counts, "steps": 1.0}.items():
            progress.sums[name] = progress.sums.get(name, 0.0) + value
        log.step(losses, rate)
        training.writer.check()
        stopping = stop.everywhere(training.learner.device)
        if stopping or (config.save_steps and progress.step % config.save_steps == 0 and done < steps):
            training.save()
        if stopping:
            return True
    return False


def take_step(training: Training, batch: Batch, rate: float, log: Log | None) -> dict[str, float]:
    """Take a training step on a batch.

    Args:
        rate: the learning rate; log: the log for the norms of the gradients, or None.

    Returns:
        The losses, as returned by `Learner.gradients`.
    """
    step = training.progress.step + 1
    with distributed.memory_errors(batch, step, training.config):
        try:
            losses = training.learner.gradients(batch)
        except DataError as error:
            raise DataError(
                f"step {step}: {error} of split {training.loader.shards.split!r}; try a lower --lr, or look at them: "
                f"dataforge replay {training.folder} --step {step}"
            ) from None
        if log:
            log.gradients()
        training.learner.update(rate, step - 1)
    return losses


def end_epoch(training: Training, log: Log) -> None:
    """Evaluate the detector if it is due, log the epoch and write a checkpoint."""
    config, progress = training.config, training.progress
    rate = learning_rate(config, progress.step - 1, progress.epoch + 1 - 1 / len(training.loader))
    sums, progress.sums = progress.sums, {}
    progress.epoch += 1
    training.learner.gather()
    scores = evaluate(training)
    better = progress.judge(scores["AP"]) if scores else training.val_loader is None
    damaged = skipped(training.loader, training.val_loader)
    training.loader.set_epoch(progress.epoch)
    log.end_epoch(sums, rate, scores, damaged)
    training.save(best=better)


def evaluate(training: Training) -> dict[str, float] | None:
    """Return COCO's metrics on the validation split, or None if no evaluation is due."""
    config, progress = training.config, training.progress
    last = progress.epoch == config.epochs
    if training.val_loader is None or not (last or progress.epoch % config.eval_every == 0):
        return None
    perhaps_last = last or 0 < config.patience <= progress.stale + 1
    folder = training.folder if training.rank == 0 and perhaps_last else None
    return score(training.learner.judged, training.val_loader, folder)
