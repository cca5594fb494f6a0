"""Legend: B images, A anchors, C classes, H x W pixels, h x w cells. Pictures of the dense detector's values."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from dataforge.images.draw import Pixels, contact_sheet
from dataforge.loading.batch import Batch
from trainers.results import monitor, plots

MAPS = 32  # maximum number of feature maps shown
COLUMNS = 6  # maximum number of classes with heat maps


def positives(batch: Batch, anchors: Tensor, owner: Tensor) -> Pixels:
    """Draw the positive anchors in the colour of their class.

    Args:
        anchors: (A, 4); owner: (B, A), the index of the box assigned to an anchor, or less than 0.
    """
    chosen = [row >= 0 for row in owner]
    labels = [batch.labels[i][owner[i][learning]].cpu().numpy() for i, learning in enumerate(chosen)]
    boxes = [anchors[learning].cpu().numpy() for learning in chosen]
    nameless = [""] * (1 + max([0, *(int(row.max(initial=0)) for row in labels)]))
    return contact_sheet(plots.pictures(batch.images), boxes, labels, nameless, side=monitor.SIDE)


def heat(batch: Batch, logits: Tensor, levels: Sequence[Sequence[int]], names: Sequence[str]) -> Pixels:
    """Draw the class head's scores at each position: 0 is black, 1 light yellow.

    One row per image, one column per class: the first few of those in the images, otherwise of all.

    Args:
        logits: (B, A, C); levels: the (h, w) of each level's cells.
    """
    scores = logits.float().sigmoid()
    size = batch.images.shape[2:]
    cells = [int(np.prod(level)) for level in levels]
    each = scores.shape[1] // sum(cells)  # anchors per cell
    warmth = scores.new_zeros(len(scores), scores.shape[2], *size)
    for part, (rows, columns) in zip(scores.split([n * each for n in cells], 1), levels, strict=True):
        best = part.unflatten(1, (rows, columns, each)).amax(3).permute(0, 3, 1, 2)
        warmth = torch.maximum(warmth, functional.interpolate(best, size))
    present = batch.labels[batch.labels >= 0].unique().tolist() or list(range(len(names)))
    shown = present[:COLUMNS]
    colours = (matplotlib.colormaps["inferno"](np.arange(256))[:, :3] * 255).round().astype(np.uint8)
    shades = colours[(warmth[:, shown].cpu().numpy() * 255).round().astype(np.int64)]  # (B, classes, H, W, 3)
    whole = np.array([[0, 0, size[1], size[0]]], np.float32)  # a box around the tile, labelled with the class
    strips = []
    for photo, row in zip(plots.pictures(batch.images), shades, strict=True):
        tiles = [photo, *row]
        boxes = [whole[:0], *[whole] * len(shown)]
        labels = [np.zeros(0, np.int64), *(np.array([label]) for label in shown)]
        strips.append(contact_sheet(tiles, boxes, labels, names, side=monitor.SIDE, columns=len(tiles)))
    return np.concatenate(strips)


def features(maps: Tensor) -> Pixels:
    """Draw the first few feature maps of an image.

    Args:
        maps: (width, h, w).
    """
    return monitor.tiles(maps[:MAPS].unsqueeze(1))
