"""Drawing boxes on images, and contact sheets of such images."""

from __future__ import annotations

import colorsys
import io
import math
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import matplotlib
import numpy as np
import PIL.Image
import PIL.ImageDraw
import PIL.ImageFont
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]
RGB = tuple[int, int, int]
GAP = 4  # white pixels between the images of a sheet


def draw(
    pixels: Pixels,
    boxes: NDArray[np.floating],
    labels: NDArray[np.integer],
    names: Sequence[str],
    scores: NDArray[np.floating] | None = None,
    shades: Sequence[RGB] = (),
) -> Pixels:
    """Draw boxes with their class names, and with scores if given.

    Args:
        pixels: (height, width, 3), not modified.
        boxes: (n, 4) xyxy pixels; labels: (n,), -1 is skipped; scores: (n,), the highest are drawn on top.
        names: class names by label; "" for none.
        shades: colours by label; () for those of `colour`.

    Returns:
        (height, width, 3).
    """
    image = PIL.Image.fromarray(np.ascontiguousarray(pixels))
    pen = PIL.ImageDraw.Draw(image)
    width, height = image.size
    short = min(width, height)
    line = max(1, round(short / 200))
    font = _font(int(np.clip(short / 28, 9, 48)))
    order = np.flatnonzero(labels >= 0)
    outlines = [shades[n] if shades else colour(n) for n in labels.tolist()]
    if scores is not None:
        order = order[np.argsort(scores[order], kind="stable")]
    for i in order.tolist():
        x1, y1, x2, y2 = np.clip(np.round(boxes[i]), 0, [width, height] * 2).astype(int).tolist()
        # edges to pixels: the last pixel of a box that ends at x2 is x2 - 1
        pen.rectangle((x1, y1, max(x1, x2 - 1), max(y1, y2 - 1)), outline=outlines[i], width=line)
    for i in order.tolist():
        text = names[int(labels[i])] + (f" {scores[i]:.2f}" if scores is not None else "")
        if not text:
            continue
        x1, y1 = float(boxes[i][0]), float(boxes[i][1])
        left, top, right, bottom = font.getbbox(text)
        wide, high = right - left + 2 * line + 2, bottom - top + 2 * line + 2
        x = max(0.0, min(x1, width - wide))
        y = y1 - high if y1 >= high else max(0.0, min(y1, height - high))
        shade = outlines[i]
        pen.rectangle((x, y, x + wide - 1, y + high - 1), fill=shade)
        dark = np.dot(shade, (0.299, 0.587, 0.114)) < 140
        pen.text((x + line + 1 - left, y + line + 1 - top), text, fill="white" if dark else "black", font=font)
    return np.asarray(image)


def draw_rings(pixels: Pixels, rings: Sequence[NDArray[np.floating]], label: int) -> None:
    """Draw closed rings (k, 2) of x, y in pixels on an image, in place, in the colour of a class."""
    image = PIL.Image.fromarray(pixels)
    pen = PIL.ImageDraw.Draw(image)
    for ring in rings:
        if np.isfinite(ring).all():
            pen.line([*map(tuple, ring.tolist()), tuple(ring[0].tolist())], fill=colour(label), width=2)
    pixels[:] = np.asarray(image)


def thumbnail(
    pixels: Pixels,
    boxes: NDArray[np.floating],
    labels: NDArray[np.integer],
    names: Sequence[str],
    shades: Sequence[RGB] = (),
    side: int = 640,
) -> bytes:
    """Return an image with boxes, given as for `draw`, as JPEG; its longer side is at most `side` pixels."""
    picture = PIL.Image.fromarray(pixels)
    picture.thumbnail((side, side))
    factor = np.array([picture.width / pixels.shape[1], picture.height / pixels.shape[0]] * 2)
    buffer = io.BytesIO()
    PIL.Image.fromarray(draw(np.asarray(picture), boxes * factor, labels, names, None, shades)).save(
        buffer, "JPEG", quality=85
    )
    return buffer.getvalue()


@lru_cache
def colour(label: int) -> RGB:
    """Return the colour of a class: hues a golden angle apart, in three brightness levels."""
    r, g, b = colorsys.hsv_to_rgb(label * 0.618034 % 1, 0.85, (1.0, 0.8, 0.6)[label // 8 % 3])
    return round(255 * r), round(255 * g), round(255 * b)


@lru_cache
def _font(size: int) -> PIL.ImageFont.FreeTypeFont:
    # matplotlib includes a font with Latin, Greek and Cyrillic letters
    return PIL.ImageFont.truetype(str(Path(matplotlib.get_data_path()) / "fonts/ttf/DejaVuSans.ttf"), size)


def contact_sheet(
    pictures: Sequence[Pixels],
    boxes: Sequence[NDArray[np.floating]],
    labels: Sequence[NDArray[np.integer]],
    names: Sequence[str],
    scores: Sequence[NDArray[np.floating]] | None = None,
    *,
    side: int = 1920,
    columns: int | None = None,
) -> Pixels:
    """Arrange images with their boxes in rows and columns; smaller images are enlarged to the largest one's tile.

    Args:
        pictures: at least one (height, width, 3); boxes, labels, scores: per image, as in `draw`.
        side: approximate maximum of the sheet's longer side, in pixels.
        columns: number of columns; None for about as many as rows.
    """
    height, width = (max(picture.shape[axis] for picture in pictures) for axis in (0, 1))
    columns = columns or math.ceil(math.sqrt(len(pictures)))
    rows = math.ceil(len(pictures) / columns)
    # small images are enlarged and large ones shrunk before drawing, so that names are legible
    scale = min(3.0, side / max(columns * width, rows * height))
    tile = (max(1, round(height * scale)), max(1, round(width * scale)))
    sheet = np.full((rows * (tile[0] + GAP) + GAP, columns * (tile[1] + GAP) + GAP, 3), 255, np.uint8)
    for i, pixels in enumerate(pictures):
        picture = PIL.Image.fromarray(np.ascontiguousarray(pixels))
        factor = min(tile[0] / picture.height, tile[1] / picture.width)
        size = (min(tile[1], round(picture.width * factor)), min(tile[0], round(picture.height * factor)))
        pixels = np.asarray(picture.resize((max(1, size[0]), max(1, size[1])), PIL.Image.Resampling.BILINEAR))
        stretch = np.array([pixels.shape[1] / picture.width, pixels.shape[0] / picture.height] * 2)
        y, x = GAP + i // columns * (tile[0] + GAP), GAP + i % columns * (tile[1] + GAP)
        drawn = draw(pixels, boxes[i] * stretch, labels[i], names, None if scores is None else scores[i])
        sheet[y : y + pixels.shape[0], x : x + pixels.shape[1]] = drawn
    return sheet
