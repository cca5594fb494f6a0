"""The CPU's executor: one image, inside a decode thread, while its pixels are in the cache.

Everything is done on uint8, in memory that a thread uses again for its next image; the last step writes the batch.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from dataforge.augment.geometry import FILL, Shape, scaled
from dataforge.augment.layout import Layout
from dataforge.augment.parameters import Parameters
from dataforge.decode import shrink

Pixels = NDArray[np.uint8]
Matrix = NDArray[np.float64]
Region = tuple[tuple[int, int], tuple[int, int], int | None]  # columns, rows, OpenCV's code of their mirroring
_scratch = threading.local()


def shrink_factors(matrix: Matrix) -> tuple[int, int]:
    """Whole numbers of (rows, columns) that are averaged before a warp that shrinks, against aliasing.

    They leave the warp a scale of 1 where that is exact, else one of 0.4 to 0.8, for which `smooth` then makes up.

    Args:
        matrix: (3, 3) source to output pixels.
    """
    x, y = _scales(matrix)
    return _factor(y), _factor(x)


def _scales(matrix: Matrix) -> tuple[float, float]:
    """By how much a map enlarges along x and along y of the source, in its middle."""
    return float(np.hypot(*matrix[:2, 0]) / matrix[2, 2]), float(np.hypot(*matrix[:2, 1]) / matrix[2, 2])


def _factor(scale: float) -> int:
    whole = round(1 / scale)
    return max(1, whole if abs(whole * scale - 1) < 1e-3 else int(0.816 / scale))


def smooth(pixels: Pixels, matrix: Matrix, factors: tuple[int, int]) -> Pixels:
    """Blur shrunken pixels by what bilinear sampling still lacks against aliasing.

    Args:
        pixels: after `shrink` by `factors`; matrix: as there, from the source.
    """
    x, y = _lacking(matrix, factors)
    if not x and not y:
        return pixels
    return cv2.sepFilter2D(pixels, -1, _taps(x), _taps(y))  # type: ignore[return-value]


def _lacking(matrix: Matrix, factors: tuple[int, int]) -> tuple[float, float]:
    """The variance of the blur along x and along y, in shrunken pixels^2.

    It brings the variance of all filters together to that of a triangle of the output's pixel size, which is what an
    antialiased bilinear resize uses: blocks have (k^2 - 1) / 12 source pixels^2, bilinear sampling k^2 / 6.
    """
    x, y = ((1 / (6 * s * s) + 1 / 12) / (k * k) - 1 / 4 for s, k in zip(_scales(matrix), factors[::-1], strict=True))
    return x if x > 0.21 else 0.0, y if y > 0.21 else 0.0  # from scales of 2/3 on, none is nearer to a Lanczos filter


def _taps(variance: float) -> NDArray[np.float64]:
    if not variance:
        return np.ones(1)
    if variance <= 0.5:
        return np.array([variance / 2, 1 - variance, variance / 2])
    half = _taps(min(variance, 1.0) / 2)
    return np.convolve(half, half)


def warp(
    pixels: Pixels, matrix: Matrix, out: Shape, fill: int | tuple[int, int, int] = FILL, dst: Pixels | None = None
) -> Pixels:
    """Move an image by a matrix in one bilinear interpolation, with as much averaging as shrinking needs.

    Args:
        pixels: (height, width, 3) uint8.
        matrix: (3, 3) source to output pixels, edge coordinates.
        out: the output's (height, width).
        fill: red, green, blue, or a grey, outside the source.
        dst: (H, W, 3) memory to write to.
    """
    factors = shrink_factors(matrix)
    region = _whole_pixels(pixels, matrix, out)
    if region is not None and not any(_lacking(matrix, factors)):
        spans = zip(factors, region[1::-1], out, strict=True)
        # a bilinear resize to half the size averages two by two by itself
        if all(factor == 1 or (factor == 2 and b - a == 2 * side) for factor, (a, b), side in spans):
            return _resize(pixels, region, out, dst)
    pixels, moved = _part(pixels, matrix, out, factors)
    moved = moved @ np.diag([factors[1], factors[0], 1.0])
    pixels = smooth(shrink(pixels, factors), matrix, factors)
    return _warp(pixels, moved, out, fill, dst)


def _warp(pixels: Pixels, matrix: Matrix, out: Shape, fill: int | tuple[int, int, int], dst: Pixels | None) -> Pixels:
    region = _whole_pixels(pixels, matrix, out)
    if region is not None:
        return _resize(pixels, region, out, dst)
    half = np.array([[1, 0, 0.5], [0, 1, 0.5], [0, 0, 1]])  # OpenCV counts from pixel centres, we from edges
    centred = np.linalg.inv(half) @ matrix @ half
    colour = (fill, fill, fill) if isinstance(fill, int) else fill
    size = (out[1], out[0])
    how: dict[str, Any] = {"flags": cv2.INTER_LINEAR, "borderValue": colour, "dst": dst}
    if not matrix[2, :2].any():
        return cv2.warpAffine(pixels, centred[:2] / centred[2, 2], size, **how)  # type: ignore[return-value]
    return cv2.warpPerspective(pixels, centred, size, **how)  # type: ignore[return-value]


def _resize(pixels: Pixels, region: Region, out: Shape, dst: Pixels | None) -> Pixels:
    (left, right), (top, bottom), turned = region
    part, size = pixels[top:bottom, left:right], (out[1], out[0])
    dst = cv2.resize(part, size, dst=dst, interpolation=cv2.INTER_LINEAR)  # type: ignore[assignment]
    return dst if turned is None else cv2.flip(dst, turned, dst=dst)  # type: ignore[arg-type, return-value]


def _whole_pixels(pixels: Pixels, matrix: Matrix, out: Shape) -> Region | None:
    """The columns and rows that fill the output and OpenCV's code of its mirroring, where no more than that is done.

    Then a resize gives what a warp would, in two thirds of its time. It must not enlarge: at an image's edge the one
    goes on with the last pixels, the other fades into the fill colour.
    """
    if matrix[0, 1] or matrix[1, 0] or matrix[2, 0] or matrix[2, 1]:
        return None
    spans, mirrored = [], []
    for axis, side in ((0, out[1]), (1, out[0])):
        scale, shift = float(matrix[axis, axis]), float(matrix[axis, 2])
        ends = sorted((-shift / scale, (side - shift) / scale))
        first, last = round(ends[0]), round(ends[1])
        exact = abs(ends[0] - first) < 1e-3 and abs(ends[1] - last) < 1e-3
        if abs(scale) > 1 or not exact or first < 0 or last > pixels.shape[1 - axis]:
            return None
        spans.append((first, last))
        mirrored.append(scale < 0)
    code = {(False, False): None, (True, False): 1, (False, True): 0, (True, True): -1}[mirrored[0], mirrored[1]]
    return spans[0], spans[1], code


def _part(pixels: Pixels, matrix: Matrix, out: Shape, factors: tuple[int, int]) -> tuple[Pixels, Matrix]:
    """The part of an image that is seen in the output, with a margin, and its matrix; so that no more is averaged."""
    if matrix[2, 0] or matrix[2, 1]:
        return pixels, matrix
    back = cv2.invertAffineTransform(matrix[:2] / matrix[2, 2]).tolist()  # in plain floats, which is quicker
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
        pixels: (height, width, 3), left as they are.
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


def paint(pixels: Pixels, matrix: Matrix, p: Parameters, i: int, canvas: Pixels, weight: float = 1.0) -> None:
    """Paint image i, or a part of a picture of several, where it belongs.

    Args:
        pixels: (height, width, 3) the source, or a reduced one.
        matrix: (3, 3) from `pixels` to the pixels of `canvas`.
        canvas: (h, w, 3) uint8, all of which is painted; a view of a larger one will do.
        weight: below 1, how much it counts against what is there.
    """
    if not canvas.size:
        return
    shape = (canvas.shape[0], canvas.shape[1])
    target = canvas if weight == 1 else memory("blend", shape)
    if p.damage:
        factors = shrink_factors(matrix)
        pixels = smooth(damage(shrink(pixels, factors), p, i), matrix, factors)
        _warp(pixels, matrix @ np.diag([factors[1], factors[0], 1.0]), shape, p.fill, target)
    else:
        warp(pixels, matrix, shape, p.fill, target)
    if p.colour is not None:
        colour = p.colour[i] * [1, 1, 1, 255]
        cv2.transform(target, colour, dst=target)
    if p.curve is not None:
        cv2.LUT(target, p.curve[i], dst=target)
    if weight != 1:
        cv2.addWeighted(target, weight, canvas, 1 - weight, 0, dst=canvas)


def finish(canvas: Pixels, p: Parameters, i: int, out: NDArray[Any]) -> None:
    """Erase, and write a painted picture into its batch.

    Args:
        canvas: (H, W, 3) uint8; it may be `out` itself.
        i: the picture's own record among the parameters.
        out: (H, W, 3), uint8 or float32, which gets 0..1, or what the normalisation makes of it.
    """
    if p.erase is not None:
        x1, y1, x2, y2 = p.erase[i]
        canvas[y1:y2, x1:x2] = p.fill
    if out.dtype == np.uint8:
        if out is not canvas:
            out[...] = canvas
        return
    np.copyto(out, canvas)
    if p.mean is None or p.std is None:
        np.multiply(out, np.float32(1 / 255), out=out)
    else:
        factor = 1 / np.array(p.std)
        cv2.transform(out, np.column_stack([np.diag(factor / 255), -factor * p.mean]), dst=out)


def picture(layout: Layout, i: int, pixels_of: Callable[[int], Pixels], out: NDArray[Any]) -> None:
    """Paint picture i of a batch, part by part.

    Args:
        pixels_of: a record's (height, width, 3).
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


def memory(purpose: str, shape: Shape) -> Pixels:
    """(H, W, 3) uint8 of this thread, with whatever is in it; the same at the next call of that shape."""
    held: dict[tuple[str, Shape], Pixels] = _scratch.__dict__.setdefault("held", {})
    if (purpose, shape) not in held:
        held[purpose, shape] = np.empty((*shape, 3), np.uint8)
    return held[purpose, shape]


def render(pixels: Pixels, matrix: Matrix, colour: Matrix | None, out: NDArray[Any]) -> None:
    """Write an image, moved and coloured, where it belongs in its batch.

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
