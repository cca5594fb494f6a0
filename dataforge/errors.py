"""All errors that a user can cause. The command line prints only their message; any other error is a bug."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = [
    "ConfigError",
    "DataError",
    "DataforgeError",
    "FormatError",
    "ImageError",
    "ShardError",
    "TruncatedImageError",
]


class DataforgeError(Exception):
    """Base class; its message names the file, the key, the value and what was expected.

    Attributes:
        exit_code: of the command that the error ends.
        facts: what else a command's `--json` prints beside the message.
    """

    exit_code = 2
    facts: Mapping[str, Any] = {}


class FormatError(DataforgeError):
    """An annotation file or its folder is invalid or unreadable."""


class ImageError(DataforgeError):
    """Image bytes cannot be read or decoded."""


class TruncatedImageError(ImageError):
    """Image bytes end before the image is complete."""


class ShardError(DataforgeError):
    """A shard folder cannot be written, opened or trusted."""


class ConfigError(DataforgeError):
    """A flag, a recipe or a configuration value is wrong."""


class DataError(DataforgeError):
    """A record is found to be invalid during training or evaluation."""


class StoppedError(DataforgeError):
    """The user stopped a command; the message says what was kept."""

    exit_code = 130


class UnknownNameError(ConfigError):
    """A name is not among the known ones."""


TRAIN = {"kornia", "safetensors", "tensorboard", "tensordict", "timm", "torch", "torchvision"}  # modules of the extra


def without_extra(error: BaseException) -> str:
    """Return a message that names the extra of this package which has a missing module; "" for other errors."""
    name = (error.name or "").partition(".")[0] if isinstance(error, ModuleNotFoundError) else ""
    return f"needs {name}, which is not installed: pip install 'dataforge-detection[train]'" if name in TRAIN else ""


def unknown(kind: str, name: str, known: object) -> UnknownNameError:
    """Return the error for a name that is not in a registry; it lists the known names.

    Args:
        kind: the kind of object, in words ("format", "split").
        known: the existing names.
    """
    names = ", ".join(sorted(map(str, known)))  # type: ignore[call-overload]
    return UnknownNameError(f"unknown {kind} {name!r}; known: {names or 'none'}")
