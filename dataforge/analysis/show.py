"""Contact sheets of a shard folder, with or without augmentation by a recipe."""

from __future__ import annotations

import numpy as np

from dataforge.augment.executors import cpu
from dataforge.augment.layout import lay_out
from dataforge.augment.recipes import recipe
from dataforge.errors import ConfigError, unknown
from dataforge.images.draw import Pixels, contact_sheet, draw_rings
from dataforge.polygons import ranges
from dataforge.rng import bits
from dataforge.shards.reader import Shards

SIZE = (480, 480)  # of each image, letterboxed


def show(
    shards: Shards, *, n: int = 16, class_name: str | None = None, augment: str | None = None, seed: int = 0
) -> Pixels:
    """Draw some records with their boxes, polygons and class names.

    Args:
        n: number of records, sampled at random with `seed`.
        class_name: take only images that contain this class.
        augment: name or TOML file of a recipe, applied as by the `Loader` in epoch 0.

    Returns:
        (height, width, 3) RGB.

    Raises:
        ConfigError: no such class or recipe, or no image to show. DataError: a record is damaged.
    """
    table = shards.table
    rows = np.arange(len(table))
    if class_name is not None:
        if class_name not in shards.classes:
            raise unknown("class", class_name, shards.classes)
        rows = np.unique(table.image[table.labels == shards.classes.index(class_name)])
    index = rows[np.argsort(bits(seed, 0, rows, "show")[:, 0], kind="stable")][:n]
    if not len(index):
        raise ConfigError(f"{shards.path}: no images to show")
    layout = lay_out(recipe(augment), index, table, SIZE, seed=seed)
    pictures = np.empty((len(index), *SIZE, 3), np.uint8)
    for i in range(len(index)):
        cpu.picture(layout, i, shards.pixels, pictures[i])
    rows, bounds = ranges(table.offsets, index)
    polygons = table.polygons.take(rows).move(layout.affine.repeat(np.diff(bounds), axis=0))
    for i in range(len(index)):
        for n, rings in enumerate(polygons.part(int(bounds[i]), int(bounds[i + 1])).lists()):
            label = int(layout.labels[layout.offsets[i] + n])  # the image's own record comes first
            if rings and label >= 0:
                draw_rings(pictures[i], rings, label)
    cuts = layout.offsets[1:-1]
    return contact_sheet(list(pictures), np.split(layout.boxes, cuts), np.split(layout.labels, cuts), shards.classes)
