"""Decode images on the host: simplejpeg for most JPEGs, Pillow for everything else. Both release the GIL.

`dataforge.loading.nvjpeg` decodes JPEGs on a CUDA device."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
import PIL.Image
import simplejpeg
from numpy.typing import NDArray

from dataforge.errors import ImageError
from dataforge.images.header import FORMATS, check_size, decode_jxl, is_jxl

STRIP = 1 << 18  # pixels that are converted at a time


def decode(
    data: bytes | memoryview,
    orientation: int = 1,
    reduce: int = 1,
    out: NDArray[np.uint8] | None = None,
    depth: str = "scale",
) -> NDArray[np.uint8]:
    """Decode an image to upright RGB.

    JPEGs go through libjpeg-turbo; CMYK JPEGs and every other format through Pillow. Grey becomes three equal
    channels, samples of more than 8 bits are scaled as by `eight_bits`, transparency is composited over white.

    Args:
        orientation: EXIF orientation, 1..8, as recorded in the table; it is undone here.
        reduce: 1, 2, 4 or 8: each pixel stands for a block of reduce x reduce, from the upper left corner on; blocks
            that extend past the right or bottom edge repeat the last column or row. libjpeg-turbo does it inside the
            inverse DCT, at 43 dB or more from decoding in full and averaging (400 photographs).
        out: (H, W, 3) optional destination, used if it is contiguous, has the result's shape, and the pixels are
            decoded directly in this layout.
        depth: as for `eight_bits`.

    Returns:
        (ceil(height / reduce), ceil(width / reduce), 3) uint8, contiguous: `out`, or new memory.

    Raises:
        ImageError: the bytes are damaged or cut short, or the header states more than `header.MAX_PIXELS`; no memory is
            taken for such an image.
    """
    try:
        if bytes(data[:3]) == b"\xff\xd8\xff":
            height, width, colours, _ = simplejpeg.decode_jpeg_header(data)
            check_size(height, width)
            if colours not in ("CMYK", "YCCK"):
                # after rotation the blocks would start at another corner, which only matters for partial blocks
                inside = reduce if orientation == 1 or height % reduce == width % reduce == 0 else 1
                rows, columns = -(-height // inside), -(-width // inside)
                fits = (
                    orientation == 1 and out is not None and out.shape == (rows, columns, 3) and out.flags.c_contiguous
                )
                pixels = simplejpeg.decode_jpeg(
                    data,
                    "RGB",
                    min_factor=inside,
                    min_height=rows,
                    min_width=columns,
                    buffer=out if fits else None,
                )
                return shrink(upright(pixels, orientation), (reduce // inside, reduce // inside))
        pixels = _pillow(data, depth)
    except (ValueError, OSError, SyntaxError, EOFError, PIL.Image.DecompressionBombError) as error:
        raise ImageError(f"cannot be decoded: {error}") from None
    return shrink(upright(pixels, orientation), (reduce, reduce))


def unpack(
    data: bytes | memoryview, shape: tuple[int, int, int], reduce: int = 1, out: NDArray[np.uint8] | None = None
) -> NDArray[np.uint8]:
    """Convert pixels that are stored uncompressed to upright RGB.

    Args:
        shape: (height, width, channels) of the stored pixels, with 3 channels or 1 for grey.
        reduce, out: as for `decode`.

    Returns:
        (ceil(height / reduce), ceil(width / reduce), 3) uint8: `out`, a read-only view of `data`, or new memory.

    Raises:
        ImageError: the number of bytes does not match `shape`.
    """
    if len(data) != shape[0] * shape[1] * shape[2]:
        raise ImageError(
            f"cannot be decoded: {len(data)} bytes are no {shape[1]}x{shape[0]} pixels of {shape[2]} channels"
        )
    pixels = np.frombuffer(data, np.uint8).reshape(shape)
    if shape[2] == 1:
        pixels = cv2.cvtColor(pixels, cv2.COLOR_GRAY2RGB)  # type: ignore[assignment]
    pixels = shrink(pixels, (reduce, reduce))
    if out is not None and out.shape == pixels.shape:
        out[...] = pixels
        return out
    return pixels


def shrink(pixels: NDArray[np.uint8], factors: tuple[int, int]) -> NDArray[np.uint8]:
    """Average blocks of pixels; the last row and column are repeated where the size is not a multiple.

    Args:
        pixels: (height, width, 3).
        factors: integer block size as (rows, columns).

    Returns:
        (ceil(height / rows), ceil(width / columns), 3).
    """
    rows, columns = factors
    if factors == (1, 1):
        return pixels
    down, right = -pixels.shape[0] % rows, -pixels.shape[1] % columns
    if down or right:
        pixels = cv2.copyMakeBorder(pixels, 0, down, 0, right, cv2.BORDER_REPLICATE)  # type: ignore[assignment]
    size = (pixels.shape[1] // columns, pixels.shape[0] // rows)
    # halfway between two pixels, bilinear sampling equals their average and is four times as fast
    how = cv2.INTER_LINEAR if max(factors) == 2 else cv2.INTER_AREA
    return cv2.resize(pixels, size, interpolation=how)  # type: ignore[return-value]


def upright(pixels: NDArray[np.uint8], orientation: int) -> NDArray[np.uint8]:
    """Undo an EXIF orientation (EXIF 2.32, tag 0x0112).

    Args:
        pixels: (height, width, channels) as stored.
        orientation: 1..8.
    """
    return pixels if orientation == 1 else np.ascontiguousarray(turned(pixels, orientation))


def turned(pixels: NDArray[np.uint8], orientation: int) -> NDArray[np.uint8]:
    """Return a view of the pixels, as `upright`."""
    if orientation >= 5:
        pixels = pixels.transpose(1, 0, 2)
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    return pixels


def _pillow(data: bytes | memoryview, depth: str) -> NDArray[np.uint8]:
    with _opened(data) as opened:
        image: PIL.Image.Image = opened
        check_size(image.height, image.width)
        if image.mode.startswith("I") or image.mode == "F":
            return cv2.cvtColor(eight_bits(_array(image), depth), cv2.COLOR_GRAY2RGB)  # type: ignore[return-value]
        return _array(image, _rgb)


def _array(
    image: PIL.Image.Image, convert: Callable[[PIL.Image.Image], PIL.Image.Image] = lambda strip: strip
) -> NDArray[Any]:
    """Return the samples of an image, converted in strips: whole copies would take several times the memory."""
    image.load()
    rows = max(1, STRIP // max(1, image.width))
    pixels: NDArray[Any] | None = None
    for y in range(0, max(1, image.height), rows):
        strip = np.asarray(convert(image.crop((0, y, image.width, min(y + rows, image.height)))))
        if pixels is None:
            pixels = np.empty((image.height, *strip.shape[1:]), strip.dtype)
        pixels[y : y + rows] = strip
    assert pixels is not None
    return pixels


def _rgb(image: PIL.Image.Image) -> PIL.Image.Image:
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        image = PIL.Image.new("RGBA", rgba.size, "white")
        image.alpha_composite(rgba)
    return image if image.mode == "RGB" else image.convert("RGB")


def _opened(data: bytes | memoryview) -> PIL.Image.Image:
    if is_jxl(data):
        return PIL.Image.fromarray(decode_jxl(data))
    return PIL.Image.open(io.BytesIO(data), formats=FORMATS)


def eight_bits(deep: NDArray[Any], depth: str = "scale") -> NDArray[np.uint8]:
    """Scale samples of more than 8 bits to 8. An image whose samples use only a part of their range is not black.

    Args:
        deep: (H, W) integers or floating-point numbers. Negative samples, NaN and infinities become 0.
        depth: "scale": integers keep the upper 8 of 8, 10, 12, 14 or 16 bits, or of as many as the image's maximum has
            if those are more; of these, the fewest that hold the maximum. Floating-point samples are multiplied by 255
            if none exceeds 1, kept if none exceeds 255, and else scaled so that the maximum is 255.
            "high-byte": integers keep the upper 8 of 16 bits, or of 32 if the image's maximum has more than 16, so that
            equal samples of different images stay equal; floating-point samples are scaled.
            "percentile": linear from the 1st percentile of the image's samples, 0, to the 99th, 255.

    Returns:
        (H, W).
    """
    scaled = np.empty(deep.shape, np.uint8)
    convert = _scaling(deep, depth)
    rows = max(1, STRIP // max(1, deep.shape[1]))
    for y in range(0, deep.shape[0], rows):
        scaled[y : y + rows] = convert(deep[y : y + rows])
    return scaled


def _scaling(deep: NDArray[Any], depth: str) -> Callable[[NDArray[Any]], NDArray[Any]]:
    """Return what scales rows of an image, from what the whole image holds."""
    if depth == "percentile":
        finite = np.nan_to_num(deep.astype(np.float64), copy=False, posinf=0, neginf=0)
        top = float(finite.max(initial=0))
        low, high = np.percentile(finite, (1, 99), overwrite_input=True) if finite.size else (0.0, 1.0)
        high = high if high > low else max(top, low + 1)  # nearly all samples are equal
        reach = high - low or 1.0  # beyond 2**53, adding 1 changes nothing
        return lambda rows: (
            (np.nan_to_num(rows.astype(np.float64), posinf=0, neginf=0).clip(low, high) - low) / reach * 255
        ).round()
    if deep.dtype.kind in "iu":
        bits = int(deep.max(initial=0)).bit_length()
        whole = (16, 32) if depth == "high-byte" else (8, 10, 12, 14, 16, bits)
        shift = next(width for width in whole if bits <= width) - 8
        return lambda rows: rows.clip(0) >> shift
    top = float(deep.max(initial=0, where=np.isfinite(deep)))
    scale = 255.0 if top <= 1 else min(1.0, 255 / top)
    return lambda rows: (np.nan_to_num(rows, posinf=0, neginf=0).clip(0) * scale).round().clip(0, 255)
