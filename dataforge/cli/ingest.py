"""`dataforge ingest` and `dataforge merge`: whatever it is, to shards."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dataforge.cli.info import describe
from dataforge.cli.options import (
    SourceCommand,
    json_option,
    names,
    open_source,
    polite_kill,
    progress_bar,
    source_options,
    store_option,
)
from dataforge.errors import DataforgeError

if TYPE_CHECKING:
    from dataforge.record import Source
    from dataforge.transform.split import Dealt


@click.command(cls=SourceCommand)
@click.argument("format_name", metavar="FORMAT")
@click.argument("root", default=".", type=click.Path(path_type=Path))
@click.option("--out", required=True, type=click.Path(path_type=Path), help="The folder to make.")
@click.option("--split", "splits", multiple=True, help="Take these only (repeat it, or separate by commas).")
@source_options
@click.option("--max-bad", type=click.IntRange(0), default=0, help="Go on with up to this many unreadable images.")
@click.option("--decode-check", is_flag=True, help="Decode every image too.")
@click.option("--jobs", type=click.IntRange(1), help="Threads that read and check images (default: one a core).")
@click.option("--resume", is_flag=True, help="Go on behind the shards that an interrupted ingest closed.")
@store_option
@json_option
def ingest(
    format_name: str,
    root: Path,
    out: Path,
    splits: tuple[str, ...],
    max_bad: int,
    decode_check: bool,
    jobs: int | None,
    resume: bool,
    store_name: str,
    as_json: bool,
    **given: Any,
) -> None:
    """Turn annotated images into shards.

    FORMAT is the name of a format (a wrong name lists all), `auto` to detect it, or your own reader as
    `path/to/file.py:function`. ROOT is the folder of the annotated images, `.` by default.
    """

    def make() -> tuple[Source, str]:
        return open_source(format_name, root, names(splits), **given)

    how: dict[str, Any] = {"max_bad": max_bad, "decode_check": decode_check, "store_name": store_name, "resume": resume}
    publish(make, out, as_json, jobs=jobs, **how)


@click.command()
@click.argument("directories", nargs=-1, required=True, metavar="DIR DIR...", type=click.Path(path_type=Path))
@click.option("--out", required=True, type=click.Path(path_type=Path), help="The folder to make.")
@store_option
@json_option
def merge(directories: tuple[Path, ...], out: Path, store_name: str, as_json: bool) -> None:
    """Put shard folders together: classes unite by name, splits of one name become one, images keep their bytes."""
    from dataforge.shards.as_source import source_of
    from dataforge.shards.reader import Shards
    from dataforge.sources.join import join

    def make() -> tuple[Source, str]:
        parts = [Shards(directory) for directory in directories]
        source = join([(part.path.resolve().name, source_of(part)) for part in parts])
        return source, " + ".join(part.index["source"] for part in parts)

    publish(make, out, as_json, store_name=store_name)


def publish(
    make: Callable[[], tuple[Source, str]], out: Path, as_json: bool, dealt: Sequence[Dealt] = (), **how: Any
) -> None:
    """Ingest what `make` gives, a source and its name, and say what came of it; and of the splits that it dealt."""
    from dataforge.ingest.run import IngestError
    from dataforge.ingest.run import ingest as run
    from dataforge.shards.index import JOURNAL
    from dataforge.shards.reader import Shards

    failed: dict[str, Any] = {"out": str(out)}
    code = 1
    try:
        with polite_kill():
            source, source_name = make()
            with progress_bar(source.total, hidden=as_json) as progress:
                summary = run(source, out, source_name=source_name, progress=progress, **how)
    except KeyboardInterrupt:
        kept = "; --resume goes on behind the shards that were closed" if (out / JOURNAL).exists() else ""
        failed["error"], code = f"interrupted; nothing was published{kept}", 130
    except DataforgeError as error:
        failed["error"] = str(error)
        if isinstance(error, IngestError):
            failed |= error.summary.facts()
    if "error" not in failed:
        facts = Shards(out).info()
        if as_json:
            for one in dealt:
                facts |= one.facts()
            click.echo(json.dumps(facts | summary.facts(), ensure_ascii=False))
        else:
            tables = [one.text() for one in dealt] or [describe(facts)]
            click.echo("\n\n".join([*tables, summary.text()]))
        return
    if as_json:
        click.echo(json.dumps(failed, ensure_ascii=False))
    click.echo(f"error: {failed['error']}" if code == 1 else failed["error"], err=True)
    sys.exit(code)
