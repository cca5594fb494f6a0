"""Ctrl-C while a program of this project starts."""

from __future__ import annotations

import signal


def quiet() -> None:
    """Have Ctrl-C end the process at once, without a traceback of modules on their way, until `heard` is called."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # neither ignored nor handled by a caller
        signal.signal(signal.SIGINT, signal.SIG_DFL)


def heard() -> None:
    """Have Ctrl-C raise KeyboardInterrupt again, after `quiet`."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_DFL:
        signal.signal(signal.SIGINT, signal.default_int_handler)
