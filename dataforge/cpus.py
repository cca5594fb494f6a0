"""How many CPU cores there are to use: the number of threads, where nothing else is said."""

from __future__ import annotations

import os


def cores() -> int:
    """How many CPU cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
