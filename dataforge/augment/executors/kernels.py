"""Legend: P images, h x w canvas pixels, H x W output pixels.

The executor for CUDA as one kernel: read uint8, sample with antialiasing, mix colours, apply the curve, erase,
normalise, write. It does in one pass over the pixels the steps that `device.paint` does one by one in plain torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import triton
import triton.language as tl
from numpy.typing import NDArray
from torch import Tensor

from dataforge.augment.executors.upload import send
from dataforge.augment.operations.geometry import FILL

TILE = (16, 32)  # rows and columns of the output per program


@triton.jit
def _within(place, side):  # type: ignore[no-untyped-def]
    """Return whether 0 <= place < side: as an unsigned number, a negative place is large."""
    return place.to(tl.uint32, bitcast=True) < side


@triton.jit
def _pixel(source):  # type: ignore[no-untyped-def]
    return tl.load(source).to(tl.int32).to(tl.float32)  # byte to float in one step uses a slower unit of the GPU


@triton.jit
def _channel(upper, lower, left, right, x1, x2, y1, y2, beyond, fill):  # type: ignore[no-untyped-def]
    """Return one channel: the weighted sum of four pixels, of two rows and two columns, and the fill colour."""
    first = x1 * _pixel(upper + left) + x2 * _pixel(upper + right)
    second = x1 * _pixel(lower + left) + x2 * _pixel(lower + right)
    return y1 * first + y2 * second + beyond * fill


@triton.jit  # type: ignore[untyped-decorator]
def _final(  # type: ignore[no-untyped-def]
    r,
    g,
    b,
    colour,
    curve,
    constants,
    erased,
    CURVE: tl.constexpr,  # noqa: N803
    ERASE: tl.constexpr,  # noqa: N803
    NORMALISE: tl.constexpr,  # noqa: N803
):
    """Return one channel of the output: by a row of the colour matrix, clipped; by the curve; erased; normalised."""
    value = tl.load(colour + 3) + tl.load(colour) * r + tl.load(colour + 1) * g + tl.load(colour + 2) * b
    value = tl.minimum(tl.maximum(value, 0.0), 1.0)
    if CURVE:
        value = tl.load(curve + (value * 255 + 0.5).to(tl.int32)).to(tl.float32) / 255
    if ERASE:
        value = tl.where(erased, tl.load(constants) / 255, value)
    if NORMALISE:
        value = value * tl.load(constants + 3) + tl.load(constants + 6)
    return value


@triton.jit  # type: ignore[untyped-decorator]
def _warp(  # type: ignore[no-untyped-def]
    canvas,
    numbers,
    curve,
    out,
    h,
    w,
    height,
    width,
    stride_p,
    stride_c,
    stride_y,
    stride_x,
    TAPS: tl.constexpr,  # noqa: N803
    AFFINE: tl.constexpr,  # noqa: N803
    CURVE: tl.constexpr,  # noqa: N803
    ERASE: tl.constexpr,  # noqa: N803
    NORMALISE: tl.constexpr,  # noqa: N803
    LAST: tl.constexpr,  # noqa: N803
    EVEN: tl.constexpr,  # noqa: N803
    ROWS: tl.constexpr,  # noqa: N803
    COLUMNS: tl.constexpr,  # noqa: N803
):
    image = tl.program_id(1).to(tl.int64)
    across = (width + COLUMNS - 1) // COLUMNS
    place = tl.arange(0, ROWS * COLUMNS)
    row = tl.program_id(0) // across * ROWS + place // COLUMNS
    column = tl.program_id(0) % across * COLUMNS + place % COLUMNS
    canvas += image * stride_p
    fill_r, fill_g, fill_b = tl.load(numbers), tl.load(numbers + 1), tl.load(numbers + 2)
    back = numbers + 9 + image * 25
    b0, b1, b2 = tl.load(back), tl.load(back + 1), tl.load(back + 2)
    b3, b4, b5 = tl.load(back + 3), tl.load(back + 4), tl.load(back + 5)
    b6, b7, b8 = tl.load(back + 6), tl.load(back + 7), tl.load(back + 8)
    x, y = column.to(tl.float32), row.to(tl.float32)
    r, g, b = 0.0, 0.0, 0.0
    for tap in tl.static_range(TAPS * TAPS):
        right, down = (tap % TAPS + 0.5) / TAPS, (tap // TAPS + 0.5) / TAPS
        sx = b0 * x + (b1 * y + (b2 + b0 * right + b1 * down))
        sy = b3 * x + (b4 * y + (b5 + b3 * right + b4 * down))
        if not AFFINE:
            z = b6 * x + (b7 * y + (b8 + b6 * right + b7 * down))
            ahead = z > 0  # else behind the horizon: far outside
            z = 1 / tl.where(ahead, z, 1.0)
            sx, sy = tl.where(ahead, sx * z, -2.0), tl.where(ahead, sy * z, -2.0)
        sx, sy = tl.minimum(tl.maximum(sx - 0.5, -2.0), w + 1.0), tl.minimum(tl.maximum(sy - 0.5, -2.0), h + 1.0)
        left, top = tl.floor(sx), tl.floor(sy)
        fx, fy = sx - left, sy - top
        ix, iy = left.to(tl.int32), top.to(tl.int32)
        # pixels outside have zero weight, and are read from the border
        x1, x2 = tl.where(_within(ix, w), 1 - fx, 0.0), tl.where(_within(ix + 1, w), fx, 0.0)
        y1, y2 = tl.where(_within(iy, h), 1 - fy, 0.0), tl.where(_within(iy + 1, h), fy, 0.0)
        beyond = 1 - (x1 + x2) * (y1 + y2)
        near = tl.minimum(tl.maximum(ix, 0), w - 1) * stride_x
        far = tl.minimum(tl.maximum(ix + 1, 0), w - 1) * stride_x
        upper = canvas + tl.minimum(tl.maximum(iy, 0), h - 1) * stride_y
        lower = canvas + tl.minimum(tl.maximum(iy + 1, 0), h - 1) * stride_y
        r += _channel(upper, lower, near, far, x1, x2, y1, y2, beyond, fill_r)
        upper, lower = upper + stride_c, lower + stride_c
        g += _channel(upper, lower, near, far, x1, x2, y1, y2, beyond, fill_g)
        upper, lower = upper + stride_c, lower + stride_c
        b += _channel(upper, lower, near, far, x1, x2, y1, y2, beyond, fill_b)
    colour, region = back + 9, back + 21
    x1, y1, x2, y2 = tl.load(region), tl.load(region + 1), tl.load(region + 2), tl.load(region + 3)
    erased = (column >= x1) & (column < x2) & (row >= y1) & (row < y2)
    curve += image * 256
    red = _final(r, g, b, colour, curve, numbers, erased, CURVE, ERASE, NORMALISE)
    green = _final(r, g, b, colour + 4, curve, numbers + 1, erased, CURVE, ERASE, NORMALISE)
    blue = _final(r, g, b, colour + 8, curve, numbers + 2, erased, CURVE, ERASE, NORMALISE)
    if out.dtype.element_ty == tl.uint8:
        red, green, blue = red * 255 + 0.5, green * 255 + 0.5, blue * 255 + 0.5
    # a pixel's three channels in one instruction: one each would write every third value of a line at a time
    channel = tl.arange(0, 4)[None, :]
    value = tl.where(channel == 0, red[:, None], tl.where(channel == 1, green[:, None], blue[:, None]))
    target = (row * width + column)[:, None]
    target = target * 3 + channel if LAST else target + channel * (height * width)
    out += image * 3 * height * width
    mine = channel < 3 if EVEN else (channel < 3) & ((row < height) & (column < width))[:, None]
    tl.store(out + target, value.to(out.dtype.element_ty), mask=mine)


def warp(
    canvas: Tensor,
    back: NDArray[Any],
    out: tuple[int, int],
    colour: NDArray[Any] | None = None,
    curve: NDArray[np.uint8] | None = None,
    erase: NDArray[Any] | None = None,
    *,
    fill: Sequence[float] = (FILL, FILL, FILL),
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    taps: int = 1,
    dtype: torch.dtype = torch.float32,
    memory_format: torch.memory_format = torch.channels_last,
) -> Tensor:
    """Warp, colour and normalise a batch of images in one pass.

    Args:
        canvas: (P, 3, h, w) uint8, in any layout.
        back: (P, 3, 3) output pixels to canvas pixels, edge coordinates.
        out: (H, W).
        colour: (P, 3, 4) on (r, g, b, 1) in 0..1; None leaves colours unchanged.
        curve: (P, 256) the new value of each old one.
        erase: (P, 4) xyxy output pixels that get the fill colour.
        fill: red, green, blue in 0..255 outside the canvas.
        mean, std: of the normalisation, in 0..1; None disables it.
        taps: an output pixel is the mean of taps x taps bilinear samples, against aliasing where the map shrinks by
            up to about 1.5 taps; it equals an image `taps` times as large, averaged.
        dtype: floating, or uint8, which gets 0..255 without normalisation.

    Returns:
        (P, 3, H, W) of `dtype`.
    """
    count, _, h, w = canvas.shape
    images = torch.empty((count, 3, *out), dtype=dtype, device=canvas.device, memory_format=memory_format)
    if not images.numel():
        return images
    numbers = np.zeros((count, 25))  # all parameters of the kernel, in one copy
    numbers[:, :9] = (back / back[:, 2:, 2:]).reshape(count, 9)
    mixed = np.eye(3, 4) if colour is None else colour  # of sums over the taps of 0..255
    numbers[:, 9:21] = (mixed * ([1 / (255 * taps * taps)] * 3 + [1])).reshape(-1, 12)
    if erase is not None:
        numbers[:, 21:] = erase
    means, stds = np.array(mean or [0.0] * 3), np.array(std or [1.0] * 3)
    constants = [*fill, *(1 / stds), *(-means / stds)]
    block = send(np.concatenate([constants, numbers.ravel()]), canvas.device)
    _warp[(triton.cdiv(out[0], TILE[0]) * triton.cdiv(out[1], TILE[1]), count)](
        canvas,
        block,
        canvas if curve is None else send(curve, canvas.device, torch.uint8),
        images,
        h,
        w,
        *out,
        *canvas.stride(),
        TAPS=taps,
        AFFINE=not back[:, 2, :2].any(),
        CURVE=curve is not None,
        ERASE=erase is not None,
        NORMALISE=mean is not None,
        LAST=memory_format == torch.channels_last,
        EVEN=out[0] % TILE[0] == out[1] % TILE[1] == 0,
        ROWS=TILE[0],
        COLUMNS=TILE[1],
        enable_fp_fusion=True,  # a fused multiply-add is as good here, and Triton warns if this is unset
    )
    return images
