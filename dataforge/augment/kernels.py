"""Legend: P images, h x w canvas pixels, H x W output pixels.

The executor for CUDA as one kernel: read uint8, sample with antialiasing, mix colours, normalise, write. It does what
`device.render` and `device.tint` do one after another, in one pass over the pixels.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from dataforge.augment.geometry import FILL


@triton.jit
def _corner(source, x, y, there, h, w, stride_y, stride_x, fill):  # type: ignore[no-untyped-def]
    """One channel's values at whole pixels x, y; the fill colour outside."""
    inside = there & (x >= 0) & (x < w) & (y >= 0) & (y < h)
    value = tl.load(source + y.to(tl.int64) * stride_y + x * stride_x, mask=inside, other=0).to(tl.float32)
    return tl.where(inside, value, fill)


@triton.jit
def _channel(source, x, y, fx, fy, there, h, w, stride_y, stride_x, fill):  # type: ignore[no-untyped-def]
    """One channel, bilinear between the four pixels from x, y on."""
    upper = _corner(source, x, y, there, h, w, stride_y, stride_x, fill) * (1 - fx)
    upper += _corner(source, x + 1, y, there, h, w, stride_y, stride_x, fill) * fx
    lower = _corner(source, x, y + 1, there, h, w, stride_y, stride_x, fill) * (1 - fx)
    lower += _corner(source, x + 1, y + 1, there, h, w, stride_y, stride_x, fill) * fx
    return upper * (1 - fy) + lower * fy


@triton.jit
def _mixed(colour, row, r, g, b, scale, shift):  # type: ignore[no-untyped-def]
    """One channel of the output: a row of the colour matrix, clipped, then normalised."""
    value = tl.load(colour + row * 4) * r + tl.load(colour + row * 4 + 1) * g + tl.load(colour + row * 4 + 2) * b
    value = tl.minimum(tl.maximum(value + tl.load(colour + row * 4 + 3), 0.0), 1.0)
    return value * tl.load(scale + row) + tl.load(shift + row)


@triton.jit  # type: ignore[untyped-decorator]
def _warp(  # type: ignore[no-untyped-def]
    canvas,
    back,
    colour,
    constants,
    out,
    h,
    w,
    height,
    width,
    canvas_p,
    canvas_c,
    canvas_y,
    canvas_x,
    out_p,
    out_c,
    out_y,
    out_x,
    TAPS: tl.constexpr,  # noqa: N803
    BLOCK: tl.constexpr,  # noqa: N803
):
    image = tl.program_id(1).to(tl.int64)
    place = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    mine = place < height * width
    row, column = place // width, place % width
    canvas += image * canvas_p
    back += image * 9
    colour += image * 12
    fill_r, fill_g, fill_b = tl.load(constants), tl.load(constants + 1), tl.load(constants + 2)
    b0, b1, b2 = tl.load(back), tl.load(back + 1), tl.load(back + 2)
    b3, b4, b5 = tl.load(back + 3), tl.load(back + 4), tl.load(back + 5)
    b6, b7, b8 = tl.load(back + 6), tl.load(back + 7), tl.load(back + 8)
    r = tl.full([BLOCK], 0.0, tl.float32)
    g = tl.full([BLOCK], 0.0, tl.float32)
    b = tl.full([BLOCK], 0.0, tl.float32)
    for tap in tl.static_range(TAPS * TAPS):
        x = column.to(tl.float32) + (tap % TAPS + 0.5) / TAPS
        y = row.to(tl.float32) + (tap // TAPS + 0.5) / TAPS
        z = b6 * x + b7 * y + b8
        ahead = z > 0
        z = tl.where(ahead, z, 1.0)
        sx, sy = (b0 * x + b1 * y + b2) / z - 0.5, (b3 * x + b4 * y + b5) / z - 0.5
        there = mine & ahead & (sx > -2) & (sx < w + 1) & (sy > -2) & (sy < h + 1)
        sx, sy = tl.where(there, sx, -2.0), tl.where(there, sy, -2.0)
        left, top = tl.floor(sx), tl.floor(sy)
        fx, fy = sx - left, sy - top
        ix, iy = left.to(tl.int32), top.to(tl.int32)
        r += _channel(canvas, ix, iy, fx, fy, there, h, w, canvas_y, canvas_x, fill_r)
        g += _channel(canvas + canvas_c, ix, iy, fx, fy, there, h, w, canvas_y, canvas_x, fill_g)
        b += _channel(canvas + 2 * canvas_c, ix, iy, fx, fy, there, h, w, canvas_y, canvas_x, fill_b)
    share = 1 / (255.0 * TAPS * TAPS)
    r, g, b = r * share, g * share, b * share
    scale, shift = constants + 3, constants + 6
    target = out + image * out_p + row.to(tl.int64) * out_y + column * out_x
    kind = out.dtype.element_ty
    tl.store(target, _mixed(colour, 0, r, g, b, scale, shift).to(kind), mask=mine)
    tl.store(target + out_c, _mixed(colour, 1, r, g, b, scale, shift).to(kind), mask=mine)
    tl.store(target + 2 * out_c, _mixed(colour, 2, r, g, b, scale, shift).to(kind), mask=mine)


def warp(
    canvas: Tensor,
    matrix: Tensor,
    out: tuple[int, int],
    colour: Tensor | None = None,
    *,
    fill: Sequence[float] = (FILL, FILL, FILL),
    mean: Sequence[float] = (0.0, 0.0, 0.0),
    std: Sequence[float] = (1.0, 1.0, 1.0),
    taps: int = 1,
    dtype: torch.dtype = torch.float32,
    memory_format: torch.memory_format = torch.channels_last,
) -> Tensor:
    """Move, colour and normalise a batch of images in one pass.

    Args:
        canvas: (P, 3, h, w) uint8, in any layout.
        matrix: (P, 3, 3) float32, canvas pixels to output pixels, edge coordinates.
        out: (H, W).
        colour: (P, 3, 4) on (r, g, b, 1) in 0..1; None leaves colours as they are.
        fill: red, green, blue in 0..255 outside the canvas.
        mean, std: of the normalisation, in 0..1.
        taps: an output pixel is the mean of taps x taps bilinear samples, against aliasing where the map shrinks by
            up to about 1.5 taps; it is the same as a picture `taps` times as large, averaged.

    Returns:
        (P, 3, H, W) of `dtype`.
    """
    count, _, h, w = canvas.shape
    images = torch.empty((count, 3, *out), dtype=dtype, device=canvas.device, memory_format=memory_format)
    if colour is None:
        colour = torch.eye(3, 4, device=canvas.device).expand(count, 3, 4)
    constants = [*fill, *(1 / s for s in std), *(-m / s for m, s in zip(mean, std, strict=True))]
    host = torch.tensor(constants, dtype=torch.float32)
    block = 256
    if count:
        _warp[(triton.cdiv(out[0] * out[1], block), count)](
            canvas,
            torch.linalg.inv_ex(matrix.float()).inverse.contiguous(),  # `inv` would wait for the device, to raise
            colour.float().contiguous(),
            host.to(canvas.device, non_blocking=True),
            images,
            h,
            w,
            *out,
            *canvas.stride(),
            *images.stride(),
            TAPS=taps,
            BLOCK=block,
        )
    return images
