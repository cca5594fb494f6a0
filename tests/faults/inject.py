"""Run a command in a child in which the n-th change of files fails.

A change is an audited event of Python below one folder (a file opened for writing, a folder made, a name changed,
linked or removed) or `os.fsync`. Writes, also those of native code, fail by a limit of the size of files.
"""

from __future__ import annotations

import errno
import faulthandler
import os
import resource
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dataforge.errors import DataforgeError

FAULTS = ("kill", "ENOSPC", "EIO", "short")
CHANGES = {"os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.link", "os.truncate", "os.symlink"}
_UNDRAWN = 97
_STUCK = 300  # seconds after which a child has hung; a busy machine takes one for a training


@dataclass(frozen=True)
class Outcome:
    """How a child ended: `ended` is done, refused, killed or undrawn; `text` its stderr; `count` its changes so far."""

    ended: str
    text: str
    count: int


def run(command: Callable[[], None], folder: Path, fault: str = "", n: int = 0) -> Outcome:
    """Run `command` in a forked child.

    Args:
        folder: only changes below it count.
        fault: one of `FAULTS`; "" lets all work. n: of the change that fails, from 1; for "short", the bytes of a file.
    """
    reading, writing = os.pipe()  # a limit of the size of files would cut a file
    child = os.fork()
    if child == 0:
        code = _UNDRAWN
        try:
            os.dup2(writing, 1)
            os.dup2(writing, 2)
            faulthandler.dump_traceback_later(_STUCK, exit=True, file=2)  # a signal's handler would wait for the lock, too
            sys.stdout = sys.stderr = open(2, "w", closefd=False)  # noqa: SIM115 (pytest has its own there)
            count = _install(folder, fault, n)
            code = _call(command)
            print(f"\n{count()}", file=sys.stderr)
        finally:
            sys.stderr.flush()
            os._exit(code)
    os.close(writing)
    with os.fdopen(reading, errors="replace") as stream:
        text, _, counted = stream.read().rstrip().rpartition("\n")
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    ended = {0: "done", -signal.SIGKILL: "killed", _UNDRAWN: "undrawn"}.get(
        status, "refused" if status > 0 else "undrawn"
    )
    return Outcome(ended, text, int(counted) if ended == "done" else 0)


def _call(command: Callable[[], None]) -> int:
    try:
        command()
    except SystemExit as end:
        return int(end.code or 0)
    except DataforgeError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except BaseException:
        traceback.print_exc()
        return _UNDRAWN
    return 0


def _install(folder: Path, fault: str, n: int) -> Callable[[], int]:
    """Arm the fault, and return a function that gives the number of changes so far."""
    if fault == "short":
        resource.setrlimit(resource.RLIMIT_FSIZE, (n, n))
        return lambda: 0
    count, root = 0, str(folder)

    def change() -> None:
        nonlocal count
        count += 1
        if count == n and fault == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if count == n and fault:
            number = getattr(errno, fault)
            raise OSError(number, os.strerror(number))

    def hook(event: str, arguments: Sequence[Any]) -> None:
        if event == "open":
            path, _, flags = arguments
            if not isinstance(flags, int) or not flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
                return
        elif event in CHANGES:
            path = arguments[0]
        else:
            return
        if isinstance(path, str | os.PathLike) and str(path).startswith(root):
            change()

    def fsync(handle: int, real: Callable[[Any], None] = os.fsync) -> None:
        change()
        real(handle)

    os.fsync = fsync
    sys.addaudithook(hook)
    return lambda: count
