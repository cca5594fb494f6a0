"""Legend: B images, n bytes, h x w canvas pixels.

JPEG decoding on the device, one batch at a time, by torchvision, which uses nvJPEG on CUDA.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence

import numpy as np
import simplejpeg
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from dataforge.augment.executors import antialias
from dataforge.augment.executors.upload import send
from dataforge.errors import ConfigError
from dataforge.shards.reader import Shards

Weights = tuple[NDArray[np.float64], NDArray[np.float64]]


def check(device: torch.device) -> None:
    """Raise ConfigError if JPEGs cannot be decoded on a device."""
    if device.type != "cuda":
        raise ConfigError(f"decode is 'device' on {device}; expected a CUDA device, or decode 'host'")
    if importlib.util.find_spec("torchvision") is None:
        raise ConfigError("decode is 'device' without torchvision; install it, or take decode 'host'")


def jpeg(shards: Shards, i: int) -> Tensor | None:
    """Return record i's bytes (n,) if the device decodes them as the host does: a whole upright JPEG, colour or grey.

    Damaged images are left to the host, which reports what is wrong; nvJPEG may return grey instead.

    Raises:
        ShardError: the store is missing or damaged. DataError: the record is damaged.
    """
    data, table = shards.blob(i), shards.table
    if table.orientation[i] != 1 or bytes(data[:3]) != b"\xff\xd8\xff" or bytes(data[-2:]) != b"\xff\xd9":
        return None
    try:
        plain = simplejpeg.decode_jpeg_header(data)[2] in ("YCbCr", "Gray")
    except ValueError:
        return None
    return torch.frombuffer(bytearray(data), dtype=torch.uint8) if plain else None


def canvas(
    sources: Sequence[Tensor],
    matrix: NDArray[np.float64],
    reduce: Sequence[int],
    sides: Sequence[int],
    fill: tuple[int, int, int],
    device: torch.device,
) -> Tensor:
    """Decode images, shrink them as the host does, and place each in the upper left corner of its canvas.

    Args:
        sources: (B,) results of `jpeg`, or the pixels (height, width, 3) of a finished image; uint8, on the host.
        matrix: (B, 3, 3) to output pixels, from images that are `reduce`, (B,), times smaller.
        sides: (h, w).
        fill: red, green, blue beyond the images.

    Returns:
        (B, 3, h, w) uint8 on the device, channels-last.

    Raises:
        RuntimeError: one of the JPEGs cannot be decoded; then none is.
    """
    out = torch.empty((len(sources), *sides, 3), dtype=torch.uint8, device=device)
    out[:] = send(np.array(fill), device, torch.uint8)
    decoded = iter(_decode([source for source in sources if source.dim() == 1], device))
    for slot, source, move, times in zip(out, sources, matrix, reduce, strict=True):
        if source.dim() == 1:
            pixels = next(decoded)
            size = (-(-pixels.shape[1] // times), -(-pixels.shape[2] // times))
            factors = antialias.shrink_factors(move, size)
            block = (factors[0] * times, factors[1] * times)
            pixels = _smaller(pixels, block, antialias.filters(move, size, factors, times > 1)).permute(1, 2, 0)
        else:
            pixels = send(source.numpy(), device, torch.uint8)
        slot[: pixels.shape[0], : pixels.shape[1]] = pixels
    return out.permute(0, 3, 1, 2)


def _decode(jpegs: list[Tensor], device: torch.device) -> list[Tensor]:
    """Decode JPEGs to (3, height, width) uint8 each."""
    from torchvision.io import ImageReadMode, decode_jpeg

    if not jpegs:
        return []
    if device.type == "cuda":
        # it writes immediately, on its own stream, to freed memory that this stream may still be using
        torch.cuda.current_stream(device).synchronize()
    images: list[Tensor] = decode_jpeg(jpegs, ImageReadMode.RGB, device=device)
    return images


def _smaller(pixels: Tensor, block: tuple[int, int], weights: Weights) -> Tensor:
    """Apply `decode.shrink` and `antialias.smooth` to (3, height, width) pixels."""
    filtered = [(axis, along) for axis, along in zip((3, 2), weights, strict=True) if along[len(along) // 2] != 1]
    if block == (1, 1) and not filtered:
        return pixels
    down, right = -pixels.shape[1] % block[0], -pixels.shape[2] % block[1]
    image = F.avg_pool2d(F.pad(pixels[None].float(), (0, right, 0, down), mode="replicate"), block)
    for axis, along in filtered:
        half, side = len(along) // 2, image.shape[axis]
        padded = F.pad(image, (half, half, 0, 0) if axis == 3 else (0, 0, half, half), mode="replicate")
        image = torch.zeros_like(image)
        for k, weight in enumerate(along.tolist()):
            image.add_(padded.narrow(axis, k, side), alpha=weight)
    return image[0].round_().clamp_(0, 255).byte()
