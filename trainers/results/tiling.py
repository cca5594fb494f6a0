"""How an image is detected in tiles, and the options that state it."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import click

from dataforge.command import Option, natural, real
from dataforge.errors import ConfigError
from dataforge.images.tiles import MOST_OVERLAP, OVERLAP

MERGES = ("nms", "wbf")


@dataclass(frozen=True)
class Tiling:
    """How an image is detected in tiles.

    Attributes:
        side, overlap: as for `dataforge.images.tiles.windows`.
        merge: "nms" or "wbf".
        whole: also detect in the whole image, for objects larger than a tile.
        batch: tiles that are detected at a time.
    """

    side: int
    overlap: float = OVERLAP
    merge: str = "nms"
    whole: bool = False
    batch: int = 8


def tiling_words(tiling: Mapping[str, Any] | None) -> str:
    """Return the options of a tiling, of its attributes but "batch"; None is for whole images."""
    if tiling is None:
        return "no --tile"
    words = f"--tile {tiling['side']} --overlap {tiling['overlap']:g} --tile-merge {tiling['merge']}"
    return words + " --tile-whole" * tiling["whole"]


def tiling_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options of tiles; the command receives them as `tiling`, a `Tiling` or None."""
    option = functools.partial(click.option, cls=Option, group="Tiles")

    @functools.wraps(command)
    def with_tiling(
        *args: Any,
        tile: int | None,
        overlap: float | None,
        tile_merge: str | None,
        tile_whole: bool | None,
        **others: Any,
    ) -> Any:
        given = {"overlap": overlap, "merge": tile_merge, "whole": tile_whole}
        known: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
        if tile is None and known:
            raise ConfigError("--overlap, --tile-merge and --tile-whole are for tiles; expected --tile as well")
        return command(*args, tiling=None if tile is None else Tiling(tile, **known), **others)

    for add in reversed(
        (
            option("--tile", type=natural(), metavar="N", help="Detect in overlapping tiles of N pixels, and merge."),
            option(
                "--overlap",
                type=real(least=0, most=MOST_OVERLAP),
                help=f"Share of a tile's side that neighbours have in common, at least [default: {OVERLAP}].",
            ),
            option(
                "--tile-merge",
                type=click.Choice(MERGES),
                help="Boxes of one object: keep the best (nms), or average them (wbf) [default: nms].",
            ),
            option(
                "--tile-whole/--no-tile-whole",
                default=None,
                help="Also detect in the whole image, for objects larger than a tile [default: no].",
            ),
        )
    ):
        with_tiling = add(with_tiling)
    return with_tiling
