"""All errors that a user can cause. The command line prints only their message; any other error is a bug."""

from __future__ import annotations

import re
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


LONGEST = 20_000
_CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def plain(text: str) -> str:
    """Return text that any terminal shows as it is: what would control it, hide or reverse letters, or is not Unicode
    is escaped as in JSON. Line breaks and tabs stay."""
    return _CONTROLS.sub(lambda letter: f"\\u{ord(letter[0]):04x}", text)


def is_utf8(name: str) -> bool:
    """Return whether the name of a file is UTF-8 on the disk; Python has surrogates in place of other bytes."""
    return not any("\udc80" <= letter <= "\udcff" for letter in name)


def line_safe(text: str) -> str:
    """Return `plain` text of one line, without tabs."""
    return plain(text).replace("\n", "\\n").replace("\t", "\\t")


class DataforgeError(Exception):
    """Base class; its message names the file, the key, the value and what was expected, in `plain` text.

    The middle of a message longer than `LONGEST` characters is left out: it quotes a file's content.

    Attributes:
        exit_code: of the command that the error ends.
        facts: what else a command's `--json` prints beside the message.
    """

    exit_code = 2
    facts: Mapping[str, Any] = {}

    def __str__(self) -> str:
        text = plain(super().__str__())
        cut = len(text) - LONGEST
        return text if cut <= 0 else f"{text[: LONGEST // 2]} ... ({cut} characters) ... {text[-LONGEST // 2 :]}"


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


def first_line(error: BaseException) -> str:
    """Return what an error of another library says, in one line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__


def out_of_memory(error: BaseException) -> bool:
    """Return whether memory, of the host or of a device, ran out; torch's errors for it are of several kinds."""
    return isinstance(error, MemoryError) or any(
        words in str(error) for words in ("can't allocate memory", "out of memory")
    )


def unknown(kind: str, name: str, known: object) -> UnknownNameError:
    """Return the error for a name that is not in a registry; it lists the known names.

    Args:
        kind: the kind of object, in words ("format", "split").
        known: the existing names.
    """
    names = ", ".join(sorted(map(str, known)))  # type: ignore[call-overload]
    return UnknownNameError(f"unknown {kind} {name!r}; known: {names or 'none'}")


def counted(count: int, noun: str) -> str:
    """Return a number and its noun for messages: "1 file", "2 files", "2 boxes"."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}{'es' if noun.endswith(('s', 'x')) else 's'}"
