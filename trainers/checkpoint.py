"""Checkpoints: written atomically, read with `weights_only=True`."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import torch

from dataforge.errors import ConfigError
from dataforge.files import writing
from trainers.models.detector import Detector
from trainers.registry import detector_class


def save(path: Path, checkpoint: dict[str, Any]) -> None:
    """Write a checkpoint atomically.

    Args:
        checkpoint: tensors, numbers, strings and containers of them. `load_detector` needs `detector` (a name),
            `config` (the constructor's keyword values), `classes`, `class_ids`, `size` (height, width), `fit`
            ("letterbox" or "stretch") and `model` (the state dict to evaluate with).

    Raises:
        ConfigError: the file cannot be written.
    """
    temporary = path.with_name(path.name + ".tmp")
    with writing(path, ConfigError):
        with open(temporary, "wb") as file:
            torch.save(checkpoint, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)


def weights_of(path: str | Path) -> Path:
    """Return `weights/best.pt` of a run's folder, or `last.pt` before its first evaluation; another path as it is."""
    weights = Path(path) / "weights"
    if not weights.is_dir():
        return Path(path)
    return next((file for file in (weights / "best.pt", weights / "last.pt") if file.is_file()), weights / "best.pt")


def load(path: str | Path) -> dict[str, Any]:
    """Read a checkpoint, or the best one of a run's folder.

    Raises:
        ConfigError: the file is missing, truncated, or not a checkpoint of these trainers.
    """
    path = weights_of(path)
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such checkpoint") from None
    except (OSError, RuntimeError, EOFError, ValueError, pickle.UnpicklingError) as error:
        raise ConfigError(f"{path}: not a checkpoint that can be read: {str(error).splitlines()[0]}") from None
    if not isinstance(checkpoint, dict) or "detector" not in checkpoint:
        raise ConfigError(f"{path}: not a checkpoint of these trainers (it has no `detector` entry)")
    return checkpoint


def load_detector(path: str | Path) -> tuple[Detector, dict[str, Any]]:
    """Return a detector ready for evaluation and its complete checkpoint.

    Raises:
        ConfigError: as for `load`, or the weights do not match the configuration.
    """
    checkpoint = load(path)
    return detector_of(checkpoint, path), checkpoint


def detector_of(checkpoint: dict[str, Any], path: str | Path) -> Detector:
    """Return the detector of a checkpoint that `load` read from `path`, ready for evaluation.

    Raises:
        ConfigError: values are missing, or the weights do not match the configuration.
    """
    missing = [key for key in ("config", "model", "classes", "class_ids", "size", "fit") if key not in checkpoint]
    if missing:
        raise ConfigError(f"{path}: a checkpoint of another version: it has no {', '.join(missing)}")
    kind = detector_class(checkpoint["detector"])
    try:
        detector = kind(**checkpoint["config"])
    except TypeError as error:
        raise ConfigError(f"{path}: a checkpoint of another version: {error}") from None
    try:
        detector.load_state_dict(checkpoint["model"])
    except RuntimeError as error:
        raise ConfigError(f"{path}: the weights do not fit the configuration: {str(error).splitlines()[0]}") from None
    # same memory format as in training: other kernels round differently, and the run's metrics should be reproduced
    return detector.to(memory_format=torch.channels_last).eval()  # type: ignore[call-overload]
