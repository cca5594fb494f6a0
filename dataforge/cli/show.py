"""`dataforge show`: write a contact sheet of a shard folder."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dataforge.cli.complete import CLASS, RECIPE, SPLIT
from dataforge.cli.options import Directory, view_options
from dataforge.command import OutFile, command, echo, natural
from dataforge.errors import ConfigError

if TYPE_CHECKING:
    from dataforge.sources.view import View


@command()
@click.argument("directory", type=Directory())
@click.option("--out", type=OutFile(), default=Path("show.jpg"), show_default=True, help="The picture.")
@click.option("--n", type=natural(1, 400), default=16, show_default=True, help="How many images.")
@click.option("--split", type=SPLIT, help="Only images of this split.")
@click.option("--class", "class_name", type=CLASS, help="Only images with boxes of this class.")
@click.option("--augment", metavar="RECIPE", type=RECIPE, help="Show the images augmented by this recipe.")
@click.option(
    "--seed", type=natural(0), default=0, show_default=True, help="Seed of the selection and of the augmentation."
)
@view_options
def show(directory: Path, out: Path, split: str | None, view: View, **what: Any) -> None:
    """Write a contact sheet: images with their boxes and class names."""
    import PIL.Image

    from dataforge.analysis.show import show as draw
    from dataforge.shards.reader import Shards

    sheet = PIL.Image.fromarray(draw(Shards(directory, split, view), **what))
    try:
        sheet.save(out, quality=90)
    except (OSError, ValueError) as error:
        raise ConfigError(f"--out {out}: cannot be written: {getattr(error, 'strerror', None) or error}") from None
    echo(f"{out}: {sheet.width}x{sheet.height}")
