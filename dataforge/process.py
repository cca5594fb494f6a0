"""Start another program of this project, such as a trainer, in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import IO, Any

from dataforge.errors import ConfigError


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


def module_json(module: str, *arguments: object) -> dict[str, Any]:
    """Run `python -m MODULE ARGUMENTS` and return the JSON object in the last line of its output.

    Raises:
        ConfigError: it failed; the message contains the last line of its errors.
    """
    done = run_module(module, *arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["printed nothing"])[-1].removeprefix("error: ")
        raise ConfigError(f"python -m {module}: {last}")
    return dict(json.loads(done.stdout.splitlines()[-1]))


def start_module(module: str, *arguments: object, stderr: IO[str]) -> subprocess.Popen[str]:
    """Start `python -m MODULE ARGUMENTS` with this Python; its input and output are pipes of UTF-8.

    Args:
        stderr: a file for its errors, which cannot fill up as a pipe can that nobody reads.
    """
    words = [sys.executable, "-m", module, *map(str, arguments)]
    return subprocess.Popen(
        words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=stderr, encoding="utf-8", errors="replace"
    )
