"""Options shared by several commands, and helpers that interpret them."""

from __future__ import annotations

import functools
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dataforge.cli.complete import CLASSES, STORE
from dataforge.cloud.path import located
from dataforge.command import Option, natural, real
from dataforge.errors import ConfigError, counted

if TYPE_CHECKING:
    from dataforge.threads import Spread

INTERVAL = 0.5  # seconds between lines of progress


class Directory(click.ParamType):
    """A folder of shards, or its URL."""

    name = "path"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        return located(value)


def json_option(command: Callable[..., Any]) -> Callable[..., Any]:
    return click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")(command)


def out_option(command: Callable[..., Any]) -> Callable[..., Any]:
    text = "Output folder, new or empty, or its URL, such as s3://bucket/folder."
    return click.option("--out", required=True, type=Directory(), help=text)(command)


def max_bad_option(command: Callable[..., Any]) -> Callable[..., Any]:
    text = "Leave out up to this many unreadable images instead of failing."
    return click.option("--max-bad", type=natural(0), default=0, help=text)(command)


def store_option(command: Callable[..., Any]) -> Callable[..., Any]:
    option = click.option(
        "--store",
        "store_name",
        default="lmdb",
        show_default=True,
        metavar="lmdb|memmap|zarr",
        type=STORE,
        help="Store for the images.",
    )
    return option(command)


def engine_options(text: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Return a decorator that adds `--engine` and `--address`.

    Args:
        text: help of `--engine`.
    """
    option = functools.partial(click.option, cls=Option, group="Several machines")

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        address = "Of the Ray cluster [default: RAY_ADDRESS, that of this machine, or a new one]."
        return option("--engine", type=click.Choice(["ray"]), help=text)(option("--address", help=address)(command))

    return decorate


@contextmanager
def spreading(engine: str | None, address: str | None) -> Iterator[tuple[Spread, int]]:
    """Yield what spreads work over threads, or with `engine` over a cluster, and the number of jobs by default."""
    from dataforge.threads import cores, ordered

    if engine is None:
        if address:
            raise ConfigError("--address: is for --engine ray")
        yield ordered, cores()
        return
    from dataforge.cluster import spreading as over_cluster

    with over_cluster(address) as spread:
        yield spread


def store_or_link_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add `--store`, and `--link`, which the command receives as a store of that name."""

    @functools.wraps(command)
    def with_store(*args: Any, link: bool, store_name: str, **others: Any) -> Any:
        source = click.get_current_context().get_parameter_source("store_name")
        if link and source is click.core.ParameterSource.COMMANDLINE:
            raise ConfigError(f"--store {store_name}: --link stores no images")
        return command(*args, store_name="link" if link else store_name, **others)

    help_text = "Refer to the images where they are, which must stay there, instead of copying them [default: --copy]."
    return store_option(click.option("--link/--copy", help=help_text)(with_store))


class _FractionOrCount(click.ParamType):
    """A whole number is a count, a number with a point a fraction."""

    name = "fraction or count"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float | int:
        try:
            return value if isinstance(value, float | int) else int(value) if value.isdecimal() else float(value)
        except ValueError:
            self.fail(f"{value!r} is not a number", param, ctx)


def view_options(command: Callable[..., Any], side: str = "--side") -> Callable[..., Any]:
    """Add options that select classes, boxes and images; the command receives them as `view`, a `View`.

    Args:
        side: another name for `--side`, if the command has its own `--side`.
    """

    option = functools.partial(click.option, cls=Option, group="Selection")
    policy = click.Choice(["keep", "drop"])
    between: dict[str, Any] = {"type": real(least=0, infinite=True), "nargs": 2, "metavar": "MIN MAX"}

    @functools.wraps(command)
    def with_view(
        *args: Any,
        classes: tuple[str, ...],
        area: tuple[float, float] | None,
        side: tuple[float, float] | None,
        crowd: Any,
        difficult: Any,
        empty: Any,
        limit: int | None,
        sample: float | int,
        sample_seed: int,
        **others: Any,
    ) -> Any:
        from dataforge.sources.view import View

        view = View(names(classes) or (), area, side, crowd, difficult, empty, limit, sample, sample_seed)
        return command(*args, view=view, **others)

    for add in reversed(
        (
            option(
                "--classes",
                multiple=True,
                type=CLASSES,
                help="Keep boxes of these classes only; labels follow this order.",
            ),
            option("--area", **between, help="Keep objects of this area only, in pixels; inf for no limit."),
            option(side, "side", **between, help="Keep boxes whose shorter side is in this range only, in pixels."),
            option(
                "--crowd", type=policy, default="keep", show_default=True, help="Keep or drop boxes flagged as crowd."
            ),
            option(
                "--difficult",
                type=policy,
                default="keep",
                show_default=True,
                help="Keep or drop boxes flagged as difficult.",
            ),
            option(
                "--empty",
                type=policy,
                default="keep",
                show_default=True,
                help="Keep or drop images without boxes (after the other filters).",
            ),
            option(
                "--limit", type=natural(), help="Keep the first N images of each split that pass the other filters."
            ),
            option(
                "--sample",
                type=_FractionOrCount(),
                default=1.0,
                help="Keep a random fraction (0.1; 1.0 for all), or a number of images of each split (500).",
            ),
            option("--sample-seed", type=natural(0), default=0, show_default=True, help="Seed of --sample."),
        )
    ):
        with_view = add(with_view)
    return with_view


def names(values: tuple[str, ...]) -> tuple[str, ...] | None:
    """Return the names in a repeated option whose values may be comma-separated; None if there are none."""
    return tuple(name.strip() for value in values for name in value.split(",") if name.strip()) or None


@contextmanager
def polite_kill() -> Iterator[None]:
    """Make SIGTERM raise KeyboardInterrupt in the block, as Ctrl-C does, then restore the previous handler."""
    previous = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


@contextmanager
def progress_bar(total: int, hidden: bool) -> Iterator[Callable[[int], None] | None]:
    """Show a bar on a terminal, or else a line each tenth of the images and INTERVAL at most, and a last one."""
    if hidden:
        yield None
    elif sys.stderr.isatty():
        from tqdm import tqdm

        with tqdm(total=total or None, unit=" images", leave=False) as bar:

            def advance(done: int) -> None:
                bar.update(done - bar.n)

            yield advance
    else:
        last, done, printed = 0, 0, time.monotonic()

        def line() -> None:
            click.echo(f"{done} of {counted(total, 'image')}" if total else counted(done, "image"), err=True)

        def show(count: int) -> None:
            nonlocal last, done, printed
            done = count
            if done - last >= max(total / 10, 1) and time.monotonic() - printed > INTERVAL:
                last, printed = done, time.monotonic()
                line()

        yield show
        if 0 < last < done:
            line()
