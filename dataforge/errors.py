"""Every error a user can cause. The command line prints the message alone; anything else is our bug."""

from __future__ import annotations

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
    """Root of the tree; its text names the file, the key, the value and what was expected."""


class FormatError(DataforgeError):
    """An annotation file or its folder cannot be understood."""


class ImageError(DataforgeError):
    """Image bytes cannot be read or decoded."""


class TruncatedImageError(ImageError):
    """Image bytes stop before the image does."""


class ShardError(DataforgeError):
    """A shard folder cannot be written, opened or trusted."""


class ConfigError(DataforgeError):
    """A flag, a recipe or a configuration value is wrong."""


class DataError(DataforgeError):
    """A record met while training or evaluating is not what it should be."""


def unknown(kind: str, name: str, known: object) -> ConfigError:
    """The error for a name that a registry does not hold; it lists those that it does.

    Args:
        kind: what the name should have named, in words ("format", "split").
        known: the names that exist.
    """
    names = ", ".join(sorted(map(str, known)))  # type: ignore[call-overload]
    return ConfigError(f"unknown {kind} {name!r}; known: {names or 'none'}")
