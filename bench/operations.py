"""A page of pictures: one row for each augmentation, with its boxes.

    python bench/operations.py SHARDS --out page.html [--record 0] [--columns 5]

The first picture of a row is the record as it is, the others are what the operation makes of it in so many epochs, with
its default values (kornia's with those that are shown) and `p` = 1. An HTML page is one file with the pictures in it;
of `--out page.md` they are smaller and lie beside it, in `pictures`. docs/augment.md was made so, of drawn pictures:

    dataforge synth drawn --images 20 && dataforge ingest coco drawn --out drawn-shards
    python bench/operations.py drawn-shards --out docs/augment.md --record 15 --columns 3
"""

from __future__ import annotations

import argparse
import base64
import html
import io
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from dataforge.augment.executors import cpu
from dataforge.augment.layout import lay_out
from dataforge.augment.operations.registry import OPERATIONS, Recipe, values_of
from dataforge.augment.recipes import RECIPES
from dataforge.errors import DataforgeError
from dataforge.images.draw import contact_sheet
from dataforge.shards.reader import Shards

KORNIA: dict[str, dict[str, Any]] = {  # a few of kornia's
    "RandomMotionBlur": {"kernel_size": [5, 11], "angle": [-90, 90], "direction": [-1, 1]},
    "RandomRain": {"number_of_drops": [60, 120], "drop_height": [4, 9], "drop_width": [-3, 3]},
    "RandomSnow": {"snow_coefficient": [0.2, 0.6], "brightness": [1.5, 2.5]},
    "RandomPlasmaShadow": {"shade_intensity": [-0.4, -0.1], "shade_quantity": [0.45, 0.7]},
    "RandomGaussianIllumination": {"gain": [0.2, 0.4], "sigma": [0.2, 0.5]},
    "RandomPlanckianJitter": {"mode": "blackbody"},
    "RandomClahe": {"clip_limit": [2.0, 10.0]},
}
LARGE, SMALL = (240, 320), (96, 128)  # pictures in an HTML page, and beside one in Markdown


def picture(
    shards: Shards, steps: Recipe, record: int, epoch: int, size: tuple[int, int]
) -> tuple[NDArray[np.uint8], NDArray[Any], NDArray[Any]]:
    """What a recipe makes of a record in an epoch: pixels, boxes and labels."""
    layout = lay_out(steps, np.array([record]), shards.table, size, epoch=epoch)
    canvas = np.empty((*size, 3), np.uint8)
    cpu.picture(layout, 0, shards.pixels, canvas)
    return canvas, layout.boxes, layout.labels


def rows(shards: Shards, record: int, columns: int, size: tuple[int, int]) -> Iterator[tuple[str, str, str, bytes]]:
    """For each operation and recipe: its kind, its name, its values or steps in words, and its row as JPEG."""
    names = shards.classes if size == LARGE else [""] * len(shards.classes)  # small ones have no room for names
    groups = {kind: group for kind, group in OPERATIONS.items() if kind != "settings"}
    for kind, group in (groups | {"kornia": KORNIA, "recipes": RECIPES}).items():
        for name in group:
            steps: list[dict[str, Any]] = [{"op": name, "p": 1.0}]
            if kind == "kornia":
                steps = [{"op": f"kornia.{name}", "p": 1.0, **KORNIA[name]}]
                words = [f"{key} {value}" for key, value in KORNIA[name].items()]
            elif kind == "recipes":
                steps = [*RECIPES[name]]
                words = [step["op"] for step in steps]
            else:
                words = [f"{key} {value}" for key, (value, _) in values_of(name).items()]
            made = [picture(shards, (), record, 0, size)]
            made += [picture(shards, steps, record, epoch, size) for epoch in range(columns)]
            sheets = [contact_sheet([a], [b], [c], names, side=size[1]) for a, b, c in made]
            buffer = io.BytesIO()
            PIL.Image.fromarray(np.concatenate(sheets, 1)).save(buffer, "JPEG", quality=85 if size == LARGE else 70)
            yield kind, name, ", ".join(words), buffer.getvalue()


def write_html(out: Path, shards: Shards, record: int, columns: int) -> None:
    """The page as one file."""
    lines = ["<!doctype html><meta charset=utf-8><title>Augmentations</title>", _STYLE, "<h1>Augmentations</h1>"]
    last = ""
    for kind, name, words, data in rows(shards, record, columns, LARGE):
        lines += [f"<h2>{kind}</h2>"] if kind != last else []
        lines.append(f"<h3>{html.escape(name)} <small>{html.escape(words)}</small></h3>")
        lines.append(f'<img alt="{html.escape(name)}" src="data:image/jpeg;base64,{base64.b64encode(data).decode()}">')
        last = kind
    out.write_text("\n".join(lines), "utf-8")


def write_markdown(out: Path, shards: Shards, record: int, columns: int) -> None:
    """The page, and beside it `pictures/augment_NAME.jpg`."""
    lines, last = [_HEAD], ""
    (out.parent / "pictures").mkdir(parents=True, exist_ok=True)
    for kind, name, words, data in rows(shards, record, columns, SMALL):
        file = f"pictures/augment_{f'recipe_{name}' if kind == 'recipes' else name}.jpg"
        (out.parent / file).write_bytes(data)
        lines += [f"\n## {kind}"] if kind != last else []
        lines.append(f"\n**{name}** {words}\n\n![{name}]({file})")
        last = kind
    out.write_text("\n".join(lines) + "\n", "utf-8")


_HEAD = """# Augmentations, seen

Each row is one operation with its default values, or one of kornia's with the values shown: first the picture as it is,
then what becomes of it in so many epochs, with the boxes that are left. `dataforge/augment/README.md` says what each
does, and the bounds of its values; `bench/operations.py` draws this page, of your own shards too."""
_STYLE = "<style>body{font:15px sans-serif;margin:2em}img{max-width:100%}small{color:#666;font-weight:normal}</style>"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("shards", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--record", type=int, default=0)
    parser.add_argument("--columns", type=int, default=5)
    given = parser.parse_args()
    try:
        shards = Shards(given.shards, "train")
        if not 0 <= given.record < len(shards):
            sys.exit(f"error: --record {given.record}; expected 0 to {len(shards) - 1}")
        write = write_markdown if given.out.suffix == ".md" else write_html
        write(given.out, shards, given.record, given.columns)
    except (DataforgeError, OSError) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
