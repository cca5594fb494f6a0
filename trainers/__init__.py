"""Thin trainers over dataforge's shards. Each detector is one file, run as `python -m trainers.<name>`.

Importing this package sets the environment variable OMP_WAIT_POLICY to PASSIVE for the process and its children, unless
it is set. Set it to ACTIVE, or import torch first, to keep OpenMP's default.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any

from dataforge import interrupt

if sys.argv[:1] == ["-m"] and any(word.partition(".")[0] == __name__ for word in sys.orig_argv):
    interrupt.quiet()  # `python -m trainers.NAME` imports this package first

if TYPE_CHECKING:
    from trainers.predict import load_detector as load_detector

__all__ = ["load_detector"]

# Decoding threads share the cores with torch's threads. By default, torch threads that wait for a preempted thread
# spin on the core that it needs. OpenMP reads the variable when torch is first imported, so it is set here.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'trainers' has no attribute {name!r}")
    from trainers import predict

    return getattr(predict, name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
