"""Legend: P priors.

SSD's priors (arXiv 1512.02325, section 2.2): boxes of several shapes at every cell of several maps.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from dataforge.shards.reader import Shards
from trainers.models import anchors

RATIOS = {6: ((2,), (2, 3), (2, 3), (2, 3), (2,), (2,)), 7: ((2,), (2, 3), (2, 3), (2, 3), (2, 3), (2,), (2,))}
SCALES = {  # sides of the square priors as shares of the image, and one more for the last map's second square
    ("paper", 6): (0.1, 0.2, 0.375, 0.55, 0.725, 0.9, 1.0),
    ("torchvision", 6): (0.07, 0.15, 0.33, 0.51, 0.69, 0.87, 1.05),
    ("paper", 7): (0.07, 0.15, 0.3, 0.45, 0.6, 0.75, 0.9, 1.05),
}
STEPS = (8.0, 16.0, 32.0, 64.0, 100.0, 300.0)  # pixels between torchvision's priors


def scales_of(shards: Shards, size: tuple[int, int], fit: str, fixed: Sequence[float]) -> list[float]:
    """Return the sides of square priors as shares of the input, for a training split's boxes.

    The smallest is the 10th percentile of the square roots of the boxes' areas. The sides double from map to map, up to
    the fixed ones, or grow faster, so that they are the fixed ones from the middle map on: large objects keep theirs.
    """
    sizes = anchors.fitted_sizes(shards, size, fit)
    shares = np.sqrt(sizes.prod(1) / np.prod(size))
    least = float(np.percentile(shares, 10)) if len(shares) else fixed[0]
    middle = len(fixed) // 2
    growth = max(2.0, (fixed[middle] / least) ** (1 / middle))
    return [min(least * growth**level, side) for level, side in enumerate(fixed)]


def priors(
    size: tuple[int, int], maps: Sequence[tuple[int, int]], style: str = "paper", scales: Sequence[float] = ()
) -> Tensor:
    """Return boxes of several shapes at every cell of every map (section 2.2, "Choosing scales and aspect ratios").

    Boxes are not clipped, except that torchvision's sides are at most the image's.

    Args:
        size: (height, width) of the network's input; maps: (rows, columns) of each map.
        scales: as in `SCALES`; those of the style if empty.

    Returns:
        (P, 4) xyxy pixels, in the order map, row, column, shape: square, larger square, then each ratio wide and tall.
    """
    height, width = size
    scales, boxes = scales or SCALES[style, len(maps)], []
    for level, (rows, columns) in enumerate(maps):
        side, larger = scales[level], (scales[level] * scales[level + 1]) ** 0.5
        shapes = [(side, side), (larger, larger)]
        for ratio in RATIOS[len(maps)][level]:
            long, short = side * ratio**0.5, side / ratio**0.5
            shapes += [(long, short), (short, long)]
        limit = 1.0 if style == "torchvision" else float("inf")
        pixels = torch.tensor(shapes).clamp(max=limit) * torch.tensor([width, height])
        step = (height / rows, width / columns) if style == "paper" else (STEPS[level], STEPS[level])
        boxes.append(anchors.grid(pixels, rows, columns, step, 0.5))
    return torch.cat(boxes)
