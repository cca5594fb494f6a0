"""Checkpoints: written atomically with a digest of their contents, read with `weights_only=True`."""

from __future__ import annotations

import copy
import os
import zipfile
import zlib
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Self

import torch

from dataforge.command import echo
from dataforge.errors import ConfigError, DataforgeError
from dataforge.files import flush, room
from trainers.models.detector import Detector
from trainers.models.pretrained import unreadable
from trainers.registry import detector_class

DIGEST = "digest"


def save(path: Path, checkpoint: dict[str, Any]) -> None:
    """Write a checkpoint atomically, with its digest. If that fails, the file that was there stays.

    Args:
        checkpoint: tensors, numbers, strings and containers of them. `load_detector` needs `detector` (a name),
            `config` (the constructor's keyword values), `classes`, `class_ids`, `size` (height, width), `fit`
            ("letterbox" or "stretch") and `model` (the state dict to evaluate with).

    Raises:
        ConfigError: the file cannot be written.
    """
    temporary = path.with_name(path.name + ".tmp")
    try:
        with open(temporary, "wb") as file:
            torch.save({**checkpoint, DIGEST: digest(checkpoint)}, file)
            file.flush()
            os.fsync(file.fileno())
        zipfile.ZipFile(temporary).close()  # reads the list of its parts, which is at the file's end
        os.replace(temporary, path)
        flush(path.parent)
    except (OSError, RuntimeError, zipfile.BadZipFile) as error:
        needed = f"it needs about {size(checkpoint) / 1e6:.1f} MB, {room(path.parent)}"
        temporary.unlink(missing_ok=True)
        raise ConfigError(
            f"{path}: cannot be written: {_reason(error)}; {needed}; the checkpoints before it are as they were"
        ) from None


class Writer:
    """A thread that writes while training continues. A context manager: its end waits for what is being written."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, "checkpoint")
        self._writing: Future[None] | None = None

    def start(self, write: Callable[..., None], *given: Any) -> None:
        """Call `write` in the thread; `wait` comes first."""
        self._writing = self._thread.submit(write, *given)

    def wait(self) -> None:
        """Wait until nothing is being written, and raise the error of `write` if it failed."""
        writing, self._writing = self._writing, None
        if writing:
            writing.result()

    def check(self) -> None:
        """Raise the error of `write` if it has failed."""
        if self._writing and self._writing.done():
            self.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        self._thread.shutdown()
        try:
            self.wait()
        except DataforgeError as error:
            if kind is None:
                raise
            echo(f"error: {error}", err=True)  # beside the one that ends the run


def copied(value: Any, copies: dict[Any, torch.Tensor] | None = None) -> Any:
    """Return a copy of a checkpoint in host memory. Tensors that share their memory share it in the copy, too."""
    copies = {} if copies is None else copies
    if isinstance(value, torch.Tensor):
        key = (value.device, value.data_ptr(), value.dtype, value.shape, value.stride())
        if key not in copies:
            copies[key] = value.detach().to("cpu", copy=True)
        return copies[key]
    if isinstance(value, dict):
        parts = copy.copy(value)  # keeps the order, and the versions that a state dict of torch holds
        parts.update((name, copied(part, copies)) for name, part in value.items())
        return parts
    if isinstance(value, list | tuple):
        return type(value)(copied(part, copies) for part in value)
    return value


def _reason(error: BaseException) -> str:
    """Return the system's reason: torch raises another error while it handles that one."""
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, OSError):
        cause = cause.__context__
    return (cause.strerror if isinstance(cause, OSError) else None) or str(error).splitlines()[0]


def size(checkpoint: Any) -> int:
    """Return the bytes of a checkpoint's tensors; of those that share their memory, once, as `copied` keeps them."""
    tensors = sorted(_tensors(checkpoint), key=lambda tensor: tensor.nbytes)
    return sum({tensor.data_ptr(): tensor.nbytes for tensor in tensors}.values())


def _tensors(value: Any) -> list[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        return [value]
    parts = value.values() if isinstance(value, Mapping) else value if isinstance(value, list | tuple) else ()
    return [tensor for part in parts for tensor in _tensors(part)]


def digest(value: Any, crc: int = 0) -> int:
    """Return the CRC-32 of a checkpoint's contents: every tensor, number and text, with their names, in order."""
    if isinstance(value, torch.Tensor):
        flat = value.detach().cpu().contiguous().reshape(-1)
        crc = zlib.crc32(f"{value.dtype} {tuple(value.shape)}".encode(), crc)
        return zlib.crc32(flat.view(torch.uint8).numpy().data, crc) if len(flat) else crc
    if isinstance(value, Mapping):
        value = [part for item in value.items() if item[0] != DIGEST for part in item]
    if isinstance(value, list | tuple):
        crc = zlib.crc32(f"[{len(value)}]".encode(), crc)
        for part in value:
            crc = digest(part, crc)
        return crc
    return zlib.crc32(f"{value!r} ".encode("utf-8", "backslashreplace"), crc)


def weights_of(path: str | Path) -> Path:
    """Return `weights/best.pt` of a run's folder, or `last.pt` before its first evaluation; another path as it is."""
    weights = Path(path) / "weights"
    if not weights.is_dir():
        return Path(path)
    return next((file for file in (weights / "best.pt", weights / "last.pt") if file.is_file()), weights / "best.pt")


def load(path: str | Path) -> dict[str, Any]:
    """Read a checkpoint, or the best one of a run's folder, and compare it with its digest.

    One that has no digest, as those before 2026-11-26, is named.

    Raises:
        ConfigError: the file is missing, truncated, altered, or not a checkpoint of these trainers.
    """
    path = weights_of(path)
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such checkpoint") from None
    except Exception as error:
        raise ConfigError(f"{path}: not a checkpoint that can be read: {unreadable(error)}") from None
    if not isinstance(checkpoint, dict) or "detector" not in checkpoint:
        raise ConfigError(f"{path}: not a checkpoint of these trainers (it has no `detector` entry)")
    stated = checkpoint.pop(DIGEST, None)
    if stated is None:
        _check_parts(Path(path))
        echo(f"{path}: has no digest, so that an edit would not be noticed", err=True)
    elif stated != digest(checkpoint):
        raise ConfigError(f"{path}: is damaged or was edited: its weights, classes or values do not have its digest")
    return checkpoint


def _check_parts(path: Path) -> None:
    """Compare the parts of a checkpoint without a digest with the CRC-32 that torch stores for each.

    Raises:
        ConfigError: one differs.
    """
    if not zipfile.is_zipfile(path):  # torch before 1.6
        return
    try:
        with zipfile.ZipFile(path) as parts:
            damaged = parts.testzip()
    except Exception as error:  # a damaged list of parts raises errors of many kinds
        damaged = str(error)
    if damaged:
        raise ConfigError(f"{path}: is damaged: {damaged}")


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
