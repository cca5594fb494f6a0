"""`dataforge split`: make new splits of a shard folder."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from dataforge.cli.complete import SPLIT
from dataforge.cli.ingest import publish
from dataforge.cli.options import json_option, out_option, progress_bar, store_or_link_options, view_options
from dataforge.command import command, natural, real
from dataforge.errors import ConfigError

if TYPE_CHECKING:
    from dataforge.record import Source
    from dataforge.sources.view import View
    from dataforge.transform.split import Dealt


@command()
@click.argument("directory", type=click.Path(path_type=Path))
@out_option
@click.option(
    "--val",
    type=real(least=0, below=1),
    default=0.1,
    show_default=True,
    help="Fraction of the images for the validation split; 0 for none.",
)
@click.option(
    "--test",
    type=real(least=0, below=1),
    default=0.0,
    show_default=True,
    help="Fraction for the test split; the rest becomes train.",
)
@click.option("--seed", type=natural(0), default=0, show_default=True, help="Seed of the assignment.")
@click.option(
    "--from", "old", metavar="SPLIT", type=SPLIT, help="Divide only this split [default: all splits together]."
)
@click.option(
    "--group-by",
    metavar="folder|REGEX",
    help="Keep images together that are in the same folder, or whose names match the REGEX with the same first group.",
)
@click.option(
    "--similar",
    type=natural(-1, 64),
    default=4,
    show_default=True,
    help="Keep images together whose 64-bit perceptual hashes differ in at most this many bits; -1 disables this.",
)
@view_options
@store_or_link_options
@json_option
def split(
    directory: Path,
    out: Path,
    val: float,
    test: float,
    seed: int,
    old: str | None,
    group_by: str | None,
    similar: int,
    view: View,
    store_name: str,
    as_json: bool,
) -> None:
    """Make new train, val and test splits: classes evenly distributed, related images kept together."""
    import numpy as np

    from dataforge.shards.as_source import check_originals
    from dataforge.shards.reader import Shards
    from dataforge.transform.split import groups_of, source_of_dealt, together
    from dataforge.transform.split import split as run

    dealt: list[Dealt] = []

    def make() -> tuple[Source, str]:
        if not (0 <= val < 1 and 0 <= test < 1 and val + test < 1):
            raise ConfigError(f"--val {val} --test {test}: expected fractions of at least 0 whose sum is below 1")
        wanted = {"train": 1 - val - test, "val": val, "test": test}
        shards = Shards(directory, old, view, trust=False)
        check_originals(shards)  # before images are read
        group = np.arange(len(shards))
        if group_by is not None:
            group = together(group, groups_of(shards.table.key.tolist(), group_by))
        if similar >= 0:
            from dataforge.transform.similar import groups, hashes, same_bytes

            with progress_bar(len(shards), hidden=as_json) as progress:
                seen = hashes(shards, progress=progress)
            group = together(group, groups(seen, similar, exact=same_bytes(shards.table)))
        dealt.append(run(shards, {name: share for name, share in wanted.items() if share}, group, seed))
        return source_of_dealt(shards, dealt[0]), shards.index["source"]

    publish(make, out, as_json, dealt, store_name=store_name)
