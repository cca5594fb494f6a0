"""`dataforge doctor`: check an installation."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from dataforge.cli.options import json_option
from dataforge.command import command, echo, echo_json

COLOURS = {"ok": "green", "missing": "yellow", "failed": "red"}


@command()
@click.option(
    "--dir",
    "directories",
    multiple=True,
    type=click.Path(path_type=Path),
    help="Also check the disk of this folder (repeat the option).",
)
@json_option
def doctor(directories: tuple[Path, ...], as_json: bool) -> None:
    """Check versions, devices, decoders and disk space, then load images and train a step.

    Prints "ok", "missing" (something optional) or "failed" for each check, and what to do next. Exits with 1 if a check
    failed.
    """
    from dataforge.bench.doctor import checks

    results = []
    for check in checks([Path(), *directories]):
        results.append(check)
        if not as_json:
            advice = f"; next: {check.next}" if check.next else ""
            click.secho(f"{check.status:<7}", fg=COLOURS[check.status], nl=False)
            echo(f"  {check.name}: {check.text}{advice}")
    statuses = [check.status for check in results]
    counts = {status: statuses.count(status) for status in COLOURS}
    if as_json:
        echo_json({"checks": [check._asdict() for check in results], **counts})
    else:
        echo(", ".join(f"{count} {status}" for status, count in counts.items()))
    if counts["failed"]:
        sys.exit(1)
