"""`dataforge info` and `dataforge show`: what a shard folder holds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dataforge.commands.options import json_option, view_options
from dataforge.errors import ConfigError

if TYPE_CHECKING:
    from dataforge.view import View


@click.command()
@click.argument("directory", type=click.Path(path_type=Path))
@view_options
@json_option
def info(directory: Path, view: View, as_json: bool) -> None:
    """What a shard folder holds: splits, classes, sizes, box counts."""
    from dataforge.shards.reader import Shards

    facts = Shards(directory, view=view).info()
    click.echo(json.dumps(facts, ensure_ascii=False) if as_json else describe(facts))


def describe(facts: dict[str, Any]) -> str:
    """`Shards.info()` as text."""
    lines = [
        f"{facts['images']} images, {facts['boxes']} boxes, {len(facts['classes'])} classes, "
        f"{facts['bytes'] / 1e6:.1f} MB of images ({facts['store']}, codec {facts['codec']}, from {facts['source']})"
    ]
    for name in ("height", "width", "boxes_per_image"):
        low, middle, high = facts[name]
        lines.append(f"{name.replace('_', ' ')}: {low} to {high}, median {middle}")
    if facts["baked"]:
        baked = facts["baked"]
        state = "unchanged" if baked["parent_is_there"] else "not there now"
        what = f", {baked['view']}" if baked["view"] else ""
        lines.append(f"a cache of {baked['parent']} ({state}){what}")
    splits = facts["splits"]
    wide = max([5, *map(len, facts["classes"])])
    lines.append("  ".join([" " * wide, *(f"{name:>10}" for name in splits)]))
    for row in ("images", "boxes", "empty", "crowd", "difficult", "truncated"):
        lines.append("  ".join([f"{row:<{wide}}", *(f"{split[row]:>10}" for split in splits.values())]))
    lines.append("boxes per class")
    for name in facts["classes"]:
        lines.append("  ".join([f"{name:<{wide}}", *(f"{split['per_class'][name]:>10}" for split in splits.values())]))
    for name, parts in facts["unions"].items():
        lines.append(f"{name} = {' + '.join(parts)}, stored once")
    return "\n".join(lines)


@click.command()
@click.argument("directory", type=click.Path(path_type=Path))
@click.option(
    "--out", type=click.Path(path_type=Path), default=Path("show.jpg"), show_default=True, help="The picture."
)
@click.option("--n", type=click.IntRange(1, 400), default=16, show_default=True, help="How many images.")
@click.option("--split", help="Only of this split.")
@click.option("--class", "class_name", help="Only images that hold this class.")
@click.option("--augment", metavar="RECIPE", help="As this augmentation recipe makes them.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of the choice, and of the augmentation.")
@view_options
def show(directory: Path, out: Path, split: str | None, view: View, **what: Any) -> None:
    """Write a contact sheet: images with their boxes and class names."""
    import PIL.Image

    from dataforge.shards.reader import Shards
    from dataforge.show import show as draw

    sheet = PIL.Image.fromarray(draw(Shards(directory, split, view), **what))
    try:
        sheet.save(out, quality=90)
    except (OSError, ValueError) as error:
        raise ConfigError(f"--out {out}: cannot be written: {getattr(error, 'strerror', None) or error}") from None
    click.echo(f"{out}: {sheet.width}x{sheet.height}")
