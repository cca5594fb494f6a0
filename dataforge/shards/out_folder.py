"""The folder that shards are written to: whether it is free, its lock, and what an unfinished ingest left in it."""

from __future__ import annotations

import shutil
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from dataforge.cloud.path import RemotePath
from dataforge.errors import ConfigError, ShardError, is_utf8
from dataforge.files import lock_file, writing
from dataforge.shards.index import INDEX, JOURNAL, PART, REPORT


class BusyError(ShardError):
    """Another process is writing to the folder."""


def claim(out: Path, *, resume: bool = False) -> BinaryIO:
    """Make the output folder, and return an open file that keeps other writers away until it is closed.

    Args:
        resume: the folder may hold a complete part of an ingest.

    Raises:
        BusyError: another process writes to it. ShardError: it is not free (`check_free`), or cannot be created.
    """
    check_free(out, resume=resume)
    with writing(out, ShardError):
        out.mkdir(parents=True, exist_ok=True)
    lock = locked(out)
    try:
        _check_unpublished(out, resume)  # again: another process may have published meanwhile
    except BaseException:
        lock.close()
        raise
    return lock


def check_free(out: Path, *, resume: bool = False) -> None:
    """Raise a ShardError if this is a file, or a folder with a published set, a part of an ingest or foreign files.

    A URL is checked when it is locked, as one operation of the store.
    """
    if isinstance(out, RemotePath):
        return
    if not is_utf8(str(out.absolute())):
        raise ShardError(f"{out.absolute()}: its name is not UTF-8, as that of shards must be; choose another --out")
    if out.is_file():
        raise ShardError(f"{out}: is a file; --out must name a folder")
    with writing(out, ShardError):
        names = {entry.name for entry in out.iterdir()} if out.exists() else set()
        below = next((path for path in out.rglob(INDEX) if path.parent != out), None)
    if below:
        raise ShardError(f"{out}: other shards are below it, in {below.parent}; choose another --out")
    if names and names.isdisjoint({INDEX, REPORT}):
        raise ShardError(f"{out}: is not empty and was not made by `dataforge ingest`; choose another --out")
    _check_unpublished(out, resume)


def _check_unpublished(out: Path, resume: bool) -> None:
    if (out / INDEX).exists():
        raise ShardError(f"{out}: already holds shards; remove it, or choose another --out")
    if not resume and (out / PART).exists():
        raise ShardError(f"{out}: holds a part of an ingest; remove it, choose another --out, or --resume the part")


def locked(out: Path, name: str = REPORT) -> BinaryIO:
    """Create or open a file of a folder, and lock it; by default the report, which marks the folder as an ingest's.

    Raises:
        BusyError: another process, or another file of this one, has locked it. ShardError: it cannot be opened.
    """
    with writing(out, ShardError):
        file = open(out / name, "ab")  # noqa: SIM115
        try:
            lock_file(file.fileno())
        except BlockingIOError:
            file.close()
            raise BusyError(f"{out}: another process is writing to it") from None
        except OSError:  # a file system without locks
            pass
    return file


def clear(out: Path, kept: Collection[str] = ()) -> None:
    """Remove the shards of an unfinished ingest except those in `kept`, as `<split>/<number>`; its report stays."""
    for entry in out.iterdir():
        if not entry.is_dir():
            if entry.name != REPORT and not (kept and entry.name == JOURNAL):
                entry.unlink()
        elif any(path.startswith(f"{entry.name}/") for path in kept):
            for shard in entry.iterdir():
                if f"{entry.name}/{shard.name}" not in kept:
                    _remove(shard)
        else:
            _remove(entry)


def _remove(folder: Path) -> None:
    """Remove a folder. After an error, Zarr's threads may still be removing their files in it."""
    with suppress(FileNotFoundError):
        shutil.rmtree(folder)
    if folder.exists():
        shutil.rmtree(folder)


def check_outside(out: Path, shards: Path) -> None:
    """Raise ConfigError if a folder to write lies in the shards that are read."""
    if shards.resolve() in (out.resolve(), *out.resolve().parents):
        raise ConfigError(f"{out}: is inside the shards; choose another --out")
