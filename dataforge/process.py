"""Start another program of this project, such as a trainer, in a process of its own."""

from __future__ import annotations

import subprocess
import sys


def run_module(
    module: str, *arguments: object, stdout: int | None = None, stderr: int | None = None
) -> subprocess.CompletedProcess[str]:
    """Run `python -m MODULE ARGUMENTS` with this Python, and wait for it.

    `dataforge` does not import `trainers`; this is how its commands start them.

    Args:
        arguments: converted by `str`.
        stdout, stderr: as for `subprocess.run`: shown by default; `subprocess.PIPE` puts the text into the result.
    """
    words = [sys.executable, "-m", module, *map(str, arguments)]
    return subprocess.run(words, stdout=stdout, stderr=stderr, text=True, check=False)


def start_module(module: str, *arguments: object) -> subprocess.Popen[str]:
    """Start `python -m MODULE ARGUMENTS` with this Python; its output and errors are for `communicate`."""
    words = [sys.executable, "-m", module, *map(str, arguments)]
    return subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
