"""`dataforge bake`: write a cache that is faster to decode."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dataforge.cli.complete import SPLIT
from dataforge.cli.info import describe
from dataforge.cli.ingest import ingested, report
from dataforge.cli.options import (
    Directory,
    engine_options,
    json_option,
    max_bad_option,
    out_option,
    polite_kill,
    progress_bar,
    spreading,
    store_option,
    view_options,
)
from dataforge.command import command, echo, echo_json, natural, real
from dataforge.errors import ConfigError, StoppedError

if TYPE_CHECKING:
    from dataforge.record import Source
    from dataforge.sources.view import View
    from dataforge.threads import Spread
    from dataforge.transform.form import Form


@command()
@click.argument("directory", type=Directory())
@out_option
@click.option(
    "--side",
    "shorter",
    type=natural(),
    metavar="N",
    help="Shrink the shorter side to N pixels; smaller images are not enlarged.",
)
@click.option("--size", type=natural(), nargs=2, metavar="H W", help="Resize every image to this shape.")
@click.option("--buckets", metavar="HxW,HxW,...", help="Resize each image to the shape of the nearest aspect ratio.")
@click.option(
    "--fit",
    type=click.Choice(["letterbox", "stretch"]),
    default="letterbox",
    show_default=True,
    help="letterbox keeps the aspect ratio and pads; stretch fills the shape.",
)
@click.option("--gray", is_flag=True, help="Store one grey channel.")
@click.option("--quality", type=natural(1, 100), help="JPEG quality, 1 to 100 [default: 92, of tiles 95].")
@click.option("--raw", is_flag=True, help="Store pixels instead of JPEGs: larger, but need no decoding.")
@click.option("--yuv420", is_flag=True, help="Store pixels with chroma at half size: half the bytes of --raw.")
@click.option(
    "--lossless",
    is_flag=True,
    help="Write JPEGs anew with the same pixels, baseline and with Huffman tables of their own; keep other formats.",
)
@click.option(
    "--target-imgs-per-s",
    "target",
    type=real(above=0),
    metavar="N",
    help="Choose the side and codec that reach N images per second on this machine.",
)
@click.option("--tile", type=natural(), metavar="N", help="Cut images into tiles of N pixels, as a set of its own.")
@click.option(
    "--overlap",
    type=real(least=0, most=0.9),
    help="Share of a tile's side that neighbours have in common, at least [default: 0.2].",
)
@click.option(
    "--empty-tiles",
    "empty_tiles",
    type=real(least=0, most=1),
    metavar="SHARE",
    help="Keep this share of the tiles without boxes [default: 1, all].",
)
@max_bad_option
@click.option("--split", type=SPLIT, help="Only this split.")
@click.option("--jobs", type=natural(), help="Threads [default: one per core].")
@engine_options("Decode and encode on the nodes of a Ray cluster, which all see DIRECTORY; --jobs are tasks at a time.")
@store_option
@functools.partial(view_options, side="--box-side")
@json_option
def bake(
    directory: Path,
    out: Path,
    split: str | None,
    view: View,
    target: float | None,
    tile: int | None,
    overlap: float | None,
    empty_tiles: float | None,
    max_bad: int,
    jobs: int | None,
    engine: str | None,
    address: str | None,
    store_name: str,
    as_json: bool,
    **given: Any,
) -> None:
    """Write a cache of DIRECTORY: the same records, smaller, in grey, or as raw pixels. It is read like shards.

    With --tile, write overlapping tiles of the images instead, at full size, as a set of its own.
    """
    if tile is not None:
        how = {"overlap": overlap, "empty": empty_tiles, "quality": given["quality"]}
        with spreading(engine, address) as (spread, most):
            make = _tiles(directory, split, view, tile, how, jobs or most, spread, out)
            cut = {"max_bad": max_bad, "jobs": None if engine else jobs, "store_name": store_name}
            summary = ingested(make, out, as_json, **cut)
        report(summary, as_json)  # after the block, in which a cluster's stdout is stderr
        return
    if overlap is not None or empty_tiles is not None or max_bad:
        raise ConfigError("--overlap, --empty-tiles and --max-bad are for tiles; expected --tile as well")
    from dataforge.shards.reader import Shards
    from dataforge.threads import cores
    from dataforge.transform.bake import bake as run

    measured: dict[str, Any] = {}
    try:
        with polite_kill():
            shards, form = Shards(directory, split, view), _form(target=target, **given)
            if target is not None:
                from dataforge.shards.out_folder import check_free
                from dataforge.transform.tune import tune

                check_free(out)  # before the forms are measured
                choice = tune(shards, target, form, out, threads=jobs or cores())
                measured = {"target": choice.facts()}
                echo(choice.text(), err=as_json)
                if choice.chosen.form is None:
                    why = "no cache is needed" if choice.reached else "no cache is faster"
                    echo(json.dumps(measured) if as_json else f"{why}; nothing was written")
                    return
                form = choice.chosen.form
            with spreading(engine, address) as (spread, most), progress_bar(len(shards), hidden=as_json) as progress:
                jobs = jobs or most
                run(shards, out, form, store_name=store_name, jobs=jobs, progress=progress, spread=spread)
    except KeyboardInterrupt:
        raise StoppedError("interrupted; nothing was published") from None
    cache = Shards(out)
    facts = cache.info()
    if form.lossless:
        measured["unchanged"] = int((cache.table.crc == shards.table.crc).sum())
    echo_json(facts | measured) if as_json else echo(describe(facts))
    if form.lossless and not as_json:
        before = int(shards.table.size.sum())
        echo(
            f"{before / 1e6:.1f} MB before; {measured['unchanged']} of {len(cache)} images are stored as they were: "
            "no JPEGs, or JPEGs that gain nothing"
        )


def _tiles(
    directory: Path,
    split: str | None,
    view: View,
    side: int,
    how: dict[str, float | None],
    jobs: int,
    spread: Spread,
    out: Path,
) -> Callable[[], tuple[Source, str]]:
    """Return what opens the tiles as a source, for `publish`."""
    from dataforge.shards.out_folder import check_outside
    from dataforge.shards.reader import Shards
    from dataforge.transform.tile import Cutting, tiles

    context = click.get_current_context()
    for name in ("shorter", "size", "buckets", "fit", "gray", "raw", "yuv420", "lossless", "target"):
        if context.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE:
            [option] = [param.opts[0] for param in context.command.params if param.name == name]
            raise ConfigError(f"--tile keeps the pixels of the images; omit {option}")

    def make() -> tuple[Source, str]:
        shards = Shards(directory, split, view, trust=False)
        check_outside(out, shards.path)
        given: dict[str, Any] = {name: value for name, value in how.items() if value is not None}
        return tiles(shards, Cutting(side, **given), jobs, spread), shards.index["source"]

    return make


def _form(
    target: float | None,
    shorter: int | None,
    size: tuple[int, int] | None,
    buckets: str | None,
    fit: str,
    gray: bool,
    quality: int | None,
    raw: bool,
    yuv420: bool,
    lossless: bool,
) -> Form:
    from dataforge.transform.form import QUALITY, Form

    codec = "--lossless" if lossless else "--yuv420" if yuv420 else "--raw" if raw else ""
    raw = raw or yuv420
    if size and buckets:
        raise ConfigError("--size and --buckets exclude each other")
    if target is not None and (shorter or codec):
        raise ConfigError(f"--target-imgs-per-s chooses the side and the codec; omit {codec or '--side'}")
    if codec and quality is not None:
        raise ConfigError(f"--quality applies to JPEGs that are encoded; omit it with {codec}")
    shapes: tuple[tuple[int, int], ...] = (size,) if size else ()
    if buckets:
        matches = [re.fullmatch(r"(\d+)x(\d+)", part.strip()) for part in buckets.split(",")]
        shapes = tuple((int(match[1]), int(match[2])) for match in matches if match)
        if len(shapes) != len(matches):
            raise ConfigError(f"--buckets {buckets}: expected heights and widths such as 320x320,256x384")
    return Form(shorter, shapes, fit, gray, raw, QUALITY if quality is None else quality, lossless, yuv420)
