"""Loggers for a run's curves and pictures: TensorBoard, Weights & Biases or MLflow, each imported on use."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from dataforge.errors import ConfigError
from dataforge.files import writing
from dataforge.images.draw import Pixels
from trainers.config import Config


class Board(Protocol):
    """The interface of all loggers."""

    def add_scalar(self, name: str, value: float, step: int) -> None: ...

    def add_image(self, name: str, pixels: Pixels, step: int) -> None:
        """Args:
        pixels: (H, W, 3) uint8.
        """

    def close(self) -> None: ...


def open_board(config: Config, detector: str, folder: Path, step: int) -> Board:
    """Open the board of a run.

    Args:
        folder: of the run; the board writes its files there.
        step: the number of steps taken; later entries, of a run that was killed, are not shown.

    Raises:
        ConfigError: the logger fails (not logged in, server not reachable, disk full); contains its message.
    """
    kinds: dict[str, Callable[[Config, str, Path, int], Board]]
    kinds = {"tensorboard": _TensorBoard, "wandb": _WandB, "mlflow": _MLflow}
    return kinds[config.logger](config, detector, folder, step)


class _TensorBoard:
    """A file of events, written by the thread that calls: that of `SummaryWriter` prints a traceback on a full disk."""

    def __init__(self, config: Config, detector: str, folder: Path, step: int) -> None:
        from tensorboard.compat.proto import event_pb2
        from tensorboard.summary.writer.record_writer import RecordWriter

        self.make = event_pb2.Event
        self.path = folder / f"events.out.tfevents.{time.time():.0f}.{socket.gethostname()}.{os.getpid()}"
        with writing(self.path, ConfigError):
            self.file = open(self.path, "ab")  # noqa: SIM115 (closed by `close`)
        self.records = RecordWriter(self.file)
        self._write(file_version="brain.Event:2")
        self._write(step=step + 1, session_log=event_pb2.SessionLog(status=event_pb2.SessionLog.START))

    def add_scalar(self, name: str, value: float, step: int) -> None:
        from torch.utils.tensorboard import summary

        self._write(step=step, summary=summary.scalar(name, value))

    def add_image(self, name: str, pixels: Pixels, step: int) -> None:
        from torch.utils.tensorboard import summary

        self._write(step=step, summary=summary.image(name, pixels, dataformats="HWC"))

    def _write(self, **event: Any) -> None:
        with writing(self.path, ConfigError):
            self.records.write(self.make(wall_time=time.time(), **event).SerializeToString())
            self.file.flush()

    def close(self) -> None:
        with writing(self.path, ConfigError):
            self.file.close()


class _WandB:
    """Weights & Biases logger with one project per detector."""

    def __init__(self, config: Config, detector: str, folder: Path, step: int) -> None:
        import wandb

        self.wandb = wandb
        known = _known(folder, "wandb")
        how: dict[str, Any] = {"project": detector, "name": config.name, "config": vars(config), "dir": folder}
        try:
            self.run: Any = wandb.init(id=known, resume="allow", **how)
        except wandb.Error as error:
            raise _refused("wandb", error) from None
        _keep(folder, "wandb", self.run.id)

    def add_scalar(self, name: str, value: float, step: int) -> None:
        self.run.log({name: value}, step=step)

    def add_image(self, name: str, pixels: Pixels, step: int) -> None:
        self.run.log({name: self.wandb.Image(pixels)}, step=step)

    def close(self) -> None:
        self.run.finish()


class _MLflow:
    """MLflow logger with one experiment per detector; its location is set by MLflow (MLFLOW_TRACKING_URI)."""

    def __init__(self, config: Config, detector: str, folder: Path, step: int) -> None:
        import mlflow

        self.mlflow = mlflow
        known = _known(folder, "mlflow")
        try:
            mlflow.set_experiment(detector)
            run = mlflow.start_run(run_id=known, run_name=config.name)
            if known is None:
                mlflow.log_params(vars(config))
        except mlflow.MlflowException as error:
            raise _refused("mlflow", error) from None
        _keep(folder, "mlflow", run.info.run_id)

    def add_scalar(self, name: str, value: float, step: int) -> None:
        self.mlflow.log_metric(name.replace("%", "percent"), value, step=step)  # % is not allowed

    def add_image(self, name: str, pixels: Pixels, step: int) -> None:
        self.mlflow.log_image(pixels, f"{name}/{step:07d}.png")

    def close(self) -> None:
        self.mlflow.end_run()


def _refused(name: str, error: Exception) -> ConfigError:
    return ConfigError(f"logger is {name!r}, which says: {next(iter(str(error).splitlines()), 'nothing')}")


def _known(folder: Path, name: str) -> str | None:
    """Return a logger's own id of this run, None the first time."""
    file = folder / f"{name}_run"
    return file.read_text("utf-8") if file.exists() else None


def _keep(folder: Path, name: str, run_id: str) -> None:
    with writing(file := folder / f"{name}_run", ConfigError):
        file.write_text(run_id, "utf-8")
