"""Operations that move pixels and boxes, each as one 3x3 matrix an image.

The canvas is a picture of the output's size, on which `fit_matrix` has laid the source. An operation gets `draw`, which
gives uniform numbers (n, how many), and the `Canvas`, and returns (n, 3, 3) matrices from canvas to canvas, in edge
coordinates. They are composed before any pixel is touched.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray

from dataforge.augment.move import corners_of, hull, project

Matrices = NDArray[np.float64]
Floats = NDArray[np.float64]
Draw = Callable[..., Floats]
Shape = tuple[int, int]
FITS = ("letterbox", "stretch")
FILL = 114  # grey that fills what lies outside the source image

# What a value may be: lowest and highest. Recipes are checked by them, and the table of operations shows them.
Share = Annotated[float, 0, 1]
Factor = Annotated[float, 0.01, 100]
Degrees = Annotated[float, 0, 180]


@dataclass
class Canvas:
    """What an operation may look at: the batch as composed so far.

    Attributes:
        out: (height, width) of the canvas.
        fit: "letterbox" or "stretch".
        matrix: (n, 3, 3) source pixels to canvas.
        size: (n, 2) width and height of the sources.
        boxes: (s, 4) in source pixels; image: (s,) their rows in `matrix`, ascending.
    """

    out: Shape
    fit: str
    matrix: Matrices
    size: Floats
    boxes: NDArray[np.float32]
    image: NDArray[np.int64]

    def content(self) -> Floats:
        """(n, 4) the box around each source on the canvas; of what lies behind the horizon, as far as 1e6 pixels."""
        whole = np.concatenate([np.zeros_like(self.size), self.size], 1)
        return hull(project(corners_of(whole), self.matrix).clip(-1e6, 1e6))

    def moved(self) -> Floats:
        """(s, 4) the boxes on the canvas, not clipped."""
        return hull(project(corners_of(self.boxes), self.matrix[self.image]))

    def pixel_aspect(self) -> Floats:
        """(n,) how much wider than high a square of the source is on the canvas, along its axes."""
        x, y = np.linalg.norm(self.matrix[:, :2, :2], axis=2).T
        return x / y


def fit_matrix(height: Any, width: Any, out: Shape, fit: str = "letterbox") -> Matrices:
    """Source pixels to output pixels, so that the source fills whole pixels.

    Args:
        height, width: (n,) or a single number, of the source.
        fit: "letterbox" keeps the aspect ratio, to the nearest pixel, and puts the image in the middle, a half pixel up
            or left of it where the rest is odd; "stretch" fills the output.

    Returns:
        (n, 3, 3), or (3, 3) for single numbers.
    """
    h, w = letterboxed(height, width, *out) if fit == "letterbox" else out
    x, y = w / np.asarray(width, float), h / np.asarray(height, float)
    return scaled(x, y, (out[1] - w) // 2, (out[0] - h) // 2)


def letterboxed(height: Any, width: Any, out_height: Any, out_width: Any) -> tuple[Floats, Floats]:
    """The (height, width) in whole pixels of images as large as they can be in the outputs; numbers or arrays (n,)."""
    height, width = np.asarray(height, float), np.asarray(width, float)
    limited = out_height * width <= out_width * height  # by its height
    high = np.where(limited, out_height, np.maximum(np.floor((2 * height * out_width + width) / (2 * width)), 1))
    wide = np.where(limited, np.maximum(np.floor((2 * width * out_height + height) / (2 * height)), 1), out_width)
    return high, wide


def scaled(x: Any, y: Any, dx: Any = 0.0, dy: Any = 0.0) -> Matrices:
    """Matrices (..., 3, 3) that scale by x, y and then shift by dx, dy."""
    matrix = np.zeros((*np.broadcast_shapes(*map(np.shape, (x, y, dx, dy))), 3, 3))
    matrix[..., 0, 0], matrix[..., 1, 1], matrix[..., 2, 2] = x, y, 1
    matrix[..., 0, 2], matrix[..., 1, 2] = dx, dy
    return matrix


def onto_canvas(region: Floats, out: Shape, fit: str = "stretch") -> Matrices:
    """Matrices that lay regions (n, 4) xyxy of the canvas over all of it."""
    x1, y1, x2, y2 = region.T
    return fit_matrix(y2 - y1, x2 - x1, out, fit) @ scaled(np.ones_like(x1), 1.0, -x1, -y1)


def _about_centre(linear: NDArray[np.float64], out: Shape) -> Matrices:
    """Matrices with a linear part (n, 2, 2) that leave the canvas' centre where it is."""
    matrix = np.tile(np.eye(3), (len(linear), 1, 1))
    centre = np.array([out[1], out[0]]) / 2
    matrix[:, :2, :2], matrix[:, :2, 2] = linear, centre - linear @ centre
    return matrix


