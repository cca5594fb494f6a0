"""What the formats share: folders, split names, paths that stay inside, text files."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath

import numpy as np

from dataforge.errors import FormatError, unknown
from dataforge.image import SUFFIXES
from dataforge.record import Boxes


def check_root(root: Path, expected: str) -> None:
    """See that a folder is there and holds something.

    Args:
        expected: the layouts that the format understands, for the message.

    Raises:
        FormatError: missing, a file, not readable, or empty.
    """
    try:
        empty = next(root.iterdir(), None) is None
    except OSError as error:
        reason = "does not exist" if isinstance(error, FileNotFoundError) else f"cannot be read: {error.strerror}"
        raise FormatError(f"{root}: {reason}; expected {expected}") from None
    if empty:
        raise FormatError(f"{root}: the folder is empty; expected {expected}")


def pick_splits(wanted: Sequence[str] | None, known: Iterable[str]) -> list[str]:
    """The splits to take, in the source's order: all of them, or those whose names or whose names' starts are wanted.

    Raises:
        ConfigError: a wanted name fits no split, or more than one.
    """
    known = list(known)
    if not wanted:
        return known
    picked = set()
    for name in wanted:
        fitting = [name] if name in known else [split for split in known if split.startswith(name)]
        if len(fitting) != 1:
            raise unknown("split", name, known)
        picked.add(fitting[0])
    return [split for split in known if split in picked]


def inside(name: str) -> str | None:
    """A relative path with forward slashes and no detours, or None where it is empty, absolute or leaves its folder."""
    path = os.path.normpath(name.replace("\\", "/"))
    if "\0" in path or path in (".", "..") or path.startswith(("../", "/")) or path[1:3] == ":/":
        return None
    return path


def is_picture(name: str) -> bool:
    """True when a file's suffix is an image's. Hidden files are not pictures: some systems leave `._a.jpg` about."""
    return name.lower().endswith(SUFFIXES) and not PurePosixPath(name).name.startswith(".")


def exists(path: Path) -> bool:
    """`Path.exists`, but False, not an error, for a name that the system refuses: names come from users' files."""
    return os.path.exists(path)  # noqa: PTH110


def read_text(path: Path) -> str:
    """A UTF-8 text file, with or without a byte order mark.

    Raises:
        FormatError: it cannot be read, or is not UTF-8.
    """
    try:
        return path.read_text("utf-8-sig")
    except OSError as error:
        raise FormatError(f"{path}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise FormatError(f"{path}: not UTF-8 text: byte {error.object[error.start]:#04x} at {error.start}") from None


def as_boxes(numbers: object) -> Boxes:
    """(n, 4) float32 from any numbers; what float32 cannot hold becomes infinite, and ingest refuses it."""
    with np.errstate(all="ignore"):
        return np.asarray(numbers, np.float64).reshape(-1, 4).astype(np.float32)


def as_size(value: float | str | None) -> int:
    """A height or width as an annotation states it, in pixels; 0, which means unknown, where it is no such thing."""
    try:
        return max(int(float(value or 0)), 0)
    except (ValueError, OverflowError):
        return 0
