"""`dataforge info`: print the contents of a shard folder."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dataforge.cli.options import Directory, json_option, view_options
from dataforge.command import columns, command, echo, echo_json
from dataforge.errors import counted

if TYPE_CHECKING:
    from dataforge.sources.view import View


@command()
@click.argument("directory", type=Directory())
@view_options
@json_option
def info(directory: Path, view: View, as_json: bool) -> None:
    """Print the contents of a shard folder: splits, classes, sizes, box counts."""
    from dataforge.shards.reader import Shards

    facts = Shards(directory, view=view, trust=False).info()
    echo_json(facts) if as_json else echo(describe(facts))


def describe(facts: dict[str, Any]) -> str:
    """Format `Shards.info()` as text."""
    lines = [
        f"{counted(facts['images'], 'image')}, {counted(facts['boxes'], 'box')}, "
        f"{counted(len(facts['classes']), 'class')}, "
        f"{facts['bytes'] / 1e6:.1f} MB of images ({facts['store']}, codec {facts['codec']}, from {facts['source']})"
    ]
    for name in ("height", "width", "boxes_per_image"):
        low, middle, high = facts[name]
        lines.append(f"{name.replace('_', ' ')}: {low} to {high}, median {middle}")
    if facts["baked"]:
        baked = facts["baked"]
        state = "unchanged" if baked["parent_is_there"] else "not there now"
        what = f", {baked['view']}" if baked["view"] else ""
        lines.append(f"a cache of {baked['parent']} ({state}){what}")
    if facts["parents"]:
        lines.append(f"refers to the images in {', '.join(facts['parents'])}, which must stay there")
    if facts["index_crc"] is None:
        lines.append("index.json has no checksum: it was written before there was one")
    splits = facts["splits"]
    counts = ("images", "boxes", "empty", "crowd", "difficult", "truncated")
    rows = [(name, *(split[name] for split in splits.values())) for name in counts]
    rows += [(name, *(split["per_class"][name] for split in splits.values())) for name in facts["classes"]]
    table = columns([("", *splits), *rows]).split("\n")
    lines += [*table[: len(counts) + 1], "boxes per class", *table[len(counts) + 1 :]]
    for name, parts in facts["unions"].items():
        lines.append(f"{name} = {' + '.join(parts)}, stored once")
    return "\n".join(lines)
