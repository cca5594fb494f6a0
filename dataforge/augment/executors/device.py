"""Legend: P parts, B images, h x w canvas pixels, H x W output pixels.

The executor of whole batches, on any device: the fused kernel where it runs, else plain torch, which is also the
reference in tests of the kernel and the CPU executor. No function here makes the host wait for the device.
"""

from __future__ import annotations

import warnings
from functools import cache
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from dataforge.augment.executors.upload import send
from dataforge.augment.layout import Layout


def paint(
    canvas: Tensor, matrix: NDArray[Any], layout: Layout, out: tuple[int, int], dtype: torch.dtype = torch.float32
) -> Tensor:
    """Paint the images of a batch.

    Args:
        canvas: (P, 3, h, w) uint8, each part's source, damaged, shrunken and smoothed, in the upper left corner; the
            rest is never visible if it has the recipe's fill colour.
        matrix: (P, 3, 3) canvas pixels to output pixels.
        layout: of the batch.
        out: (H, W).
        dtype: floating, or uint8, which gets 0..255 without normalisation.

    Returns:
        (B, 3, H, W), channels-last: 0..1, or normalised.
    """
    p, place = layout.parameters, canvas.device
    back = np.linalg.inv(matrix)
    own = layout.first[:-1]
    erase = None if p.erase is None else p.erase[own]
    combined = len(layout.parts.owner) > len(own)
    kernels = None if combined else fused(place)
    if kernels is None:
        images = _in_torch(canvas, back, layout, out, erase)
    elif not p.kornia:
        how = {"fill": p.fill, "mean": p.mean, "std": p.std, "dtype": dtype}
        done: Tensor = kernels.warp(canvas, back, out, p.colour, p.curve, erase, **how)
        return done
    else:
        images = kernels.warp(canvas, back, out, p.colour, p.curve, erase, fill=p.fill)
    if p.kornia:
        from dataforge.augment.executors import kornia

        images = kornia.apply(images, p.kornia, own)
    if p.mean is not None and p.std is not None:
        mean, std = (send(np.array(three), place).view(3, 1, 1) for three in (p.mean, p.std))
        images = (images - mean) / std
    if dtype == torch.uint8:
        images = (images * 255).round()
    return images.to(dtype, memory_format=torch.channels_last)


def _in_torch(
    canvas: Tensor, back: NDArray[Any], layout: Layout, out: tuple[int, int], erase: NDArray[Any] | None
) -> Tensor:
    """Return (B, 3, H, W) float32 in 0..1: the kernel's work in plain torch, also for combined records."""
    p, place = layout.parameters, canvas.device
    shade = send(np.array(p.fill), place)
    images = render(canvas, send(back, place), out, shade)
    if p.colour is not None:
        images = tint(images, send(p.colour, place))
    if p.curve is not None:
        images = bend(images, send(p.curve, place))
    if len(images) >= len(layout.first):
        images = _assemble(images, layout)
    if erase is not None:
        images = torch.where(_inside(send(erase, place), out), shade.view(3, 1, 1) / 255, images)
    return images


@cache
def fused(place: torch.device) -> Any:
    """Return the module `kernels` if its kernel runs on a device, else None.

    It needs CUDA, Triton, which PyTorch's CUDA builds include on Linux, and a C compiler, which Triton calls.
    """
    if place.type != "cuda":
        return None
    try:
        from dataforge.augment.executors import kernels

        kernels.warp(torch.zeros((1, 3, 1, 1), dtype=torch.uint8, device=place), np.eye(3)[None], (1, 1))
    except ImportError:
        return None
    except Exception as error:  # Triton's compiler, the C compiler and the driver raise different types
        warnings.warn(f"images are painted by plain torch, the fused kernel does not run here: {error}", stacklevel=2)
        return None
    return kernels


def render(canvas: Tensor, back: Tensor, out: tuple[int, int], fill: Tensor) -> Tensor:
    """Warp a batch of images by one bilinear interpolation.

    Args:
        canvas: (P, 3, h, w) uint8; images in the upper left corner, the rest in the fill colour.
        back: (P, 3, 3) float32, output pixels to canvas pixels, edge coordinates.
        out: (H, W).
        fill: (3,) red, green, blue in 0..255 outside the canvas.

    Returns:
        (P, 3, H, W) float32 in 0..1.
    """
    h, w = canvas.shape[-2:]
    y = torch.arange(out[0], device=canvas.device) + 0.5
    x = torch.arange(out[1], device=canvas.device) + 0.5
    points = torch.stack([*torch.meshgrid(x, y, indexing="xy"), torch.ones(out, device=canvas.device)], -1)
    moved = torch.einsum("pij,hwj->phwi", back, points)
    # behind the horizon: far outside; grid_sample counts from -1 to 1 over the canvas, whose edges are ours
    x, y = (torch.where(moved[..., 2] > 0, moved[..., axis] / moved[..., 2], 1e6) for axis in (0, 1))
    grid = torch.stack([x * (2 / w) - 1, y * (2 / h) - 1], -1)
    shade = fill.view(3, 1, 1)  # grid_sample returns zero outside, hence the shift by the fill colour
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
    """Return (P, 1, H, W), which pixels lie in regions (P, 4) xyxy."""
    y, x = (torch.arange(side, device=region.device) for side in out)
    x1, y1, x2, y2 = region[:, :, None].unbind(1)
    return (((y >= y1) & (y < y2))[:, :, None] & ((x >= x1) & (x < x2))[:, None])[:, None]


def _assemble(images: Tensor, layout: Layout) -> Tensor:
    """Return images (B, 3, H, W) composed of their parts (P, 3, H, W), painted one over another."""
    parts, place = layout.parts, images.device
    first = send(layout.first, place, torch.int64)
    region, weight = send(parts.region, place), send(parts.weight, place)
    share = _inside(region, (images.shape[2], images.shape[3])) * weight.view(-1, 1, 1, 1)
    count = first[1:] - first[:-1]
    pictures = images[first[:-1]]
    for k in range(1, int((layout.first[1:] - layout.first[:-1]).max())):
        part = torch.where(k < count, first[:-1] + k, 0)
        pictures = torch.lerp(pictures, images[part], share[part] * (k < count).view(-1, 1, 1, 1))
    return pictures
