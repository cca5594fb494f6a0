"""Options and the opening of a source: the annotated images that a command reads."""

from __future__ import annotations

import functools
import inspect
import itertools
import re
import shlex
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dataforge.cli.options import view_options
from dataforge.command import Command, Option, echo, natural
from dataforge.errors import ConfigError, FormatError

if TYPE_CHECKING:
    from dataforge.formats import Option as FormatOption
    from dataforge.record import Source
    from dataforge.sources.view import View


class SourceCommand(Command):
    """A command that reads a source, with `source_options` and the options of all formats, passed as `**given`.

    The formats are imported only when this command is parsed or its help is shown, so that `dataforge --help` is fast.
    """

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        from dataforge.formats import FORMATS, options

        *own, help_option = super().get_params(ctx)
        formats = [_click_option(option, takers, len(FORMATS)) for option, takers in options().items()]
        formats.sort(key=lambda option: option.group)
        return [*own, help_option, *formats]


@functools.cache  # click compares parameters by identity, and requests them several times
def _click_option(option: FormatOption, takers: tuple[str, ...], formats: int) -> Option:
    """Create a format's option, in the group of the format; or in one of all, with the formats that accept it."""
    flag = option.type is bool
    return Option(
        [f"--{option.name.replace('_', '-')}", option.name],
        type={Path: click.Path(path_type=Path), int: natural(0)}.get(option.type, option.type),
        is_flag=flag,
        default=None,
        metavar=option.metavar,
        help=option.help if len(takers) in (1, formats) else f"{option.help} ({', '.join(takers)})",
        group=f"Format {takers[0]}" if len(takers) == 1 else "Annotation formats",
    )


def source_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add options to join, rename and filter sources. For a `SourceCommand`, which adds the formats' own options."""
    option = functools.partial(click.option, cls=Option, group="Join and rename")
    for add in reversed(
        (
            option("--add", multiple=True, metavar="FORMAT:ROOT", help="Join another set; classes are united by name."),
            option("--class-map", type=click.Path(path_type=Path), help='TOML of old = "new"; old = "" drops a class.'),
            option(
                "--split-map",
                multiple=True,
                metavar="OLD=NEW",
                help="Rename a split (repeat the option); the same name merges.",
            ),
        )
    ):
        command = add(command)
    return view_options(command)


def open_source(
    format_name: str,
    root: Path,
    splits: tuple[str, ...] | None,
    view: View,
    add: tuple[str, ...],
    class_map: Path | None,
    split_map: tuple[str, ...],
    **given: Any,
) -> tuple[Source, str]:
    """Open the source selected by `source_options`, and return it with the name of its format."""
    from dataforge.sources.join import join, read_class_map, rename, rename_splits
    from dataforge.sources.view import View

    name = named(format_name, root)
    source, title = read_source(name, root, splits, given), name
    if add:
        added = [format_and_root(text, "--add") for text in add]
        title = " + ".join([name, *(added_name for added_name, _ in added)])
        shared = {"allow_outside": given.get("allow_outside")}
        others = [(path.resolve().name, read_source(added_name, path, splits, shared)) for added_name, path in added]
        source = join([(root.resolve().name, source), *others])
    if class_map:
        source = rename(source, read_class_map(class_map))
    new_names = {}
    for text in split_map:
        old, separator, new = text.partition("=")
        if not (old and separator and new):
            raise ConfigError(f"--split-map {text}: expected OLD=NEW, such as train2017=train")
        new_names[old] = new
    source = rename_splits(source, new_names)
    return source if view == View() else view.filter(source), title


def read_source(format_name: str, root: Path, splits: tuple[str, ...] | None, given: dict[str, Any]) -> Source:
    """Read ROOT with the given options, all of which the format must accept.

    Files below ROOT that the format does not use are noted, unless splits are selected or the reader is the user's.
    """
    from dataforge.archives.path import opened
    from dataforge.formats import FORMATS, reader
    from dataforge.formats.leftovers import account

    read, root = reader(format_name), opened(root)
    options = {name: value for name, value in given.items() if value is not None}
    for name in options.keys() - inspect.signature(read).parameters.keys():
        raise ConfigError(f"--{name.replace('_', '-')}: format {format_name!r} does not take it")
    with nullcontext() if splits or options else _advice_on_photos(root, "{error}; it holds "):
        source = read(root, split=splits, **options)
    return source if splits or format_name not in FORMATS else account(source, root)


def format_and_root(text: str, option: str) -> tuple[str, Path]:
    """Split FORMAT:ROOT into its parts, where FORMAT may be the user's own file.py:function."""
    match = re.fullmatch(r"(.+?\.py:\w+|[^:]+):(.*)", text, re.DOTALL)
    if not match:
        raise ConfigError(f"{option} {text}: expected FORMAT:ROOT, such as coco:path/to/coco")
    root = Path(match[2] or ".")
    return named(match[1], root), root


def named(format_name: str, root: Path) -> str:
    """Return the name of the format; for `auto`, detect that of ROOT and print the evidence."""
    if format_name != "auto":
        return format_name
    from dataforge.archives.path import opened
    from dataforge.formats.sniff import detect

    with _advice_on_photos(root):
        detected, saw = detect(opened(root))
    echo(f"{root}: {detected} ({saw})", err=True)
    return detected


@contextmanager
def _advice_on_photos(root: Path, before: str = "{root}: ") -> Iterator[None]:
    """Have a FormatError of a folder of pictures alone, as its first 1,000 files show, say how to annotate them.

    Args:
        before: what stands before the advice.
    """
    from dataforge.files import walk
    from dataforge.images.header import SUFFIXES

    try:
        yield
    except FormatError as error:
        files = list(itertools.islice((name for _, _, files in walk(root) for name in files), 1000))
        if not files or any(Path(name).suffix.lower() not in SUFFIXES for name in files):
            raise
        raise FormatError(
            f"{before.format(error=error, root=root)}pictures without annotations; to draw boxes on them: "
            f"dataforge annotate {shlex.quote(str(root))} --classes NAME,NAME"
        ) from None
