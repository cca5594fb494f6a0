"""Augmentation: parameters first, for all images of a batch at once; then one executor applies them.

`lay_out` says which records make up each picture and where its boxes are, `parameters` how each record is moved and
coloured: one matrix and one colour matrix each, as pure functions of (seed, epoch, record). The pixels are then
painted by `cpu`, image by image inside the decode threads, or by `device`, a whole batch at once on the accelerator.
"""

from dataforge.augment.cpu import warp
from dataforge.augment.geometry import FILL, fit_matrix
from dataforge.augment.layout import Layout, lay_out
from dataforge.augment.move import MIN_VISIBLE, move_boxes
from dataforge.augment.parameters import Parameters, parameters
from dataforge.augment.recipes import GEOMETRY, PHOTO, RECIPES, Recipe, recipe

FITS = ("letterbox", "stretch")

__all__ = [
    "FILL",
    "FITS",
    "GEOMETRY",
    "MIN_VISIBLE",
    "PHOTO",
    "RECIPES",
    "Layout",
    "Parameters",
    "Recipe",
    "fit_matrix",
    "lay_out",
    "move_boxes",
    "parameters",
    "recipe",
    "warp",
]
