"""The CPU executor: one image at a time, in a decode thread, while its pixels are in the cache.

All steps work on uint8, in memory that a thread reuses for its next image; the last step writes to the batch.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from dataforge.augment.executors.antialias import filtered, filters, from_blocks, shrink_factors, smooth
from dataforge.augment.layout import Layout
from dataforge.augment.operations.geometry import FILL, Shape, scaled
from dataforge.augment.parameters import Parameters
from dataforge.images.decode import shrink

Pixels = NDArray[np.uint8]
Matrix = NDArray[np.float64]
_scratch = threading.local()

_FROM_CENTRES = np.array([[1, 0, 0.5], [0, 1, 0.5], [0, 0, 1]])  # OpenCV counts from pixel centres, we from edges
_TO_CENTRES = np.linalg.inv(_FROM_CENTRES)


def warp(
    pixels: Pixels,
    matrix: Matrix,
    out: Shape,
    fill: int | tuple[int, int, int] = FILL,
    dst: Pixels | None = None,
    reduced: bool = False,
) -> Pixels:
    """Warp an image by a matrix in one bilinear interpolation, with as much averaging as shrinking needs.

    Args:
        pixels: (height, width, 3) uint8.
        matrix: (3, 3) source to output pixels, edge coordinates.
        out: the output's (height, width).
        fill: red, green, blue, or a grey, outside the source.
        dst: (H, W, 3) memory to write to.
        reduced: as for `antialias.smooth`.
    """
    size = pixels.shape[:2]
    factors = shrink_factors(matrix, size)
    x, y = filters(matrix, size, factors, reduced)
    if factors != (1, 1) or x is not y:
        pixels, matrix = _part(pixels, matrix, out, factors)
        pixels, matrix = filtered(shrink(pixels, factors), x, y), from_blocks(matrix, factors)
    return _warp(pixels, matrix, out, fill, dst)


def _warp(pixels: Pixels, matrix: Matrix, out: Shape, fill: int | tuple[int, int, int], dst: Pixels | None) -> Pixels:
    resized, size = _whole_pixels(pixels, matrix, out), (out[1], out[0])
    colour = (fill, fill, fill) if isinstance(fill, int) else fill
    dst = np.empty((*out, *pixels.shape[2:]), np.uint8) if dst is None else dst
    if resized is not None:
        source, target, mirrored = resized
        seen = dst[target]
        if seen.size < dst.size:
            cv2.rectangle(dst, (0, 0), size, colour, cv2.FILLED)
        cv2.resize(pixels[source], seen.shape[1::-1], dst=seen, interpolation=cv2.INTER_LINEAR)
        if mirrored is not None:
            cv2.flip(seen, mirrored, dst=seen)
        return dst
    centred = _TO_CENTRES @ matrix @ _FROM_CENTRES
    how: dict[str, Any] = {"flags": cv2.INTER_LINEAR, "borderValue": colour}
    if matrix[2, 0] or matrix[2, 1]:
        return cv2.warpPerspective(pixels, centred, size, dst=dst, **how)  # type: ignore[return-value]
    left, top, right, bottom = _reach(pixels, matrix, out)
    if (right - left) * (bottom - top) < out[0] * out[1]:
        cv2.rectangle(dst, (0, 0), size, colour, cv2.FILLED)
    if left < right and top < bottom:
        move = centred[:2] / centred[2, 2] - [[0, 0, left], [0, 0, top]]
        cv2.warpAffine(pixels, move, (right - left, bottom - top), dst=dst[top:bottom, left:right], **how)
    return dst


def _reach(pixels: Pixels, matrix: Matrix, out: Shape) -> list[int]:
    """Return xyxy of the output's part that depends on pixels; filling the rest is faster than warping it."""
    (height, width), low, high = pixels.shape[:2], [], []
    for (a, b, c), side in zip((matrix[:2] / matrix[2, 2]).tolist(), out[::-1], strict=True):
        ends, margin = (0.0, a * width, b * height, a * width + b * height), (1 + abs(a) + abs(b)) / 2
        low.append(min(max(math.floor(c + min(ends) - margin), 0), side))
        high.append(min(max(math.ceil(c + max(ends) + margin), 0), side))
    return low + high


