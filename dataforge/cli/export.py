"""`dataforge export`: shards to annotated images."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from dataforge.cli.options import json_option, names, polite_kill, progress_bar, view_options

if TYPE_CHECKING:
    from dataforge.sources.view import View


@click.command()
@click.argument("directory", type=click.Path(path_type=Path))
@click.option("--format", "format_name", required=True, help="One that can be written: coco, voc, yolo, ...")
@click.option("--out", required=True, type=click.Path(path_type=Path), help="The folder to make.")
@click.option("--split", "splits", multiple=True, help="Take these only (repeat it, or separate by commas).")
@view_options
@json_option
def export(directory: Path, format_name: str, out: Path, splits: tuple[str, ...], view: View, as_json: bool) -> None:
    """Write a shard folder as annotated images again, and say what the format could not hold."""
    from dataforge.shards.as_source import source_of
    from dataforge.shards.reader import Shards
    from dataforge.transform.export import export as run

    shards, wanted = Shards(directory, view=view), names(splits)
    try:
        with polite_kill(), progress_bar(source_of(shards, wanted).total, hidden=as_json) as progress:
            done = run(shards, format_name, out, split=wanted, progress=progress)
    except KeyboardInterrupt:
        click.echo("interrupted; nothing was written", err=True)
        sys.exit(130)
    click.echo(json.dumps(vars(done) | {"out": str(out)}, ensure_ascii=False) if as_json else done.text())
