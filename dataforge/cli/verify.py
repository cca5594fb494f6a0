"""`dataforge verify`: check shards for damage, or compare them with their source."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dataforge.cli.options import Directory, json_option, progress_bar
from dataforge.cli.source import SourceCommand, format_and_root, open_source, source_options
from dataforge.command import echo, echo_json
from dataforge.errors import ConfigError, counted

if TYPE_CHECKING:
    from dataforge.shards.reader import Shards


@click.command(cls=SourceCommand)
@click.argument("directory", type=Directory())
@click.option(
    "--source", "origin", metavar="FORMAT:ROOT", help="Compare the shards with this source, record by record."
)
@source_options
@json_option
def verify(directory: Path, origin: str | None, as_json: bool, **given: Any) -> None:
    """Read, check and decode every record, or compare all with what they were made from.

    Exits with 1 if a record is bad or differs, and with 2 if DIRECTORY or the source cannot be read.
    """
    from dataforge.shards.index import CHECKSUM, INDEX
    from dataforge.shards.reader import Shards
    from dataforge.shards.verify import verify as check
    from dataforge.sources.view import View

    shards = Shards(directory, trust=False)
    if origin is not None:
        _prove(shards, origin, given, as_json)
        return
    options = [name.replace("_", "-") for name, value in given.items() if value not in (None, (), View())]
    if options:
        what = ", ".join(
            f"--{name}" if name != "view" else "a selection of classes, boxes or images" for name in options
        )
        raise ConfigError(f"{what}: needs --source")
    faults = list(check(shards))
    if as_json:
        echo_json({"images": len(shards), "faults": [vars(fault) for fault in faults]})
    else:
        for fault in faults:
            echo(f"{fault.place}: {fault.reason}", err=True)
        unproven = "" if CHECKSUM in shards.index else f"; {INDEX} has no checksum"
        echo(f"{counted(len(shards), 'image')} checked, {counted(len(faults), 'fault')}{unproven}")
    if faults:
        sys.exit(1)


def _prove(shards: Shards, origin: str, given: dict[str, Any], as_json: bool) -> None:
    from dataforge.ingest.prove import first_difference

    format_name, root = format_and_root(origin, "--source")
    # the shards' splits are not the source's where --split-map renames them
    splits = None if given["split_map"] else (*shards.index["splits"], *shards.index["unions"])
    source, _ = open_source(format_name, root, splits, **given)
    with progress_bar(len(shards), hidden=as_json) as progress:
        first = first_difference(shards, source, progress)
    if as_json:
        echo_json({"images": len(shards), "difference": first and vars(first)})
    elif first is None:
        echo(f"{counted(len(shards), 'image')}, {counted(len(shards.table.boxes), 'box')}: the same as in {origin}")
    else:
        echo(first.text(), err=True)
    if first:
        sys.exit(1)
