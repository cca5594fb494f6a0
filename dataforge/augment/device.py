"""Legend: P parts, B pictures, h x w canvas pixels, H x W output pixels.

The executor in plain torch: a whole batch at once, on any device. It is also what the CPU's is tested against.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from dataforge.augment.geometry import FILL
from dataforge.augment.layout import Layout


def paint(canvas: Tensor, matrix: NDArray[Any], layout: Layout, out: tuple[int, int]) -> Tensor:
    """Paint the pictures of a batch.

    Args:
        canvas: (P, 3, h, w) uint8, each part's source, damaged, shrunken and smoothed on the host, in the upper left
            corner; what lies beyond is never seen if it has the recipe's fill colour.
        matrix: (P, 3, 3) canvas pixels to output pixels.
        layout: of the batch.
        out: (H, W).

    Returns:
        (B, 3, H, W) float32 in 0..1, or what the normalisation makes of it.
    """
    p, place = layout.parameters, canvas.device

    def on(array: NDArray[Any], kind: torch.dtype = torch.float32) -> Tensor:
        return torch.from_numpy(array).to(kind).to(place, non_blocking=True)

    images = render(canvas, on(matrix), out, p.fill)
    if p.colour is not None:
        images = tint(images, on(p.colour))
    if p.curve is not None:
        images = bend(images, on(p.curve))
    if len(layout.parts.owner) > len(layout.first) - 1:
        images = _assemble(images, layout, on)
    if p.erase is not None:
        inside = _inside(on(p.erase[layout.first[:-1]]), out)
        images = torch.where(inside, images.new_tensor(p.fill).view(3, 1, 1) / 255, images)
    if p.mean is not None and p.std is not None:
        images = (images - images.new_tensor(p.mean).view(3, 1, 1)) / images.new_tensor(p.std).view(3, 1, 1)
    return images


def render(canvas: Tensor, matrix: Tensor, out: tuple[int, int], fill: int | tuple[int, int, int] = FILL) -> Tensor:
    """Warp a batch of images by one bilinear interpolation.

    Args:
        canvas: (P, 3, h, w) uint8; images in the upper left corner, the rest filled with `fill`.
        matrix: (P, 3, 3) float32, canvas pixels to output pixels, edge coordinates.
        out: (H, W).

    Returns:
        (P, 3, H, W) float32 in 0..1.
    """
    h, w = canvas.shape[-2:]
    # Pixel centres of the output, back to -1..1 over the canvas, whose edges are ours: one map for each image.
    unit = matrix.new_tensor([[2 / w, 0, -1], [0, 2 / h, -1], [0, 0, 1]])
    back = unit @ torch.linalg.inv(matrix)
    y = torch.arange(out[0], device=canvas.device) + 0.5
    x = torch.arange(out[1], device=canvas.device) + 0.5
    points = torch.stack([*torch.meshgrid(x, y, indexing="xy"), torch.ones(out, device=canvas.device)], -1)
    moved = torch.einsum("pij,hwj->phwi", back, points)
    grid = torch.where(moved[..., 2:] > 0, moved[..., :2] / moved[..., 2:], 1e6)  # behind the horizon: far outside
    # outside is zero for grid_sample, hence the shift by the fill colour
    shade = matrix.new_tensor([fill] * 3 if isinstance(fill, int) else fill).view(3, 1, 1)
    sampled = F.grid_sample(canvas.float() - shade, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
    return (sampled + shade) / 255


def tint(images: Tensor, colour: Tensor) -> Tensor:
    """Apply colour matrices, and clip.

    Args:
        images: (P, 3, H, W) float32 in 0..1.
        colour: (P, 3, 4).
    """
    mixed = torch.einsum("bij,bjhw->bihw", colour[:, :, :3], images) + colour[:, :, 3, None, None]
    return mixed.clamp(0, 1)


def bend(images: Tensor, curve: Tensor) -> Tensor:
    """Replace values by tables.

    Args:
        images: (P, 3, H, W) float32 in 0..1.
        curve: (P, 256) new values in 0..255.
    """
    old = (images * 255).round().long()
    return (curve / 255).gather(1, old.flatten(1)).view_as(images)


def _inside(region: Tensor, out: tuple[int, int]) -> Tensor:
    """(P, 1, H, W) which pixels lie in regions (P, 4) xyxy."""
    y, x = (torch.arange(side, device=region.device) for side in out)
    x1, y1, x2, y2 = region[:, :, None].unbind(1)
    return (((y >= y1) & (y < y2))[:, :, None] & ((x >= x1) & (x < x2))[:, None])[:, None]


def _assemble(images: Tensor, layout: Layout, on: Any) -> Tensor:
    """Pictures (B, 3, H, W) from their parts (P, 3, H, W), painted one over another."""
    parts, first = layout.parts, on(layout.first, torch.int64)
    share = _inside(on(parts.region), (images.shape[2], images.shape[3])) * on(parts.weight).view(-1, 1, 1, 1)
    count = first[1:] - first[:-1]
    pictures = images[first[:-1]]
    for k in range(1, int((layout.first[1:] - layout.first[:-1]).max())):
        part = torch.where(k < count, first[:-1] + k, 0)
        weight = share[part] * (k < count).view(-1, 1, 1, 1)
        pictures = torch.lerp(pictures, images[part], weight)
    return pictures
