"""`dataforge ingest`: convert annotated images to shards."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dataforge.cli.complete import FORMAT
from dataforge.cli.info import describe
from dataforge.cli.options import (
    engine_options,
    json_option,
    max_bad_option,
    names,
    out_option,
    polite_kill,
    progress_bar,
    store_option,
)
from dataforge.cli.source import SourceCommand, open_source, source_options
from dataforge.cloud.path import RemotePath
from dataforge.command import Option, echo, echo_json, invocation, natural
from dataforge.errors import ConfigError, DataforgeError, StoppedError, counted

if TYPE_CHECKING:
    from dataforge.ingest.report import Summary
    from dataforge.record import Source
    from dataforge.transform.split import Dealt


class Part(click.ParamType):
    """I/N: part I of N, from 1."""

    name = "part"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, int]:
        match = re.fullmatch(r"([0-9]{1,9})/([0-9]{1,9})", value)
        part = (int(match[1]), int(match[2])) if match else (0, 0)
        if not 1 <= part[0] <= part[1]:
            self.fail(f"{value!r} is not I/N, such as 3/8, with I from 1 to N", param, ctx)
        return part


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
@click.option(
    "--shard-mib",
    type=natural(),
    default=1024,
    show_default=True,
    help="A shard is closed once it has this many MiB of images.",
)
@click.option(
    "--part",
    cls=Option,
    group="Several machines",
    type=Part(),
    metavar="I/N",
    help="Write only the shards of part I of N, such as 3/8; `dataforge merge --parts` publishes all N.",
)
@engine_options("Write parts on the nodes of a Ray cluster, which all see ROOT and OUT, and publish them.")
@click.option(
    "--parts",
    cls=Option,
    group="Several machines",
    type=natural(),
    help="Number of parts with --engine ray [default: as many as run at a time with --jobs CPUs each].",
)
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
    shard_mib: int,
    part: tuple[int, int] | None,
    engine: str | None,
    address: str | None,
    parts: int | None,
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
    how |= {"jobs": jobs, "store_name": store_name, "shard_bytes": shard_mib << 20, "resume": resume}
    if engine is None:
        if address or parts:
            raise ConfigError(f"{'--address' if address else '--parts'}: is for --engine ray")
        publish(make, out, as_json, part=part, **how)
        return
    if part:
        raise ConfigError("--part: --engine ray writes all parts")
    from dataforge.ingest.on_ray import ingest_on_ray, parts_of

    with publishing(out, parts_of(out)), progress_bar(0, hidden=as_json) as progress:
        made = invocation()
        summary = ingest_on_ray(make, out, address=address, parts=parts, progress=progress, made=made, **how)
    report(summary, as_json)


def publish(
    make: Callable[[], tuple[Source, str]], out: Path, as_json: bool, dealt: Sequence[Dealt] = (), **how: Any
) -> None:
    """Ingest a source, as `ingested` does, and print the result. Also used by `split` and `merge`.

    Args:
        dealt: printed instead of the contents of the shards; filled by `make`.
    """
    summary = ingested(make, out, as_json, **how)
    if part := how.get("part"):
        facts = {"part": f"{part[0]}/{part[1]}"} | summary.facts()
        text = f"part {facts['part']}, {counted(summary.images, 'image')}\n{summary.text()}"
        echo_json(facts) if as_json else echo(text)
    else:
        report(summary, as_json, dealt)


def ingested(make: Callable[[], tuple[Source, str]], out: Path, quiet: bool, **how: Any) -> Summary:
    """Ingest the source that `make` returns with its name.

    Args:
        quiet: show no progress.
        how: further arguments of `dataforge.ingest.run.ingest`.
    """
    from dataforge.ingest.run import ingest as run
    from dataforge.shards.index import JOURNAL
    from dataforge.shards.out_folder import check_free

    with publishing(out, out / JOURNAL):
        check_free(out, resume=how.get("resume", False))  # before annotations are read, or images compared
        source, source_name = make()
        with progress_bar(0 if how.get("part") else source.total, hidden=quiet) as progress:
            return run(source, out, source_name=source_name, progress=progress, made=invocation(), **how)


@contextmanager
def publishing(out: Path, left: Path | None = None) -> Iterator[None]:
    """Have errors in the block, and an interruption, state for `--json` what they are about.

    Args:
        left: what an interruption leaves if the command can be continued.
    """
    from dataforge.ingest.limits import IngestError

    try:
        with polite_kill():
            yield
    except KeyboardInterrupt:
        resumable = left and not isinstance(out, RemotePath) and left.exists()
        kept = "; continue with --resume" if resumable else ""
        error: DataforgeError = StoppedError(f"interrupted; nothing was published{kept}")
        error.facts = {"out": str(out)}
        raise error from None
    except DataforgeError as error:
        error.facts = {"out": str(out), **(error.summary.facts() if isinstance(error, IngestError) else {})}
        raise


def report(summary: Summary, as_json: bool, dealt: Sequence[Dealt] = ()) -> None:
    """Print what an ingest has published."""
    from dataforge.shards.reader import Shards

    facts = Shards(summary.out).info()
    if as_json:
        for new_splits in dealt:
            facts |= new_splits.facts()
        echo_json(facts | summary.facts())
    else:
        tables = [new_splits.text() for new_splits in dealt] or [describe(facts)]
        echo("\n\n".join([*tables, summary.text()]))
