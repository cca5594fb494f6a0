"""Darknet's `.weights` files: the values of convolutions, layer by layer.

A `.weights` file is little-endian: int32 major, minor and revision; the number of images seen, uint64 from version 0.2
on and uint32 before; then float32 layer by layer: the biases, with batch norm its scales, means and variances, and the
convolution's weights (out, in, y, x).
"""

from __future__ import annotations

import struct
from itertools import zip_longest
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from dataforge.errors import ConfigError
from dataforge.files import reading

# Batch norm divides by sqrt(variance + EPSILON), as OpenCV's reader does. Darknet itself divides by
# sqrt(variance) + 1e-6 on the CPU and by sqrt(variance + 1e-5) on the GPU; for trained variances all three agree.
EPSILON = 1e-6

HEADER = struct.Struct("<3i")


def load_backbone(backbone: nn.Module, path: str | Path) -> str:
    """Load the layers of Darknet-19 from the start of a classifier's, a detector's or a truncated file.

    Returns:
        A description of what was loaded.

    Raises:
        ConfigError: the backbone is not Darknet-19, the file does not exist, or it ends inside a layer or before the
            backbone does.
    """
    if getattr(backbone, "name", "") != "darknet19":
        raise ConfigError(f"{path}: Darknet weights fit the backbone darknet19 alone, not {backbone.name!r}")
    layers = layers_of(backbone)
    _, values = read_values(Path(path))
    loaded, used = fill(layers, values, Path(path), surplus=True)
    if loaded < len(layers):
        return f"{path}: the first {loaded} of {len(layers)} convolutions, {used:,} values; the file ends there"
    return f"{path}: all {loaded} convolutions, {used:,} values; {len(values) - used:,} left over"


def layers_of(module: nn.Module) -> list[list[Tensor]]:
    """Return each convolution's tensors in the file's order. Modules are registered in the order of the `.cfg`."""
    parts = [part for part in module.modules() if isinstance(part, nn.Conv2d | nn.BatchNorm2d)]
    layers: list[list[Tensor]] = []
    for part, following in zip_longest(parts, parts[1:]):
        if isinstance(part, nn.BatchNorm2d):
            continue
        if isinstance(following, nn.BatchNorm2d):
            layer = [following.bias, following.weight, following.running_mean, following.running_var, part.weight]
        else:
            layer = [part.bias, part.weight]
        layers.append([tensor for tensor in layer if tensor is not None])
    return layers


def read_values(path: Path) -> tuple[int, NDArray[np.float32]]:
    """Read the number of images seen and all values."""
    with reading(path, ConfigError):
        data = path.read_bytes()
    major, minor, _ = HEADER.unpack_from(data.ljust(HEADER.size, b"\0"))
    seen_format = "<Q" if major * 10 + minor >= 2 else "<I"
    start = HEADER.size + struct.calcsize(seen_format)
    if len(data) < start or (len(data) - start) % 4:
        raise ConfigError(f"{path}: {len(data):,} bytes; expected Darknet's header of {start} and then float32 values")
    return struct.unpack_from(seen_format, data, HEADER.size)[0], np.frombuffer(data, "<f4", offset=start)


@torch.no_grad()
def fill(layers: list[list[Tensor]], values: NDArray[np.float32], path: Path, *, surplus: bool) -> tuple[int, int]:
    """Copy as many complete layers as `values` contains; return their number and the number of values used."""
    ends = np.cumsum([0, *(sum(tensor.numel() for tensor in layer) for layer in layers)])
    loaded = int(np.searchsorted(ends, len(values), "right")) - 1
    used = int(ends[loaded])
    if not loaded or (used != len(values) and not (surplus and loaded == len(layers))):
        where = "more than the model has" if loaded == len(layers) else f"the end is inside convolution {loaded + 1}"
        raise ConfigError(
            f"{path}: {len(values):,} values, {where}; expected {int(ends[-1]):,} for {len(layers)} layers"
        )
    tensors = [tensor for layer in layers[:loaded] for tensor in layer]
    parts = torch.from_numpy(values[:used].astype(np.float32)).split([tensor.numel() for tensor in tensors])
    for tensor, part in zip(tensors, parts, strict=True):
        tensor.copy_(part.view_as(tensor))
    return loaded, used
