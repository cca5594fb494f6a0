"""The program and its commands, one module per command or group. Heavy imports are inside the commands."""

from dataforge.cli.main import main

__all__ = ["main"]
