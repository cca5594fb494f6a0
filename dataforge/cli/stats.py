"""`dataforge stats`: show statistics of a set as tables, charts and a page."""

from __future__ import annotations

from pathlib import Path

import click

from dataforge.cli.complete import SPLIT
from dataforge.cli.options import Directory, engine_options, json_option, spreading
from dataforge.command import LocalPath, command, echo, echo_json, natural
from dataforge.errors import ConfigError, counted
from dataforge.files import writing


@command()
@click.argument("directory", type=Directory())
@click.option("--split", type=SPLIT, help="Only this split.")
@click.option(
    "--out",
    type=LocalPath(),
    help="Output folder of the page and the charts (default: stats; with --json, they are not written).",
)
@click.option(
    "--size",
    type=(natural(), natural()),
    metavar="HEIGHT WIDTH",
    default=(320, 320),
    show_default=True,
    help="Of the padding's plan.",
)
@click.option("--batch-size", type=natural(), default=32, show_default=True, help="Of the padding's plan.")
@engine_options("Compute the statistics on the nodes of a Ray cluster.")
@json_option
def stats(
    directory: Path,
    split: str | None,
    out: Path | None,
    size: tuple[int, int],
    batch_size: int,
    engine: str | None,
    address: str | None,
    as_json: bool,
) -> None:
    """Compute statistics of a shard folder: classes, sizes, shapes, positions, and the share of padding.

    Prints tables, and writes index.html with tables and charts, and the charts as SVG, to --out.
    """
    from dataforge.analysis.charts import draw
    from dataforge.analysis.html_page import Section, page
    from dataforge.analysis.stats import class_rows, padding, padding_rows, split_rows, spread_rows, statistics, text
    from dataforge.shards.reader import Shards

    shards = Shards(directory, split)
    if out and not out.is_dir() and out.exists():
        raise ConfigError(f"--out {out}: is a file; expected a folder")
    parts = {name: rows for name, rows in shards.splits.items() if name not in shards.index["unions"]}
    with spreading(engine, address) as how:
        facts = statistics(shards.table, shards.classes, parts, *how)
    facts["padding"] = padding(shards.table, size, batch_size)
    if out is None and as_json:
        echo_json(facts)
        return
    out = out or Path("stats")
    charts = draw(facts)

    plan = (
        f"Letterboxed to {size[0]}x{size[1]} and batches of {batch_size} images; buckets have at most as many pixels."
    )

    def pictures(*names: str) -> list[tuple[str, bytes]]:
        return [charts[name] for name in names if name in charts]

    sections = [
        Section("Splits", table=split_rows(facts)),
        Section("Classes", table=class_rows(facts), pictures=pictures("classes", "class_ranks")),
        Section(
            "Sizes, shapes and places",
            table=spread_rows(facts),
            pictures=pictures(*(name for name in charts if name not in ("classes", "class_ranks", "padding"))),
        ),
        Section("Padding", plan, table=padding_rows(facts), pictures=pictures("padding")),
    ]
    name = f"{shards.path.resolve().name}, {shards.split}" if shards.split else shards.path.resolve().name
    html = page(f"{name}: {counted(len(shards), 'image')}, {counted(facts['boxes'], 'box')}", sections)
    with writing(f"--out {out}", ConfigError):
        out.mkdir(parents=True, exist_ok=True)
        for file, (_, chart) in charts.items():
            (out / f"{file}.svg").write_bytes(chart)
        (out / "index.html").write_text(html, "utf-8")
    echo_json(facts) if as_json else echo(f"{text(facts)}\n\n{out / 'index.html'}")
