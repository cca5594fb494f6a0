"""Values that a shell completes: types of options and arguments that take any text."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable, Iterable
from pathlib import Path

import click
from click.shell_completion import CompletionItem

from dataforge.errors import DataforgeError
from dataforge.process import run_module


class Name(click.ParamType):
    """Text whose likely values are known.

    Args:
        known: the command's context -> the values.
        separator: between several values in one text; "" allows one.
        files: also complete names of files.
    """

    name = "text"

    def __init__(
        self, known: Callable[[click.Context], Iterable[str]], separator: str = "", files: bool = False
    ) -> None:
        self._known, self._separator, self._files = known, separator, files

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        before, separator, last = incomplete.rpartition(self._separator) if self._separator else ("", "", incomplete)
        try:
            names = [name for name in self._known(ctx) if name.startswith(last)]
        except DataforgeError:
            names = []
        items = [CompletionItem(f"{before}{separator}{name}") for name in names]
        return items + ([CompletionItem(incomplete, type="file")] if self._files else [])


def _formats(ctx: click.Context) -> Iterable[str]:
    from dataforge.formats import FORMATS

    return ("auto", *FORMATS)


def _written_formats(ctx: click.Context) -> Iterable[str]:
    from dataforge.formats import writable

    return writable()


def _recipes(ctx: click.Context) -> Iterable[str]:
    from dataforge.augment.recipes import RECIPES

    return RECIPES


def _trainers(ctx: click.Context) -> Iterable[str]:
    return re.findall(r"trainers\.(\w+) ", run_module("trainers", stdout=subprocess.PIPE).stdout)


def _splits(ctx: click.Context) -> Iterable[str]:
    return [name for index in _indices(ctx) for part in ("splits", "unions") for name in index[part]]


def _classes(ctx: click.Context) -> Iterable[str]:
    return [name for index in _indices(ctx) for name in index["classes"]]


def _indices(ctx: click.Context) -> Iterable[dict[str, list[str]]]:
    """Yield the index of the first shards that the command line names so far."""
    from dataforge.shards.reader import Shards
    from dataforge.shards.versions import is_shards

    # after an option without its value, click has parsed no argument; all are in `ctx.args`
    for path in [ctx.params.get("directory"), *(ctx.params.get("directories") or ()), *ctx.args]:
        if path and is_shards(Path(path)):
            yield Shards(path).index
            return


FORMAT, WRITTEN_FORMAT, TRAINER = Name(_formats), Name(_written_formats), Name(_trainers)
RECIPE = Name(_recipes, files=True)
SPLIT, CLASS = Name(_splits), Name(_classes)
SPLITS, CLASSES = Name(_splits, ","), Name(_classes, ",")
STORE = Name(lambda ctx: ("lmdb", "memmap", "zarr"))
