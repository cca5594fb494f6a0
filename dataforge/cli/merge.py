"""`dataforge merge`: combine several shard folders into one."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from dataforge.cli.ingest import publish, publishing, report
from dataforge.cli.options import Directory, json_option, out_option, store_or_link_options, view_options
from dataforge.command import command, invocation
from dataforge.errors import ConfigError

if TYPE_CHECKING:
    from dataforge.record import Source
    from dataforge.sources.view import View


@command()
@click.argument("directories", nargs=-1, required=True, metavar="DIR DIR...", type=Directory())
@out_option
@click.option(
    "--on-same-key",
    type=click.Choice(["prefix", "unite", "refuse"]),
    default="prefix",
    show_default=True,
    help="An image with the name of an earlier one: prefix its name with its folder's; unite the boxes if the files "
    "are identical; or refuse to merge.",
)
@click.option(
    "--parts",
    is_flag=True,
    help="The folders are the parts of one ingest (`ingest --part I/N`): publish them as one set.",
)
@view_options
@store_or_link_options
@json_option
def merge(
    directories: tuple[Path, ...],
    out: Path,
    on_same_key: Literal["prefix", "unite", "refuse"],
    parts: bool,
    view: View,
    store_name: str,
    as_json: bool,
) -> None:
    """Combine shard folders: classes are united by name, splits of one name are merged, images keep their bytes.

    One folder with a selection makes shards of a part of it. With --parts, the folders are the parts of one ingest, and
    the result is byte for byte what `dataforge ingest` without --part writes.
    """
    if parts:
        _publish_parts(directories, out, as_json)
        return
    from dataforge.shards.reader import Shards
    from dataforge.transform.merge import merge as merged

    def make() -> tuple[Source, str]:
        sets = [Shards(directory, view=view, trust=False) for directory in directories]
        return merged(sets, on_same_key), " + ".join(one.index["source"] for one in sets)

    publish(make, out, as_json, store_name=store_name)


def _publish_parts(directories: tuple[Path, ...], out: Path, as_json: bool) -> None:
    from dataforge.ingest.parts import merge_parts

    given = invocation()["given"].keys() - {"directories", "out", "parts", "as_json"}
    for param in click.get_current_context().command.params:
        if param.name in given:
            raise ConfigError(f"{param.opts[0]}: --parts publishes the parts as they are")
    with publishing(out):
        summary = merge_parts(directories, out)
    report(summary, as_json)
