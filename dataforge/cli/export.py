"""`dataforge export`: convert shards to annotated images."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from dataforge.cli.complete import SPLITS, WRITTEN_FORMAT
from dataforge.cli.options import Directory, json_option, names, polite_kill, progress_bar, view_options
from dataforge.command import LocalPath, command, echo, echo_json
from dataforge.errors import StoppedError

if TYPE_CHECKING:
    from dataforge.sources.view import View


@command()
@click.argument("directory", type=Directory())
@click.option(
    "--format", "format_name", required=True, type=WRITTEN_FORMAT, help="One that can be written: coco, voc, yolo, ..."
)
@click.option("--out", required=True, type=LocalPath(), help="The folder to make.")
@click.option(
    "--split", "splits", multiple=True, type=SPLITS, help="Take these only (repeat it, or separate by commas)."
)
@click.option("--allow-cache", is_flag=True, help="Write the JPEGs of a cache, which are not the original images.")
@view_options
@json_option
def export(
    directory: Path,
    format_name: str,
    out: Path,
    splits: tuple[str, ...],
    allow_cache: bool,
    view: View,
    as_json: bool,
) -> None:
    """Convert a shard folder to annotated images, and report what the format cannot store."""
    from dataforge.shards.as_source import source_of
    from dataforge.shards.reader import Shards
    from dataforge.transform.export import export as run

    shards, wanted = Shards(directory, view=view, trust=False), names(splits)
    try:
        total = source_of(shards, wanted, allow_cache=allow_cache).total
        with polite_kill(), progress_bar(total, hidden=as_json) as progress:
            done = run(shards, format_name, out, split=wanted, allow_cache=allow_cache, progress=progress)
    except KeyboardInterrupt:
        raise StoppedError("interrupted; nothing was written") from None
    echo_json(vars(done) | {"out": str(out)}) if as_json else echo(done.text())
