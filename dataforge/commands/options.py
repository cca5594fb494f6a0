"""Options that several commands share, and what they mean."""

from __future__ import annotations

import inspect
import re
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dataforge.errors import ConfigError

if TYPE_CHECKING:
    from dataforge.record import Source


def json_option(command: Callable[..., Any]) -> Callable[..., Any]:
    return click.option("--json", "as_json", is_flag=True, help="Print one JSON object for machines.")(command)


def format_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """What the formats' readers take beyond the folder; a command gets them all as `**given`."""
    for option in reversed(
        (
            click.option("--annotations", type=click.Path(path_type=Path), help="coco: this JSON file."),
            click.option(
                "--images", type=click.Path(path_type=Path), help="The folder of the pictures, where it is another."
            ),
            click.option(
                "--voc-offset",
                type=int,
                help="voc: 1 (default) for 1-based inclusive boxes, 0 for boxes as they stand.",
            ),
            click.option("--map", metavar="FIELD=COLUMN,...|FILE.toml", help="table: which columns hold what."),
            click.option("--boxes", metavar="xyxy|xywh|cxcywh", help="table: what a box's four numbers are."),
            click.option("--unit", metavar="pixel|unit", help="table: pixels, or fractions of the image's size."),
            click.option(
                "--inclusive", is_flag=True, default=None, help="table: xmax and ymax are the last pixels' numbers."
            ),
            click.option(
                "--corners", help="matlab: matlab (default) for [x y w h] from 1, converter for [x, y + h, x + w, y]."
            ),
        )
    ):
        command = option(command)
    return command


def read_source(format_name: str, root: Path, splits: tuple[str, ...] | None, given: dict[str, Any]) -> Source:
    """Read ROOT with those options that were given, which must be ones that the format takes."""
    from dataforge.formats import reader

    read = reader(format_name)
    options = {name: value for name, value in given.items() if value is not None}
    for name in options.keys() - inspect.signature(read).parameters.keys():
        raise ConfigError(f"--{name.replace('_', '-')}: format {format_name!r} does not take it")
    return read(root, split=splits, **options)


def format_and_root(text: str, option: str) -> tuple[str, Path]:
    """The parts of FORMAT:ROOT, where FORMAT may be the user's own file.py:function."""
    found = re.fullmatch(r"(.+?\.py:\w+|[^:]+):(.*)", text, re.DOTALL)
    if not found:
        raise ConfigError(f"{option} {text}: expected FORMAT:ROOT, such as coco:path/to/coco")
    root = Path(found[2] or ".")
    return named(found[1], root), root


def named(format_name: str, root: Path) -> str:
    """The format's name; where it is `auto`, the one that ROOT is in, and what was seen of it is said."""
    if format_name != "auto":
        return format_name
    from dataforge.formats.auto import detect

    found, saw = detect(root)
    click.echo(f"{root}: {found} ({saw})", err=True)
    return found


def names(values: tuple[str, ...]) -> tuple[str, ...] | None:
    """The names in a repeated option, each of which may hold several between commas."""
    return tuple(name.strip() for value in values for name in value.split(",") if name.strip()) or None


@contextmanager
def polite_kill() -> Iterator[None]:
    """SIGTERM ends what happens here as Ctrl-C does."""
    previous = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


@contextmanager
def progress_bar(total: int, hidden: bool) -> Iterator[Callable[[int], None] | None]:
    """A bar on a terminal, else a line every tenth of the way, but not several a second."""
    if hidden:
        yield None
    elif sys.stderr.isatty():
        from tqdm import tqdm

        with tqdm(total=total or None, unit=" images", leave=False) as bar:

            def advance(done: int) -> None:
                bar.update(done - bar.n)

            yield advance
    else:
        last, said = 0, time.monotonic()

        def say(done: int) -> None:
            nonlocal last, said
            if done - last >= max(total / 10, 1) and time.monotonic() - said > 0.5:
                last, said = done, time.monotonic()
                click.echo(f"{done} of {total} images" if total else f"{done} images", err=True)

        yield say
