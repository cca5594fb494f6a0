"""A contact sheet of a shard folder: what is in it, or what a recipe makes of it."""

from __future__ import annotations

import numpy as np

from dataforge import augment as aug
from dataforge.augment import cpu
from dataforge.draw import Pixels, contact_sheet
from dataforge.errors import ConfigError, unknown
from dataforge.rng import bits
from dataforge.shards.reader import Shards

SIZE = (480, 480)  # of a picture, letterboxed


def show(
    shards: Shards, *, n: int = 16, class_name: str | None = None, augment: str | None = None, seed: int = 0
) -> Pixels:
    """Draw some records with their boxes and class names.

    Args:
        n: how many; they are drawn at random by `seed`.
        class_name: take only images that hold this class.
        augment: a recipe, which is applied as the `Loader` would in epoch 0.

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
        raise ConfigError(f"{shards.path}: there is no image to show")
    recipe = aug.recipe(augment)
    parameters = aug.parameters(recipe, index, table.height[index], table.width[index], SIZE, seed=seed)
    objects = table.take(index)
    row = np.repeat(np.arange(len(index)), np.diff(objects.offsets))
    boxes, keep = aug.move_boxes(objects.boxes, row, parameters.matrix, SIZE, aug.MIN_VISIBLE if recipe else 0.0)
    labels = np.where(keep, objects.labels, -1)
    pictures = []
    for i, record in enumerate(index.tolist()):
        pixels = shards.pixels(record)
        picture = np.empty((*SIZE, 3), np.float32)
        colour = None if parameters.colour is None else parameters.colour[i]
        cpu.render(pixels, parameters.matrix[i], colour, picture)
        pictures.append((picture * 255).round().astype(np.uint8))
    cuts = objects.offsets[1:-1]
    return contact_sheet(pictures, np.split(boxes, cuts), np.split(labels, cuts), shards.classes)
