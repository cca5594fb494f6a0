"""Legend: B images, h x w canvas pixels, H x W output pixels.

The executor in plain torch: a whole batch at once, on any device. It is also what the CPU's is tested against.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from dataforge.augment.geometry import FILL


def render(canvas: Tensor, matrix: Tensor, out: tuple[int, int], fill: int = FILL) -> Tensor:
    """Warp a batch of images by one bilinear interpolation.

    Args:
        canvas: (B, 3, h, w) uint8; images in the upper left corner, the rest filled with `fill`.
        matrix: (B, 3, 3) float32, canvas pixels to output pixels, edge coordinates.
        out: (H, W).

    Returns:
        (B, 3, H, W) float32 in 0..1.
    """
    h, w = canvas.shape[-2:]
    inverse = torch.linalg.inv(matrix)
    # affine_grid speaks of -1..1 over both pictures, whose edges are ours
    to_pixels = matrix.new_tensor([[out[1] / 2, 0, out[1] / 2], [0, out[0] / 2, out[0] / 2], [0, 0, 1]])
    from_pixels = matrix.new_tensor([[2 / w, 0, -1], [0, 2 / h, -1], [0, 0, 1]])
    theta = (from_pixels @ inverse @ to_pixels)[:, :2]
    grid = F.affine_grid(theta, [len(canvas), 3, *out], align_corners=False)
    # outside is zero for grid_sample, hence the shift by the fill colour
    moved = F.grid_sample(canvas.float() - fill, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
    return (moved + fill) / 255


def tint(images: Tensor, colour: Tensor) -> Tensor:
    """Apply colour matrices, and clip.

    Args:
        images: (B, 3, H, W) float32 in 0..1.
        colour: (B, 3, 4).
    """
    mixed = torch.einsum("bij,bjhw->bihw", colour[:, :, :3], images) + colour[:, :, 3, None, None]
    return mixed.clamp(0, 1)