def _whole_pixels(
    pixels: Pixels, matrix: Matrix, out: Shape
) -> tuple[tuple[slice, slice], tuple[slice, slice], int | None] | None:
    """Return the visible rows and columns, those of the output that they fill, and OpenCV's code of their mirroring.

    If they are whole pixels of both, a resize gives the same as a warp, in two thirds of the time and with finer
    weights. It must not enlarge: at an image's edge the resize repeats the last pixels, while the warp fades into the
    fill colour.

    Returns:
        None if they are not whole pixels, or if the matrix does more than shrink, mirror and shift.
    """
    if matrix[0, 1] or matrix[1, 0] or matrix[2, 0] or matrix[2, 1]:
        return None
    sources, targets, mirrored = [], [], []
    for axis, side in ((1, out[0]), (0, out[1])):
        scale, shift, length = float(matrix[axis, axis]), float(matrix[axis, 2]), pixels.shape[1 - axis]
        ends = sorted((shift, shift + scale * length))
        low, high = max(ends[0], 0.0), min(ends[1], float(side))
        first, last = round(low), round(high)
        if abs(scale) > 1 or first >= last or abs(low - first) > 1e-3 or abs(high - last) > 1e-3:
            return None
        back = sorted(((first - shift) / scale, (last - shift) / scale))
        begin, end = round(back[0]), round(back[1])
        if abs(back[0] - begin) > 1e-3 or abs(back[1] - end) > 1e-3 or begin < 0 or end > length:
            return None
        sources.append(slice(begin, end))
        targets.append(slice(first, last))
        mirrored.append(scale < 0)
    code = {(False, False): None, (True, False): 0, (False, True): 1, (True, True): -1}[mirrored[0], mirrored[1]]
    return (sources[0], sources[1]), (targets[0], targets[1]), code


