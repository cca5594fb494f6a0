"""`dataforge merge`: combine several shard folders into one."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from dataforge.cli.ingest import publish
from dataforge.cli.options import json_option, store_option

if TYPE_CHECKING:
    from dataforge.record import Source


@click.command()
@click.argument("directories", nargs=-1, required=True, metavar="DIR DIR...", type=click.Path(path_type=Path))
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Output folder, new or empty.")
@store_option
@json_option
def merge(directories: tuple[Path, ...], out: Path, store_name: str, as_json: bool) -> None:
    """Combine shard folders: classes are united by name, splits of one name are merged, images keep their bytes."""
    from dataforge.shards.as_source import source_of
    from dataforge.shards.reader import Shards
    from dataforge.sources.join import join

    def make() -> tuple[Source, str]:
        parts = [Shards(directory) for directory in directories]
        source = join([(part.path.resolve().name, source_of(part)) for part in parts])
        return source, " + ".join(part.index["source"] for part in parts)

    publish(make, out, as_json, store_name=store_name)
