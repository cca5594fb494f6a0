"""State of a training, including everything needed to resume it."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dataforge.errors import ConfigError, out_of_memory
from dataforge.loading.loader import Loader
from trainers import checkpoint
from trainers.config import Config
from trainers.training import run
from trainers.training.learner import Learner
from trainers.training.remote import Remote


@dataclass
class Progress:
    """Progress of a run.

    Attributes:
        step, epoch: number of completed ones.
        best: the best mAP50-95 so far; stale: evaluations since then.
        sums: of the losses and times of the epoch's steps.
    """

    step: int = 0
    epoch: int = 0
    best: float = -1.0
    stale: int = 0
    sums: dict[str, float] = field(default_factory=dict)

    def judge(self, score: float) -> bool:
        """Count an evaluation; return True if its mAP50-95 is the best so far."""
        better = score > self.best
        self.best, self.stale = max(self.best, score), 0 if better else self.stale + 1
        return better


@dataclass(eq=False)
class Training:
    """Training on this rank.

    `state_dict` contains all changing state (`learner`, `loader`, `progress`); `load_state_dict` restores it.

    Attributes:
        detector: a name of `registry.DETECTORS`; model_config: the detector's keyword arguments.
        val_loader: None without a validation split.
        folder: of the run, the same on all ranks.
        rank, world: of this process, and the number of processes.
        remote: where rank 0 sends checkpoints, or None.
        writer: of rank 0's checkpoints.
    """

    config: Config
    detector: str
    model_config: dict[str, Any]
    loader: Loader
    val_loader: Loader | None
    learner: Learner
    folder: Path
    rank: int
    world: int
    progress: Progress = field(default_factory=Progress)
    remote: Remote | None = None
    writer: checkpoint.Writer = field(default_factory=checkpoint.Writer)

    @property
    def finished(self) -> bool:
        """Return whether all epochs are complete, or `patience` has ended the run."""
        patience = self.config.patience
        return self.progress.epoch >= self.config.epochs or 0 < patience <= self.progress.stale

    def state_dict(self) -> dict[str, Any]:
        """Return a checkpoint: the detector to evaluate, and under "train" what else `load_state_dict` needs."""
        shards = self.loader.shards
        train = self.learner.state_dict()
        train |= {"loader": self.loader.state_dict(), "progress": dataclasses.asdict(self.progress)}
        return {
            "detector": self.detector,
            "config": self.model_config,
            "classes": list(shards.classes),
            "class_ids": list(shards.class_ids),
            "size": self.config.size,
            "fit": self.config.fit,
            "model": self.learner.judged.state_dict(),
            "train": train,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a checkpoint; rows written after it are removed.

        Raises:
            ConfigError: the checkpoint was made with other shards or loader settings.
        """
        train = state["train"]
        self.learner.load_state_dict(train, state["model"])
        self.loader.load_state_dict(train["loader"])
        self.progress = Progress(**train["progress"])
        if self.rank == 0:
            for name in (run.RESULTS, run.STEPS):
                run.rewind(self.folder / name, self.progress.step)

    def save(self, best: bool = False) -> None:
        """Have a checkpoint written on rank 0 while training continues; all ranks must call it.

        It waits for the one before, so that there is one copy of the state at a time, and copies the state.

        Args:
            best: also write `weights/best.pt`, without "train".

        Raises:
            ConfigError: the one before could not be written, or there is no memory for the copy.
        """
        self.writer.wait()
        self.learner.gather()
        state = self.state_dict()
        if self.rank == 0:
            try:
                state = checkpoint.copied(state)
            except (RuntimeError, MemoryError) as error:
                if not out_of_memory(error):
                    raise
                raise ConfigError(
                    f"step {self.progress.step}: out of memory while the state is copied for a checkpoint"
                ) from None
            self.writer.start(self._write, state, self.progress.step, best)

    def _write(self, state: dict[str, Any], step: int, best: bool) -> None:
        if best:  # first: a run that resumes from the last checkpoint does not write the best one again
            part = {name: value for name, value in state.items() if name != "train"}
            checkpoint.save(self.folder / "weights" / "best.pt", part)
        run.save(self.folder, state, step, self.config.keep)
        if self.remote:
            self.remote.save(self.folder, step)
