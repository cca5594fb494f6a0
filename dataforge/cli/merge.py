"""`dataforge merge`: combine several shard folders into one."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from dataforge.cli.ingest import publish
from dataforge.cli.options import json_option, out_option, store_or_link_options, view_options
from dataforge.command import command

if TYPE_CHECKING:
    from dataforge.record import Source
    from dataforge.sources.view import View


@command()
@click.argument("directories", nargs=-1, required=True, metavar="DIR DIR...", type=click.Path(path_type=Path))
@out_option
@click.option(
    "--on-same-key",
    type=click.Choice(["prefix", "unite", "refuse"]),
    default="prefix",
    show_default=True,
    help="An image with the name of an earlier one: prefix its name with its folder's; unite the boxes if the files "
    "are identical; or refuse to merge.",
)
@view_options
@store_or_link_options
@json_option
def merge(
    directories: tuple[Path, ...],
    out: Path,
    on_same_key: Literal["prefix", "unite", "refuse"],
    view: View,
    store_name: str,
    as_json: bool,
) -> None:
    """Combine shard folders: classes are united by name, splits of one name are merged, images keep their bytes.

    One folder with a selection makes shards of a part of it.
    """
    from dataforge.shards.reader import Shards
    from dataforge.transform.merge import merge as merged

    def make() -> tuple[Source, str]:
        parts = [Shards(directory, view=view, trust=False) for directory in directories]
        return merged(parts, on_same_key), " + ".join(part.index["source"] for part in parts)

    publish(make, out, as_json, store_name=store_name)
