"""Training output: CSV rows, curves, pictures, lines and a progress bar, all from rank 0."""

from __future__ import annotations

import time
from contextlib import ExitStack, closing
from typing import Any, Self

import torch
from tqdm import tqdm

from dataforge.command import echo
from dataforge.errors import counted
from trainers import distributed
from trainers.results import monitor, plots
from trainers.results.board import Board, open_board
from trainers.results.report import trace
from trainers.training import run
from trainers.training.state import Training

FEW, SETTLED = 3, 10.0  # steps, or seconds if they were at least two steps, after which the time left is estimated
LISTED = 10  # maximum number of damaged images listed after an epoch; each was also reported by a warning
COUNTS = ("images", "seconds", "waited", "steps")  # the sums of `Progress` that are not losses


class Log(ExitStack):
    """Outputs of a training. On ranks above 0 its methods do nothing.

    As a context manager, it closes the board, the trace and the progress bar, also after an error.
    """

    def __init__(self, training: Training) -> None:
        super().__init__()
        self.training = training
        self.board: Board | None = None
        self.profiler: torch.profiler.profile | None = None
        self.bar: tqdm[Any] = tqdm(disable=True)
        self.first = training.progress.epoch
        self.steps = 0  # of the first epoch; 0 once the time left is printed
        self.warm: dict[str, float] = {}  # sums after the first step, which takes longer
        self.stepped = time.perf_counter()  # end of the last step; a resumed run may evaluate before it takes any
        self.evaluation = 0.0  # seconds of the last one

    def __enter__(self) -> Self:
        super().__enter__()
        training, config, progress = self.training, self.training.config, self.training.progress
        if training.rank:
            return self
        self.callback(lambda: self.bar.close())
        with ExitStack() as opened:  # closes what is open if the rest fails
            self.board = opened.enter_context(
                closing(open_board(config, training.detector, training.folder, progress.step))
            )
            self.watched = monitor.watched(training.val_loader or training.loader)
            if config.profile:
                self.profiler = opened.enter_context(trace(training.folder))
            self.push(opened.pop_all())
        parameters = sum(weight.numel() for weight in training.learner.model.parameters())
        epochs = "no epoch left" if training.finished else f"epochs {progress.epoch + 1}..{config.epochs}"
        echo(
            f"{training.detector} on {training.learner.device}: {parameters / 1e6:.2f} M parameters, "
            f"{counted(len(training.loader.shards), 'image')}, {counted(len(training.loader), 'step')} per epoch, "
            f"{epochs}; {training.folder}"
        )
        return self

    def start_epoch(self, steps: int, done: int) -> None:
        """Show a progress bar of `steps` steps, of which `done` are already complete."""
        self.steps = steps if self.training.progress.epoch == self.first else 0
        if self.board:
            title = f"epoch {self.training.progress.epoch + 1}/{self.training.config.epochs}"
            self.bar = tqdm(total=steps, initial=done, desc=title, disable=None, leave=False)

    def gradients(self) -> None:
        """Log the norms of the gradients, before their step; all ranks must call it."""
        learner = self.training.learner
        if self.board or learner.sharded:
            norms = monitor.gradient_norms(learner.model)
            if self.board:
                monitor.gradients(self.board, norms, self.training.progress.step + 1, learner.scaler.get_scale())

    def step(self, losses: dict[str, float], rate: float) -> None:
        """Write the row of the last step.

        Args:
            rate: the learning rate.
        """
        if self.profiler:
            self.profiler.step()
        if self.board:
            progress = self.training.progress
            row = {"step": progress.step, "epoch": progress.epoch + 1, **losses, "lr": rate}
            run.append(self.training.folder / run.STEPS, row)
            for name, value in {**losses, "lr": rate}.items():
                self.board.add_scalar(f"train/{name}", value, progress.step)
            self.stepped = time.perf_counter()
            self._estimate(progress.sums)
            self.bar.update()
            self.bar.set_postfix_str(summary(losses, progress.sums, self.training.learner.device))

    def _estimate(self, sums: dict[str, float]) -> None:
        """Print the time left, once, in the first epoch: after `FEW` steps, after `SETTLED` seconds, or at its end.

        They are steps of the training itself: others, before it, would come no sooner and change what is random. The
        first step is no measure: it may take ten times as long as the others. Nothing is printed after it alone.
        """
        if self.steps and self.warm and (sums["steps"] >= min(FEW, self.steps) or sums["seconds"] >= SETTLED):
            seconds, steps = (sums[name] - self.warm[name] for name in ("seconds", "steps"))
            left = self.steps * (self.training.config.epochs - self.training.progress.epoch) - sums["steps"]
            tqdm.write(f"{duration(left * seconds / steps)} left, without evaluations (estimated from the first steps)")
            self.steps = 0
        self.warm = self.warm or dict(sums)

    def _left(self, sums: dict[str, float]) -> str:
        """Describe the time left after an epoch, as its steps and the last evaluation took; "" after the last."""
        config, done = self.training.config, self.training.progress.epoch
        if done == config.epochs:
            return ""
        evaluations = config.epochs // config.eval_every - done // config.eval_every
        evaluations += config.epochs % config.eval_every > 0
        seconds = sums["seconds"] / sums["steps"] * len(self.training.loader) * (config.epochs - done)
        without = ", without evaluations" if self.training.val_loader and not self.evaluation else ""
        return f"; {duration(seconds + evaluations * self.evaluation)} left{without}"

    def end_epoch(
        self, sums: dict[str, float], rate: float, scores: dict[str, float] | None, damaged: list[str]
    ) -> None:
        """Write the row, the curves and the lines of the last epoch, and pictures if due.

        Args:
            sums: of the losses and of `COUNTS` over its steps; rate: the learning rate of the last one.
            scores: COCO's metrics, or None without an evaluation.
            damaged: the error of each image skipped so far.
        """
        if not self.board:
            return
        self.bar.close()
        training, config, progress = self.training, self.training.config, self.training.progress
        if scores:
            self.evaluation = time.perf_counter() - self.stepped
        means = {name: value / sums["steps"] for name, value in sums.items() if name not in COUNTS}
        row: dict[str, Any] = {"epoch": progress.epoch, "step": progress.step, **means, "lr": rate}
        row |= {"mAP50": scores["AP50"], "mAP50-95": scores["AP"]} if scores else {"mAP50": "", "mAP50-95": ""}
        row["img/s"] = round(sums["images"] / sums["seconds"], 1)
        row["data-wait %"] = round(100 * sums["waited"] / sums["seconds"], 2)
        table = training.folder / run.RESULTS
        run.append(table, row)
        plots.results(table, training.folder / "results.png")
        for name, value in row.items():
            if value != "":
                self.board.add_scalar(f"epoch/{name}", value, progress.step)
        line = f"epoch {progress.epoch}/{config.epochs}: {summary(means, sums, training.learner.device)}"
        line += f", mAP50 {scores['AP50']:.4f}, mAP50-95 {scores['AP']:.4f}" if scores else ""
        echo(line + self._left(sums))
        if damaged:
            rest = [f"and {len(damaged) - LISTED} more"] if len(damaged) > LISTED else []
            echo("\n  ".join([f"damaged images skipped so far: {len(damaged)}", *damaged[:LISTED], *rest]))
        if monitor.due(progress.epoch, config.epochs):
            monitor.write(self.board, training.learner.judged, self.watched, training.loader.classes, progress.step)

    def end(self) -> None:
        """Print why a finished run ended early, if it did, and where the results are."""
        progress = self.training.progress
        if self.board and progress.epoch < self.training.config.epochs:
            echo(f"ended after epoch {progress.epoch}: {progress.stale} evaluations without a better mAP50-95")
        if self.board:
            echo(f"Results saved to {self.training.folder}")


def duration(seconds: float) -> str:
    minutes = round(seconds / 60)
    hours = f"{minutes // 60} h " if minutes >= 60 else ""
    return f"about {hours}{minutes % 60} min" if minutes else "less than a minute"


def summary(losses: dict[str, float], sums: dict[str, float], device: torch.device) -> str:
    """Format losses, images per second, memory and the share of time spent waiting for data as one line."""
    memory = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else distributed.resident()
    return (
        " ".join(f"{name} {value:.3f}" for name, value in losses.items())
        + f" | {sums['images'] / sums['seconds']:.1f} img/s, {memory / 2**30:.2f} GiB"
        + f", data-wait {100 * sums['waited'] / sums['seconds']:.1f} %"
    )