def _turn(angle: Floats) -> NDArray[np.float64]:
    return np.stack([np.cos(angle), -np.sin(angle), np.sin(angle), np.cos(angle)], -1).reshape(-1, 2, 2)


def flip(draw: Draw, canvas: Canvas) -> Matrices:
    """Mirror left and right."""
    return np.tile(scaled(-1, 1, canvas.out[1]), (len(canvas.matrix), 1, 1))


def vflip(draw: Draw, canvas: Canvas) -> Matrices:
    """Mirror top and bottom."""
    return np.tile(scaled(1, -1, 0, canvas.out[0]), (len(canvas.matrix), 1, 1))


def rotate90(draw: Draw, canvas: Canvas) -> Matrices:
    """Turn by 0, 90, 180 or 270 degrees; a quarter turn is fitted into the canvas again."""
    quarter = np.floor(draw(1)[:, 0] * 4)
    h, w = canvas.out
    again = fit_matrix(w, h, canvas.out, canvas.fit) @ scaled(1, 1, (h - w) / 2, (w - h) / 2)
    again = np.where((quarter % 2 == 1)[:, None, None], again, np.eye(3))
    return again @ _about_centre(_turn(quarter * np.pi / 2).round(), canvas.out)


def rotate(draw: Draw, canvas: Canvas, *, degrees: Degrees = 10.0) -> Matrices:
    """Turn about the centre by up to so many degrees, either way."""
    return _about_centre(_turn(np.radians((2 * draw(1)[:, 0] - 1) * degrees)), canvas.out)


def shear(draw: Draw, canvas: Canvas, *, degrees: Annotated[float, 0, 80] = 5.0) -> Matrices:
    """Slant along x and along y by up to so many degrees, either way."""
    x, y = np.tan(np.radians((2 * draw(2) - 1) * degrees)).T
    return _about_centre(np.stack([np.ones_like(x), x, y, 1 + x * y], -1).reshape(-1, 2, 2), canvas.out)


def scale(draw: Draw, canvas: Canvas, *, low: Factor = 0.5, high: Factor = 1.5) -> Matrices:
    """Zoom about the centre by a factor between low and high, uniform in its logarithm."""
    factor = np.exp(np.log(low) + draw(1)[:, 0] * np.log(high / low))
    return _about_centre(factor[:, None, None] * np.eye(2), canvas.out)


def translate(draw: Draw, canvas: Canvas, *, fraction: Share = 0.1) -> Matrices:
    """Shift by up to a fraction of the canvas' sides, either way."""
    x, y = ((2 * draw(2) - 1) * fraction).T
    return scaled(1, 1, x * canvas.out[1], y * canvas.out[0])


