"""Encoded bytes to pixels. The only file that knows which decoders are used; both release the GIL."""

from __future__ import annotations

import io

import cv2
import numpy as np
import PIL.Image
import simplejpeg
from numpy.typing import NDArray

from dataforge.errors import ImageError
from dataforge.image import FORMATS


def decode(data: bytes | memoryview, orientation: int = 1) -> NDArray[np.uint8]:
    """Decode an image to upright RGB.

    JPEGs go through libjpeg-turbo; CMYK JPEGs and every other format through Pillow. Grey becomes three equal
    channels, 16 bits become the upper 8, transparency is laid over white.

    Args:
        orientation: EXIF's 1..8, as recorded in the table; it is undone here.

    Returns:
        (height, width, 3) uint8, contiguous.

    Raises:
        ImageError: the bytes are damaged or cut short.
    """
    try:
        if bytes(data[:3]) == b"\xff\xd8\xff" and simplejpeg.decode_jpeg_header(data)[2] not in ("CMYK", "YCCK"):
            pixels = simplejpeg.decode_jpeg(data, "RGB")
        else:
            pixels = _pillow(data)
    except (ValueError, OSError, SyntaxError, EOFError, PIL.Image.DecompressionBombError) as error:
        raise ImageError(f"cannot be decoded: {error}") from None
    return upright(pixels, orientation)


def upright(pixels: NDArray[np.uint8], orientation: int) -> NDArray[np.uint8]:
    """Undo an EXIF orientation (EXIF 2.32, tag 0x0112).

    Args:
        pixels: (height, width, channels) as stored.
        orientation: 1..8.
    """
    if orientation == 1:
        return pixels
    if orientation >= 5:
        pixels = pixels.transpose(1, 0, 2)
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    return np.ascontiguousarray(pixels)


def _pillow(data: bytes | memoryview) -> NDArray[np.uint8]:
    with PIL.Image.open(io.BytesIO(data), formats=FORMATS) as opened:
        image: PIL.Image.Image = opened
        if image.mode.startswith("I") or image.mode == "F":
            deep = np.asarray(image)
            grey = (deep >> 8 if deep.dtype.kind in "iu" else deep).clip(0, 255).astype(np.uint8)
            return cv2.cvtColor(grey, cv2.COLOR_GRAY2RGB)  # type: ignore[return-value]
        if image.has_transparency_data:
            rgba = image.convert("RGBA")
            image = PIL.Image.new("RGBA", rgba.size, "white")
            image.alpha_composite(rgba)
        return np.array(image.convert("RGB"))
