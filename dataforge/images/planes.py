"""Pixels as planes of luma and halved chroma, 4:2:0: half the bytes of RGB, as JPEGs and videos hold them.

Legend: an image of height x width, both even, is (height * 3 / 2, width) uint8, OpenCV's I420: `height` rows of luma,
then the blue and then the red chroma, height / 2 x width / 2 each. BT.601, luma 16..235, chroma 16..240. A sample of
chroma is the mean of 2x2 pixels, and all four get it back: no filter is applied.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from dataforge.errors import ImageError
from dataforge.images.decode import shrink

Pixels = NDArray[np.uint8]

_LUMA = np.array([65.481, 128.553, 24.966]) / 255  # BT.601 at 8 bits, of red, green, blue in 0..255
_CHROMA = np.array([[-37.797, -74.203, 112.0], [112.0, -93.786, -18.214]]) / 255


def to_planes(pixels: Pixels) -> Pixels:
    """Convert RGB to planes. Where all four pixels of a sample have one colour, `from_planes` errs by 1 level at most.

    Args:
        pixels: (height, width, 3).

    Returns:
        (height * 3 / 2, width).
    """
    height, width = pixels.shape[:2]
    chroma = pixels.reshape(height // 2, 2, width // 2, 2, 3).mean((1, 3)) @ _CHROMA.T + 128
    planes = np.empty((height * 3 // 2, width), np.uint8)
    planes[height:] = np.rint(chroma).transpose(2, 0, 1).reshape(-1, width)
    luma = np.rint(pixels @ _LUMA + 16)
    least = np.full((height, width), np.inf)
    best = luma
    for near in (luma - 1, luma, luma + 1):  # the one that corrects most of what chroma loses to rounding
        planes[:height] = near
        error = np.abs(_rgb(planes).astype(np.int16) - pixels).max(2)
        best, least = np.where(error < least, near, best), np.minimum(error, least)
    planes[:height] = best
    return planes


def from_planes(data: bytes | memoryview, size: tuple[int, int], reduce: int = 1, out: Pixels | None = None) -> Pixels:
    """Convert planes to RGB.

    Args:
        size: (height, width) of the image; reduce, out: as for `decode.decode`.

    Returns:
        (ceil(height / reduce), ceil(width / reduce), 3): `out`, or new memory.

    Raises:
        ImageError: the number of bytes does not match the size.
    """
    height, width = size
    if height % 2 or width % 2 or 2 * len(data) != 3 * height * width:
        raise ImageError(f"cannot be decoded: {len(data)} bytes are no planes of {width}x{height} pixels")
    planes = np.frombuffer(data, np.uint8).reshape(-1, width)
    return shrink(_rgb(planes, out if out is not None and out.shape == (*size, 3) else None), (reduce, reduce))


def _rgb(planes: Pixels, out: Pixels | None = None) -> Pixels:
    return cv2.cvtColor(planes, cv2.COLOR_YUV2RGB_I420, dst=out)  # type: ignore[return-value]
