"""`dataforge ingest` and `dataforge merge`: whatever it is, to shards."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dataforge.commands.look import describe
from dataforge.commands.options import (
    format_and_root,
    format_options,
    json_option,
    named,
    names,
    polite_kill,
    progress_bar,
    read_source,
)
from dataforge.errors import DataforgeError

if TYPE_CHECKING:
    from dataforge.record import Source


@click.command()
@click.argument("format_name", metavar="FORMAT")
@click.argument("root", default=".", type=click.Path(path_type=Path))
@click.option("--out", required=True, type=click.Path(path_type=Path), help="The folder to make.")
@click.option("--split", "splits", multiple=True, help="Take these only (repeat it, or separate by commas).")
@format_options
@click.option("--add", "added", multiple=True, metavar="FORMAT:ROOT", help="Join this set too; classes unite by name.")
@click.option("--class-map", type=click.Path(path_type=Path), help='TOML of old = "new"; old = "" drops a class.')
@click.option("--max-bad", type=click.IntRange(0), default=0, help="Go on with up to this many unreadable images.")
@click.option("--decode-check", is_flag=True, help="Decode every image too.")
@json_option
def ingest(
    format_name: str,
    root: Path,
    out: Path,
    splits: tuple[str, ...],
    added: tuple[str, ...],
    class_map: Path | None,
    max_bad: int,
    decode_check: bool,
    as_json: bool,
    **given: Any,
) -> None:
    """Turn annotated images into shards.

    FORMAT is a format's name (a wrong one lists them all), `auto` to find it out, or your own reader as
    `path/to/file.py:function`. ROOT is the folder of the annotated images, `.` by default.
    """
    from dataforge.join import join, read_class_map, rename

    def make() -> tuple[Source, str]:
        name = named(format_name, root)
        wanted = names(splits)
        source, called = read_source(name, root, wanted, given), name
        if added:
            places = [format_and_root(text, "--add") for text in added]
            called = " + ".join([name, *(other for other, _ in places)])
            more = [(place.resolve().name, read_source(other, place, wanted, {})) for other, place in places]
            source = join([(root.resolve().name, source), *more])
        return (rename(source, read_class_map(class_map)) if class_map else source), called

    _publish(make, out, as_json, max_bad=max_bad, decode_check=decode_check)


@click.command()
@click.argument("directories", nargs=-1, required=True, metavar="DIR DIR...", type=click.Path(path_type=Path))
@click.option("--out", required=True, type=click.Path(path_type=Path), help="The folder to make.")
@json_option
def merge(directories: tuple[Path, ...], out: Path, as_json: bool) -> None:
    """Put shard folders together: classes unite by name, splits of one name become one, images keep their bytes."""
    from dataforge.export import source_of
    from dataforge.join import join
    from dataforge.shards.reader import Shards

    def make() -> tuple[Source, str]:
        parts = [Shards(directory) for directory in directories]
        source = join([(part.path.resolve().name, source_of(part)) for part in parts])
        return source, " + ".join(part.index["source"] for part in parts)

    _publish(make, out, as_json)


def _publish(make: Callable[[], tuple[Source, str]], out: Path, as_json: bool, **how: Any) -> None:
    """Ingest what `make` gives, a source and its name, and say what came of it."""
    from dataforge.ingest import IngestError
    from dataforge.ingest import ingest as run
    from dataforge.shards.reader import Shards

    failed: dict[str, Any] = {"out": str(out)}
    code = 1
    try:
        with polite_kill():
            source, source_name = make()
            with progress_bar(source.total, hidden=as_json) as progress:
                summary = run(source, out, source_name=source_name, progress=progress, **how)
    except KeyboardInterrupt:
        failed["error"], code = "interrupted; nothing was published", 130
    except DataforgeError as error:
        failed["error"] = str(error)
        if isinstance(error, IngestError):
            failed |= error.summary.facts()
    if "error" not in failed:
        facts = Shards(out).info()
        if as_json:
            click.echo(json.dumps(facts | summary.facts(), ensure_ascii=False))
        else:
            click.echo(f"{describe(facts)}\n\n{summary.text()}")
        return
    if as_json:
        click.echo(json.dumps(failed, ensure_ascii=False))
    click.echo(f"error: {failed['error']}" if code == 1 else failed["error"], err=True)
    sys.exit(code)
