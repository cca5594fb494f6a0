"""Click's command and group, reporting each user error as one line on stderr with exit code 1."""

from __future__ import annotations

import sys
from typing import Any

import click

from dataforge.errors import DataforgeError


class _OneLineErrors(click.Command):
    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except DataforgeError as error:
            click.echo(f"error: {error}", err=True)
            sys.exit(1)


class Command(_OneLineErrors):
    """A single command: `@click.command(cls=Command)`."""


class Group(_OneLineErrors, click.Group):
    """A command with subcommands: `@click.group(cls=Group)`."""
