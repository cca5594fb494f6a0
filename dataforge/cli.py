"""The `dataforge` command. Heavy imports happen inside the commands, so that `--help` is instant."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from dataforge import __version__
from dataforge.errors import DataforgeError


class _Group(click.Group):
    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except DataforgeError as error:
            click.echo(f"error: {error}", err=True)
            sys.exit(1)


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="dataforge")
def main() -> None:
    """Annotated images to shards, shards to batches."""


def _json(command: Callable[..., Any]) -> Callable[..., Any]:
    return click.option("--json", "as_json", is_flag=True, help="Print one JSON object for machines.")(command)


@main.command()
@click.argument("directory", type=click.Path(path_type=Path))
@_json
def info(directory: Path, as_json: bool) -> None:
    """What a shard folder holds: splits, classes, sizes, box counts."""
    from dataforge.shards.reader import Shards

    facts = Shards(directory).info()
    click.echo(json.dumps(facts, ensure_ascii=False) if as_json else describe(facts))


def describe(facts: dict[str, Any]) -> str:
    """`Shards.info()` as text."""
    lines = [
        f"{facts['images']} images, {facts['boxes']} boxes, {len(facts['classes'])} classes, "
        f"{facts['bytes'] / 1e6:.1f} MB of images ({facts['store']}, codec {facts['codec']}, from {facts['source']})"
    ]
    for name in ("height", "width", "boxes_per_image"):
        low, middle, high = facts[name]
        lines.append(f"{name.replace('_', ' ')}: {low} to {high}, median {middle}")
    splits = facts["splits"]
    wide = max([5, *map(len, facts["classes"])])
    lines.append("  ".join([" " * wide, *(f"{name:>10}" for name in splits)]))
    for row in ("images", "boxes", "empty", "crowd", "difficult", "truncated"):
        lines.append("  ".join([f"{row:<{wide}}", *(f"{split[row]:>10}" for split in splits.values())]))
    lines.append("boxes per class")
    for name in facts["classes"]:
        lines.append("  ".join([f"{name:<{wide}}", *(f"{split['per_class'][name]:>10}" for split in splits.values())]))
    for name, parts in facts["unions"].items():
        lines.append(f"{name} = {' + '.join(parts)}, stored once")
    return "\n".join(lines)


@main.command()
@click.argument("directory", type=click.Path(path_type=Path))
@_json
def verify(directory: Path, as_json: bool) -> None:
    """Read, check and decode every record; exit with 1 if one is bad."""
    from dataforge.shards.reader import Shards
    from dataforge.shards.reader import verify as check

    shards = Shards(directory)
    faults = list(check(shards))
    if as_json:
        click.echo(json.dumps({"images": len(shards), "faults": [vars(fault) for fault in faults]}, ensure_ascii=False))
    else:
        for fault in faults:
            click.echo(f"{fault.place}: {fault.reason}", err=True)
        click.echo(f"{len(shards)} images checked, {len(faults)} faults")
    if faults:
        sys.exit(1)
