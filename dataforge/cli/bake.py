"""`dataforge bake`: write a cache that is faster to decode."""

from __future__ import annotations

import functools
import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dataforge.cli.complete import SPLIT
from dataforge.cli.info import describe
from dataforge.cli.options import (
    Directory,
    json_option,
    out_option,
    polite_kill,
    progress_bar,
    store_option,
    view_options,
)
from dataforge.command import command, echo, echo_json, natural, real
from dataforge.errors import ConfigError, StoppedError

if TYPE_CHECKING:
    from dataforge.sources.view import View
    from dataforge.transform.bake import Form


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
@click.option("--quality", type=natural(1, 100), help="JPEG quality, 1 to 100 [default: 92].")
@click.option("--raw", is_flag=True, help="Store pixels instead of JPEGs: larger, but need no decoding.")
@click.option(
    "--target-imgs-per-s",
    "target",
    type=real(above=0),
    metavar="N",
    help="Choose the side and codec that reach N images per second on this machine.",
)
@click.option("--split", type=SPLIT, help="Only this split.")
@click.option("--jobs", type=natural(), help="Threads [default: one per core].")
@store_option
@functools.partial(view_options, side="--box-side")
@json_option
def bake(
    directory: Path,
    out: Path,
    split: str | None,
    view: View,
    target: float | None,
    jobs: int | None,
    store_name: str,
    as_json: bool,
    **given: Any,
) -> None:
    """Write a cache of DIRECTORY: the same records, smaller, in grey, or as raw pixels. It is read like shards."""
    from dataforge.shards.reader import Shards
    from dataforge.threads import cores
    from dataforge.transform.bake import bake as run

    jobs, measured = jobs or cores(), {}
    try:
        with polite_kill():
            shards, form = Shards(directory, split, view), _form(target=target, **given)
            if target is not None:
                from dataforge.transform.tune import tune

                choice = tune(shards, target, form, out, threads=jobs)
                measured = {"target": choice.facts()}
                click.echo(choice.text(), err=as_json)
                if choice.chosen.form is None:
                    why = "no cache is needed" if choice.reached else "no cache is faster"
                    click.echo(json.dumps(measured) if as_json else f"{why}; nothing was written")
                    return
                form = choice.chosen.form
            with progress_bar(len(shards), hidden=as_json) as progress:
                run(shards, out, form, store_name=store_name, jobs=jobs, progress=progress)
    except KeyboardInterrupt:
        raise StoppedError("interrupted; nothing was published") from None
    facts = Shards(out).info()
    echo_json(facts | measured) if as_json else echo(describe(facts))


def _form(
    target: float | None,
    shorter: int | None,
    size: tuple[int, int] | None,
    buckets: str | None,
    fit: str,
    gray: bool,
    quality: int | None,
    raw: bool,
) -> Form:
    from dataforge.transform.bake import QUALITY, Form

    if size and buckets:
        raise ConfigError("--size and --buckets exclude each other")
    if target is not None and (shorter or raw):
        raise ConfigError("--target-imgs-per-s chooses the side and the codec; omit --side and --raw")
    if raw and quality is not None:
        raise ConfigError("--quality applies to JPEGs; omit it with --raw")
    shapes: tuple[tuple[int, int], ...] = (size,) if size else ()
    if buckets:
        matches = [re.fullmatch(r"(\d+)x(\d+)", part.strip()) for part in buckets.split(",")]
        shapes = tuple((int(match[1]), int(match[2])) for match in matches if match)
        if len(shapes) != len(matches):
            raise ConfigError(f"--buckets {buckets}: expected heights and widths such as 320x320,256x384")
    return Form(shorter, shapes, fit, gray, raw, QUALITY if quality is None else quality)
