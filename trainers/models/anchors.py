"""Legend: A anchors.

Anchors: boxes on a grid over feature maps and offsets from them, and for YOLOv2 widths and heights in units of 32
pixels from k-means over the boxes of a data set.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dataforge.augment.operations.geometry import fit_matrix
from dataforge.errors import ConfigError
from dataforge.record import CROWD
from dataforge.shards.reader import Shards
from trainers.models import boxes

STRIDE = 32
VOC = [(1.08, 1.19), (3.42, 4.41), (6.63, 11.38), (9.42, 5.11), (16.62, 10.52)]  # YOLOv2's on VOC at 416 x 416

Sizes = NDArray[np.float64]
_MAX_LOG = math.log(1000 / 16)  # a predicted side is at most this factor of its anchor's


def shapes(sizes: Sequence[float], device: torch.device | None = None) -> Tensor:
    """Return the anchors of a cell: squares, and boxes of the same areas that are half or twice as high as wide.

    Half sides are rounded to whole pixels, as published weights expect.

    Args:
        sizes: the squares' sides, pixels.

    Returns:
        (3 * len(sizes), 2) widths and heights, wide ones first.
    """
    side = torch.tensor(sizes, dtype=torch.float32, device=device)
    ratio = torch.tensor([[0.5], [1.0], [2.0]], device=device).sqrt()  # of height to width
    return 2 * (torch.stack([side / ratio, side * ratio], -1).flatten(0, 1) / 2).round()


def grid(shapes: Tensor, rows: int, columns: int, step: tuple[float, float], offset: float = 0.0) -> Tensor:
    """Place the same shapes at every cell of a map, in the order row, column, shape.

    Args:
        shapes: (S, 2) widths and heights, pixels.
        step: (vertical, horizontal) pixels per cell.
        offset: the position of a shape's centre in its cell: 0 at its upper left corner, 0.5 in its middle.

    Returns:
        (rows * columns * S, 4) xyxy pixels.
    """
    y = (torch.arange(rows, device=shapes.device) + offset) * step[0]
    x = (torch.arange(columns, device=shapes.device) + offset) * step[1]
    centre = torch.stack(torch.meshgrid(y, x, indexing="ij")[::-1], -1).unsqueeze(2)
    return torch.cat([centre - shapes / 2, centre + shapes / 2], -1).reshape(-1, 4)


def over(maps: Sequence[Tensor], sizes: Sequence[Sequence[float]], strides: Sequence[int]) -> list[Tensor]:
    """Return the anchors of each map of a pyramid: `shapes` centred on the upper left corners of its cells.

    Anchors are spaced by the map's stride, even if an image's side is not a multiple of it. (torchvision then steps by
    side // cells, which drifts away from the cells' receptive fields.)

    Args:
        maps: (B, C, h, w) each; sizes: for each map, the sides of its squares, pixels.
        strides: for each map, pixels of the network's input per cell.

    Returns:
        for each map (h * w * 3 * its squares, 4) xyxy pixels, in `grid`'s order.
    """
    return [
        grid(shapes(sides, level.device), level.shape[2], level.shape[3], (stride, stride))
        for sides, level, stride in zip(sizes, maps, strides, strict=True)
    ]


def to_offsets(anchors: Tensor, targets: Tensor, weights: Sequence[float] = (1.0, 1.0, 1.0, 1.0)) -> Tensor:
    """Encode boxes as offsets from anchors (R-CNN, arXiv 1311.2524, appendix C), multiplied by weights.

    Args:
        anchors, targets: (..., 4) xyxy; those without an area give finite but meaningless numbers.
    """
    size, box_size = ((x[..., 2:] - x[..., :2]).clamp(min=1e-3) for x in (anchors, targets))
    centre, box_centre = (anchors[..., 2:] + anchors[..., :2]) / 2, (targets[..., 2:] + targets[..., :2]) / 2
    offsets = torch.cat([(box_centre - centre) / size, (box_size / size).log()], -1)
    return offsets * offsets.new_tensor(weights)


def from_offsets(offsets: Tensor, anchors: Tensor, weights: Sequence[float] = (1.0, 1.0, 1.0, 1.0)) -> Tensor:
    """Invert `to_offsets`: (..., 4) offsets and anchors to xyxy boxes."""
    offsets = offsets / offsets.new_tensor(weights)
    size, centre = anchors[..., 2:] - anchors[..., :2], (anchors[..., 2:] + anchors[..., :2]) / 2
    centre = centre + offsets[..., :2] * size
    half = offsets[..., 2:].clamp(max=_MAX_LOG).exp() * size / 2
    return torch.cat([centre - half, centre + half], -1)


def shape_iou(sizes: Sizes, anchors: Sizes) -> Sizes:
    """Compute `boxes.shape_iou` of arrays: (n, 2), (k, 2) -> (n, k)."""
    return boxes.shape_iou(torch.as_tensor(sizes), torch.as_tensor(anchors)).numpy()


def mean_iou(sizes: Sizes, anchors: Sizes) -> float:
    """Return the mean over boxes (n, 2) of the IoU with the best of the anchors (k, 2)."""
    return float(shape_iou(sizes, anchors).max(1).mean())


def kmeans(sizes: Sizes, k: int, seed: int = 0) -> Sizes:
    """Cluster box sizes by the distance 1 - IoU (YOLO9000, arXiv 1612.08242, section 2, "Dimension Clusters").

    Initialised by k-means++; the same sizes and seed give the same anchors.

    Args:
        sizes: (n, 2) widths and heights, all positive.
        k: number of clusters; if there are fewer distinct sizes, these are repeated.

    Returns:
        (k, 2), by increasing area.

    Raises:
        ConfigError: there is no box, or k is not positive.
    """
    if k < 1 or not len(sizes):
        raise ConfigError(f"{k} anchors from {len(sizes)} boxes; expected at least 1 of each")
    sizes, count = np.unique(np.asarray(sizes, np.float64), axis=0, return_counts=True)
    if len(sizes) <= k:
        centres = np.resize(sizes, (k, 2))
    else:
        centres = _lloyd(sizes, count, _plus_plus(sizes, count, k, np.random.default_rng(seed)))
    return centres[np.argsort(centres.prod(1), kind="stable")]


def _plus_plus(sizes: Sizes, count: NDArray[np.int64], k: int, rng: np.random.Generator) -> Sizes:
    """Draw k sizes, each with probability proportional to the squared distance to those drawn before."""
    centres = sizes[[rng.choice(len(sizes), p=count / count.sum())]]
    while len(centres) < k:
        chance = count * (1 - shape_iou(sizes, centres).max(1)).clip(0) ** 2
        centres = np.concatenate([centres, sizes[[rng.choice(len(sizes), p=chance / chance.sum())]]])
    return centres


def _lloyd(sizes: Sizes, count: NDArray[np.int64], centres: Sizes, rounds: int = 300) -> Sizes:
    """Move each centre to its members' mean until no member changes; a centre without members stays."""
    member = None
    for _ in range(rounds):
        nearest = shape_iou(sizes, centres).argmax(1)
        if member is not None and np.array_equal(nearest, member):
            break
        member = nearest
        weight = np.bincount(member, count, len(centres))
        for axis in range(2):
            total = np.bincount(member, count * sizes[:, axis], len(centres))
            centres[:, axis] = np.where(weight > 0, total / np.maximum(weight, 1), centres[:, axis])
    return centres


def fitted_sizes(shards: Shards, size: tuple[int, int], fit: str) -> Sizes:
    """Return the widths and heights (n, 2) of boxes after resizing, pixels, without crowds. No image is opened.

    Args:
        size: (height, width) of the network's input; fit: "letterbox" or "stretch".
    """
    table = shards.table
    matrix = fit_matrix(table.height, table.width, size, fit)
    sizes = (table.boxes[:, 2:] - table.boxes[:, :2]) * matrix[:, [0, 1], [0, 1]][table.image]
    return sizes[(table.flags & CROWD == 0) & (sizes > 0).all(1)]


def from_shards(
    shards: Shards, size: tuple[int, int], fit: str = "letterbox", k: int = 5, seed: int = 0
) -> tuple[list[tuple[float, float]], float]:
    """Compute anchors for the boxes after resizing, without crowds. No image is opened.

    Args:
        size: (height, width) of the network's input; fit: "letterbox" or "stretch".

    Returns:
        k anchors (width, height) in units of 32 pixels by increasing area, and the mean best IoU of the boxes.

    Raises:
        ConfigError: the shards contain no usable box.
    """
    sizes = fitted_sizes(shards, size, fit) / STRIDE
    if not len(sizes):
        raise ConfigError(
            f"anchors = auto: {shards.path} (split {shards.split or 'all'}) holds no box to take them from"
        )
    anchors = kmeans(sizes, k, seed).round(4).clip(1e-4)
    return [(float(w), float(h)) for w, h in anchors], mean_iou(sizes, anchors)


def parse(text: str) -> list[tuple[float, float]]:
    """Parse anchors from "voc" or from "w,h,w,h,..." in units of 32 pixels.

    Raises:
        ConfigError: anything else.
    """
    if text == "voc":
        return list(VOC)
    try:
        values = [float(value) for value in text.split(",")]
    except ValueError:
        values = []
    if not values or len(values) % 2 or not all(0 < value < 1000 for value in values):
        raise ConfigError(
            f"anchors = {text!r}: expected auto, voc, or pairs of sizes in units of 32 pixels: w,h,w,h,..."
        )
    return list(zip(values[::2], values[1::2], strict=True))
