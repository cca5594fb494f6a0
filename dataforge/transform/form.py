"""The storage form of a cache's pixels."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import simplejpeg
from numpy.typing import NDArray

from dataforge.augment.executors.cpu import warp
from dataforge.augment.operations.geometry import FITS, fit_matrix
from dataforge.errors import ConfigError
from dataforge.images.planes import to_planes
from dataforge.loading.buckets import Shape, bucket

QUALITY = 92


@dataclass(frozen=True)
class Form:
    """Storage format of a cache's pixels. Without `side` and `shapes`, images keep their size.

    Attributes:
        side: length of the shorter side in pixels; images whose shorter side is smaller keep their size.
        shapes: (height, width): each image is assigned to the one nearest in aspect ratio.
        fit: "letterbox" keeps the aspect ratio in a shape, "stretch" fills it.
        gray: one channel, BT.601 luma.
        raw: uncompressed pixels, which requires `shapes`; otherwise JPEG at `quality`, with 4:2:0 chroma subsampling.
        yuv420: raw pixels as planes of luma and halved chroma, as `dataforge.images.planes` defines them.
        lossless: the shards' JPEGs with the same pixels, as `lossless.rewrite` makes them; other formats as they are.

    Raises:
        ConfigError: the values are incompatible.
    """

    side: int | None = None
    shapes: tuple[Shape, ...] = ()
    fit: str = "letterbox"
    gray: bool = False
    raw: bool = False
    quality: int = QUALITY
    lossless: bool = False
    yuv420: bool = False

    def __post_init__(self) -> None:
        if self.lossless and (self.side is not None or self.shapes or self.gray or self.raw):
            raise ConfigError("--lossless keeps all pixels; omit --side, --size, --buckets, --gray and --raw")
        if self.yuv420 and (not self.raw or self.gray or any(side % 2 for shape in self.shapes for side in shape)):
            raise ConfigError(
                f"--yuv420 with shapes {list(self.shapes)}: expected even sides, raw pixels, and no --gray"
            )
        if self.side is not None and self.shapes:
            raise ConfigError("a side and shapes: --side, --size and --buckets exclude each other")
        if self.raw and not self.shapes:
            raise ConfigError("--raw needs --size or --buckets: raw pixels are stored as one array per shape")
        if min([1 if self.side is None else self.side, *(side for shape in self.shapes for side in shape)]) < 1:
            raise ConfigError(f"side {self.side}, shapes {list(self.shapes)}: expected sides of at least 1 pixel")
        if self.fit not in FITS:
            raise ConfigError(f"fit is {self.fit!r}; expected one of {', '.join(FITS)}")
        if not 1 <= self.quality <= 100:
            raise ConfigError(f"quality is {self.quality}; expected 1 to 100")

    @property
    def codec(self) -> str:
        return "yuv420" if self.yuv420 else "raw" if self.raw else "jpeg"

    @property
    def channels(self) -> int:
        return 1 if self.gray else 3

    @property
    def bytes_per_pixel(self) -> float:
        """Of raw pixels."""
        return 1.5 if self.yuv420 else self.channels

    def text(self) -> str:
        """Return a short description."""
        if self.lossless:
            return "JPEGs written anew, the same pixels"
        if self.shapes:
            size = f"{', '.join(f'{h}x{w}' for h, w in self.shapes)} {self.fit}ed"
        else:
            size = "full size" if self.side is None else f"side {self.side}"
        return f"{self.codec}{' grey' if self.gray else ''}{'' if self.raw else f' q{self.quality}'}, {size}"

    def place(
        self, height: NDArray[np.int32], width: NDArray[np.int32]
    ) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Compute the stored size of images and the matrices to it.

        Args:
            height, width: (n,) pixels.

        Returns:
            (n, 2) stored height and width, and (n, 3, 3) matrices from source to stored pixels.
        """
        sizes = np.stack([height, width], 1).astype(np.int64)
        if self.shapes:
            sizes = np.array(self.shapes)[bucket(height, width, self.shapes)]
            matrix = np.zeros((len(sizes), 3, 3))
            for shape in self.shapes:
                rows = (sizes == shape).all(1)
                matrix[rows] = fit_matrix(height[rows], width[rows], shape, self.fit)
            return sizes, matrix
        if self.side is not None:
            scale = np.minimum(1, self.side / sizes.min(1))
            sizes = np.maximum(np.rint(sizes * scale[:, None]).astype(np.int64), 1)
        matrix = np.tile(np.eye(3), (len(sizes), 1, 1))
        matrix[:, 0, 0], matrix[:, 1, 1] = sizes[:, 1] / width, sizes[:, 0] / height
        return sizes, matrix

    def render(self, pixels: NDArray[np.uint8], size: Shape, matrix: NDArray[np.float64]) -> NDArray[np.uint8]:
        """Convert pixels (height, width, 3) to their stored form: (*size, channels).

        With `shapes`, it uses the loader's own warp, so that a batch of a raw cache equals that of its parent.
        """
        if self.gray:
            pixels = cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)  # type: ignore[assignment]
        if self.shapes:
            pixels = warp(pixels, matrix, size)
        elif pixels.shape[:2] != size:
            pixels = cv2.resize(pixels, size[::-1], interpolation=cv2.INTER_AREA)  # type: ignore[assignment]
        return np.ascontiguousarray(pixels).reshape(*size, self.channels)

    def encode(self, pixels: NDArray[np.uint8]) -> bytes | memoryview:
        """Encode stored pixels as a blob; raw pixels keep their shape."""
        if self.yuv420:
            return to_planes(pixels).data
        if self.raw:
            return pixels.data
        colour, halved = ("GRAY", "Gray") if self.gray else ("RGB", "420")
        return simplejpeg.encode_jpeg(
            pixels, quality=self.quality, colorspace=colour, colorsubsampling=halved, fastdct=False
        )