def perspective(draw: Draw, canvas: Canvas, *, strength: Annotated[float, 0, 0.4] = 0.1) -> Matrices:
    """Move each corner of the canvas by up to `strength` of its sides, either way: a projective map."""
    side = np.array([canvas.out[1], canvas.out[0]], float)
    start = np.array([[0, 0], [1, 0], [1, 1], [0, 1]]) * side
    end = start + (2 * draw(8).reshape(-1, 4, 2) - 1) * strength * side
    equations, values = np.zeros((len(end), 8, 8)), np.empty((len(end), 8))
    for i, (x, y) in enumerate(start):  # (a x + b y + c) / (g x + h y + 1) = end, for x and for y
        for axis in (0, 1):
            row, to = equations[:, 2 * i + axis], end[:, i, axis]
            row[:, 3 * axis : 3 * axis + 3] = x, y, 1
            row[:, 6], row[:, 7] = -x * to, -y * to
            values[:, 2 * i + axis] = to
    solved = np.linalg.solve(equations, values[:, :, None])[:, :, 0]
    return np.concatenate([solved, np.ones((len(end), 1))], 1).reshape(-1, 3, 3)


def crop(draw: Draw, canvas: Canvas, *, area: Share = 0.5, aspect: Factor = 4 / 3) -> Matrices:
    """Lay a random part of the canvas over all of it (random-resized crop; Szegedy et al. 2015, section 6).

    Args:
        area: the smallest share of the canvas that is kept.
        aspect: objects are stretched by up to this factor, either way, against the source. Of 10 tries the first
            part that lies in the canvas is taken, else the whole canvas.
    """
    u = draw(40).reshape(-1, 10, 4)
    share = area + (1 - area) * u[:, :, 0]
    ratio = max(aspect, 1 / aspect) ** (2 * u[:, :, 1] - 1) * canvas.pixel_aspect()[:, None]
    side = np.sqrt(np.stack([share * ratio, share / ratio], 2))
    fits = side.max(2) <= 1
    row, first = np.arange(len(u)), fits.argmax(1)
    side = np.where(fits.any(1)[:, None], side[row, first], 1.0)
    low = u[row, first, 2:] * (1 - side)
    region = np.concatenate([low, low + side], 1) * ([canvas.out[1], canvas.out[0]] * 2)
    return onto_canvas(_to_pixels(region, canvas), canvas.out)


def _to_pixels(region: Floats, canvas: Canvas) -> Floats:
    """Regions (n, 4) of the canvas with their edges between pixels of the source, where the source lies straight."""
    x, y = canvas.matrix[:, 0, 0], canvas.matrix[:, 1, 1]
    rest = canvas.matrix.copy()
    rest[:, [0, 1, 2, 0, 1], [0, 1, 2, 2, 2]] = 0
    scale, shift = np.tile(np.stack([x, y], 1), 2), np.tile(canvas.matrix[:, :2, 2], 2)
    straight = ~rest.any((1, 2)) & (np.abs(x * y) > 0)
    scale = np.where(straight[:, None], scale, 1.0)
    source = np.round((region - shift) / scale)
    wide = np.abs(source[:, 2:] - source[:, :2]).min(1) >= 8  # of a few pixels, rounding would take too much
    return np.where((straight & wide)[:, None], source * scale + shift, region)


def jitter(draw: Draw, canvas: Canvas, *, low: Factor = 0.1, high: Factor = 2.0) -> Matrices:
    """Large-scale jitter (Ghiasi et al., CVPR 2021): zoom by low..high, uniform, and lay the image at random.

    A larger image is cropped by the canvas, a smaller one lies anywhere on it.
    """
    u = draw(3)
    factor = low + (high - low) * u[:, 0]
    content = canvas.content()
    room = np.array([canvas.out[1], canvas.out[0]]) - factor[:, None] * (content[:, 2:] - content[:, :2])
    dx, dy = (u[:, 1:] * room - factor[:, None] * content[:, :2]).T
    return scaled(factor, factor, dx, dy)


def expand(draw: Draw, canvas: Canvas, *, high: Annotated[float, 1, 100] = 4.0) -> Matrices:
    """Zoom out: lay the canvas somewhere in one that is 1..high times as large (SSD, section 3.6)."""
    u = draw(3)
    factor = 1 / (1 + (high - 1) * u[:, 0])
    dx, dy = (u[:, 1:] * (1 - factor[:, None]) * [canvas.out[1], canvas.out[0]]).T
    return scaled(factor, factor, dx, dy)
