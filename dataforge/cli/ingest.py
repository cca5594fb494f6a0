"""`dataforge ingest`: convert annotated images to shards."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dataforge.cli.complete import FORMAT
from dataforge.cli.info import describe
from dataforge.cli.options import (
    SourceCommand,
    json_option,
    max_bad_option,
    names,
    open_source,
    out_option,
    polite_kill,
    progress_bar,
    source_options,
    store_option,
)
from dataforge.cloud.path import RemotePath
from dataforge.command import echo, echo_json, invocation, natural
from dataforge.errors import DataforgeError, StoppedError

if TYPE_CHECKING:
    from dataforge.record import Source
    from dataforge.transform.split import Dealt


@click.command(cls=SourceCommand)
@click.argument("format_name", metavar="FORMAT", type=FORMAT)
@click.argument("root", default=".", type=click.Path(path_type=Path))
@out_option
@click.option(
    "--split", "splits", multiple=True, help="Only these splits (repeat the option, or separate names by commas)."
)
@source_options
@max_bad_option
@click.option(
    "--max-bad-boxes",
    type=natural(0),
    help="Leave out up to this many unusable boxes [default: any number, unless no box is left].",
)
@click.option("--decode-check", is_flag=True, help="Also decode every image.")
@click.option(
    "--depth",
    type=click.Choice(["scale", "high-byte", "percentile"]),
    default="scale",
    show_default=True,
    help="How images of more than 8 bits become 8 when decoded: by each image's own maximum, by their upper 8 bits, or "
    "from each image's 1st to its 99th percentile.",
)
@click.option("--jobs", type=natural(), help="Threads that read and check images [default: one per core].")
@click.option("--resume", is_flag=True, help="Continue an interrupted ingest after its last complete shard.")
@store_option
@json_option
def ingest(
    format_name: str,
    root: Path,
    out: Path,
    splits: tuple[str, ...],
    max_bad: int,
    max_bad_boxes: int | None,
    decode_check: bool,
    depth: str,
    jobs: int | None,
    resume: bool,
    store_name: str,
    as_json: bool,
    **given: Any,
) -> None:
    """Turn annotated images into shards.

    FORMAT is the name of a format (a wrong name lists all), `auto` to detect it, or your own reader as
    `path/to/file.py:function`. ROOT is the folder of the annotated images, `.` by default, or a zip, tar or tgz of it.
    """

    def make() -> tuple[Source, str]:
        source, title = open_source(format_name, root, names(splits), **given)
        return replace(source, depth=depth), title

    how: dict[str, Any] = {"max_bad": max_bad, "max_bad_boxes": max_bad_boxes, "decode_check": decode_check}
    publish(make, out, as_json, jobs=jobs, store_name=store_name, resume=resume, **how)


def publish(
    make: Callable[[], tuple[Source, str]], out: Path, as_json: bool, dealt: Sequence[Dealt] = (), **how: Any
) -> None:
    """Ingest the source that `make` returns with its name, and print the result. Also used by `split` and `merge`.

    Args:
        dealt: printed instead of the contents of the shards; filled by `make`.
        how: further arguments of `dataforge.ingest.run.ingest`.
    """
    from dataforge.ingest.run import IngestError
    from dataforge.ingest.run import ingest as run
    from dataforge.shards.index import JOURNAL
    from dataforge.shards.reader import Shards

    try:
        with polite_kill():
            source, source_name = make()
            with progress_bar(source.total, hidden=as_json) as progress:
                summary = run(source, out, source_name=source_name, progress=progress, made=invocation(), **how)
    except KeyboardInterrupt:
        kept = "; continue with --resume" if not isinstance(out, RemotePath) and (out / JOURNAL).exists() else ""
        error: DataforgeError = StoppedError(f"interrupted; nothing was published{kept}")
        error.facts = {"out": str(out)}
        raise error from None
    except DataforgeError as error:
        error.facts = {"out": str(out), **(error.summary.facts() if isinstance(error, IngestError) else {})}
        raise
    facts = Shards(out).info()
    if as_json:
        for new_splits in dealt:
            facts |= new_splits.facts()
        echo_json(facts | summary.facts())
    else:
        tables = [new_splits.text() for new_splits in dealt] or [describe(facts)]
        echo("\n\n".join([*tables, summary.text()]))