def _part(pixels: Pixels, matrix: Matrix, out: Shape, factors: tuple[int, int]) -> tuple[Pixels, Matrix]:
    """Return the part of an image that is visible in the output, with a margin, and its matrix, to average less."""
    if matrix[2, 0] or matrix[2, 1]:
        return pixels, matrix
    back = cv2.invertAffineTransform(matrix[:2] / matrix[2, 2]).tolist()  # plain floats are faster
    cuts = []
    for (a, b, c), step, side in zip(back, factors[::-1], (pixels.shape[1], pixels.shape[0]), strict=True):
        low = c + min(0.0, a * out[1]) + min(0.0, b * out[0])
        high = c + max(0.0, a * out[1]) + max(0.0, b * out[0])
        first = min(max(int(low / step - 4), 0), (side - 1) // step) * step
        cuts.append((first, min(max(int(high / step + 4) * step, first + 1), side)))
    (left, right), (top, bottom) = cuts
    return pixels[top:bottom, left:right], matrix @ np.array([[1, 0, left], [0, 1, top], [0, 0, 1.0]])


def damage(pixels: Pixels, p: Parameters, i: int) -> Pixels:
    """Apply image i's `DAMAGE` operations, in their order.

    Args:
        pixels: (height, width, 3), not modified.
    """
    for name, apply in _DAMAGE.items():
        strength = p.damage[name][i] if name in p.damage else 0.0
        if strength > 0:
            pixels = apply(pixels, float(strength), 0 if p.seed is None else int(p.seed[i]))
    return pixels


def _equalise(pixels: Pixels, strength: float, seed: int) -> Pixels:
    ycc = cv2.cvtColor(pixels, cv2.COLOR_RGB2YCrCb)
    ycc[:, :, 0] = cv2.equalizeHist(ycc[:, :, 0])
    return cv2.cvtColor(ycc, cv2.COLOR_YCrCb2RGB)  # type: ignore[return-value]


def _blur(pixels: Pixels, strength: float, seed: int) -> Pixels:
    return cv2.GaussianBlur(pixels, (0, 0), strength)  # type: ignore[return-value]


def _noise(pixels: Pixels, strength: float, seed: int) -> Pixels:
    grain = np.random.default_rng(seed).standard_normal(pixels.shape, np.float32)
    return cv2.addWeighted(pixels, 1, grain, 255 * strength, 0, dtype=cv2.CV_8U)  # type: ignore[return-value]


def _jpeg(pixels: Pixels, strength: float, seed: int) -> Pixels:
    _, data = cv2.imencode(".jpg", pixels[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, int(strength)])
    return cv2.imdecode(data, cv2.IMREAD_COLOR_RGB)  # type: ignore[return-value]


_DAMAGE: dict[str, Callable[[Pixels, float, int], Pixels]] = {
    "equalise": _equalise,
    "blur": _blur,
    "noise": _noise,
    "jpeg": _jpeg,
}


def ready(pixels: Pixels, matrix: Matrix, p: Parameters, i: int, reduced: bool) -> tuple[Pixels, Matrix]:
    """Return image i shrunken, damaged and smoothed, ready for a plain bilinear warp, and that warp's matrix.

    Args: as for `paint`.
    """
    factors = shrink_factors(matrix, pixels.shape[:2])
    pixels = smooth(damage(shrink(pixels, factors), p, i), matrix, factors, reduced)
    return pixels, from_blocks(matrix, factors)


def paint(
    pixels: Pixels,
    matrix: Matrix,
    p: Parameters,
    i: int,
    canvas: Pixels,
    weight: float = 1.0,
    reduced: bool = False,
) -> None:
    """Paint image i, or one part of a combined image, at its position.

    Args:
        pixels: (height, width, 3) the source, or a reduced one.
        matrix: (3, 3) from `pixels` to the pixels of `canvas`.
        canvas: (h, w, 3) uint8, all of which is painted; it may be a view of a larger one.
        weight: below 1, the weight against the present content.
        reduced: as for `antialias.smooth`.
    """
    if not canvas.size:
        return
    shape = (canvas.shape[0], canvas.shape[1])
    target = canvas if weight == 1 else memory("blend", shape)
    if p.damage:
        pixels, matrix = ready(pixels, matrix, p, i, reduced)
        _warp(pixels, matrix, shape, p.fill, target)
    else:
        warp(pixels, matrix, shape, p.fill, target, reduced)
    if p.colour is not None:
        colour = p.colour[i] * [1, 1, 1, 255]
        cv2.transform(target, colour, dst=target)
    if p.curve is not None:
        cv2.LUT(target, p.curve[i], dst=target)
    if weight != 1:
        cv2.addWeighted(target, weight, canvas, 1 - weight, 0, dst=canvas)


def finish(canvas: Pixels, p: Parameters, i: int, out: NDArray[Any]) -> None:
    """Erase, apply the steps of kornia, and write a painted image into its batch.

    Args:
        canvas: (H, W, 3) uint8; it may be `out` itself.
        i: the index of the image's own record in the parameters.
        out: (H, W, 3), uint8 or float32, which gets 0..1, normalised if the recipe does so.
    """
    if p.erase is not None:
        x1, y1, x2, y2 = p.erase[i]
        canvas[y1:y2, x1:x2] = p.fill
    levels: NDArray[Any] = canvas
    if any(step.chosen[i] for step in p.kornia):
        from dataforge.augment.executors import kornia  # imports torch, which this file does not need otherwise

        levels = kornia.picture(canvas, p.kornia, i)
    if out.dtype == np.uint8:
        if levels is not out:
            out[...] = levels if levels is canvas else levels.round()
        return
    if p.mean is None or p.std is None:
        np.copyto(out, levels)
        np.multiply(out, np.float32(1 / 255), out=out)
    else:
        factor = 1 / np.array(p.std)
        whole = memory("floats", (out.shape[0], out.shape[1]), np.float32)  # in the cache, where `out` is not
        np.copyto(whole, levels)
        cv2.transform(whole, np.column_stack([np.diag(factor / 255), -factor * p.mean]), dst=out)


def picture(layout: Layout, i: int, pixels_of: Callable[[int], Pixels], out: NDArray[Any]) -> None:
    """Paint image i of a batch, part by part.

    Args:
        pixels_of: returns a record's (height, width, 3) pixels.
        out: as for `finish`.
    """
    canvas = out if out.dtype == np.uint8 else memory("canvas", (out.shape[0], out.shape[1]))
    parts, p = layout.parts, layout.parameters
    for part in range(layout.first[i], layout.first[i + 1]):
        x1, y1, x2, y2 = parts.region[part].tolist()
        matrix = scaled(1, 1, -x1, -y1) @ p.matrix[part]
        where = canvas[y1:y2, x1:x2]
        paint(pixels_of(int(parts.record[part])), matrix, p, part, where, float(parts.weight[part]))
    finish(canvas, p, int(layout.first[i]), out)


def memory(purpose: str, shape: Shape, kind: type[np.generic] = np.uint8) -> NDArray[Any]:
    """Return this thread's (H, W, 3) array with arbitrary content; the next call with that shape returns it again."""
    held: dict[tuple[str, Shape], NDArray[Any]] = _scratch.__dict__.setdefault("held", {})
    if (purpose, shape) not in held:
        held[purpose, shape] = np.empty((*shape, 3), kind)
    return held[purpose, shape]


def render(pixels: Pixels, matrix: Matrix, colour: Matrix | None, out: NDArray[Any]) -> None:
    """Write an image, warped and coloured, to its place in the batch.

    Args:
        pixels: (height, width, 3) uint8, the source.
        matrix: (3, 3) source to output pixels.
        colour: (3, 4) on (r, g, b, 1) in 0..1, or None.
        out: (H, W, 3), uint8 or float32, which gets 0..1.
    """
    p = Parameters(matrix[None], None if colour is None else colour[None])
    canvas = out if out.dtype == np.uint8 else memory("canvas", (out.shape[0], out.shape[1]))
    paint(pixels, matrix, p, 0, canvas)
    finish(canvas, p, 0, out)
