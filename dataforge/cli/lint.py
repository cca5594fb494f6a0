"""`dataforge lint`: report mistakes and oddities in a set."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dataforge.archives.hub import is_address
from dataforge.cli.complete import FORMAT
from dataforge.cli.options import engine_options, json_option, names, progress_bar, spreading
from dataforge.cli.source import SourceCommand, named, open_source, source_options
from dataforge.cloud.path import RemotePath, located
from dataforge.command import OutFile, echo, echo_json
from dataforge.errors import ConfigError, counted, line_safe
from dataforge.files import writing

if TYPE_CHECKING:
    from dataforge.analysis.lint.run import Report
    from dataforge.record import Source

SHOWN = 3  # examples per kind


@click.command(cls=SourceCommand)
@click.argument("root", metavar="ROOT|DIR", type=click.Path(path_type=Path))
@click.option(
    "--format",
    "format_name",
    default="auto",
    show_default=True,
    type=FORMAT,
    help="Format of ROOT, or your own reader.",
)
@click.option(
    "--split", "splits", multiple=True, help="Only these splits (repeat the option, or separate names by commas)."
)
@source_options
@click.option("--report", type=OutFile(), help="Write an HTML page with images to this file.")
@click.option(
    "--fail-on",
    type=click.Choice(["error", "warning", "info"]),
    default="error",
    show_default=True,
    help="Exit with code 1 if there are findings of this or a higher severity.",
)
@engine_options("Check the images on the nodes of a Ray cluster, which all see ROOT.")
@json_option
def lint(
    root: Path,
    format_name: str,
    splits: tuple[str, ...],
    report: Path | None,
    fail_on: str,
    engine: str | None,
    address: str | None,
    as_json: bool,
    **given: Any,
) -> None:
    """Report mistakes in annotated images, before ingest (ROOT) or after it (DIR, a shard folder).

    Decodes the images to find damage and near-duplicates. Exits with 1 if there are errors, and with 2
    if ROOT cannot be read.
    """
    from dataforge.analysis.lint.codes import SEVERITIES
    from dataforge.analysis.lint.run import lint as check
    from dataforge.analysis.lint.run import lint_shards
    from dataforge.shards.as_source import source_of
    from dataforge.shards.reader import Shards
    from dataforge.shards.versions import is_shards
    from dataforge.sources.view import View

    root = root if is_address(root) else located(root)

    def source() -> Source:
        return source_of(shards) if shards else open_source(format_name, root, names(splits), **given)[0]

    shards = None
    if isinstance(root, RemotePath) or is_shards(root):
        if format_name != "auto" or splits or any(value not in (None, (), View()) for value in given.values()):
            raise ConfigError(f"{root}: is a shard folder; options for reading a source do not apply to it")
        shards = Shards(root, trust=False)
        with spreading(engine, address) as how, progress_bar(len(shards), hidden=as_json) as progress:
            result = lint_shards(shards, progress, spread=how[0], jobs=how[1])
    else:
        format_name = named(format_name, root)
        opened = source()
        with spreading(engine, address) as how, progress_bar(opened.total, hidden=as_json) as progress:
            result = check(opened, str(root), progress=progress, spread=how[0], jobs=how[1])
    if report is not None:
        title = f"{root.resolve().name}: {counted(result.images, 'image')}, {counted(result.boxes, 'box')}"
        _write_page(report, title, result, source())
    echo_json(result.facts()) if as_json else echo(text(result))
    if any(result.count(severity) for severity in SEVERITIES[: SEVERITIES.index(fail_on) + 1]):  # type: ignore[arg-type]
        sys.exit(1)


def text(report: Report) -> str:
    """Format a line per kind of finding, the worst first, each followed by its first examples."""
    from dataforge.analysis.lint.codes import SEVERITIES
    from dataforge.ingest.report import line

    lines = []
    for code, kind in report.sorted():
        lines.append(line_safe(f"{kind.severity:8}{code:22}{kind.count:>7}  {kind.meaning}"))
        lines += [f"    {line(finding)}" for finding in kind.examples[:SHOWN]]
        if kind.count > SHOWN:
            lines.append(f"    and {kind.count - SHOWN} more")
    counts = ", ".join(f"{(n := report.count(one))} {one}{'s' * (n != 1)}" for one in SEVERITIES)
    return "\n".join([*lines, f"{counted(report.images, 'image')}, {counted(report.boxes, 'box')}: {counts}"])


def _write_page(path: Path, title: str, report: Report, source: Source) -> None:
    from dataforge.analysis.html_page import page
    from dataforge.analysis.lint.pictures import sections

    html = page(title, sections(report, source))
    with writing(f"--report {path}", ConfigError):
        path.write_text(html, "utf-8")
