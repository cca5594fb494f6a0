"""Darknet's `.weights` and `.cfg` files of YOLOv2 on Darknet-19.

A `.weights` file is little-endian: int32 major, minor and revision; the number of images seen, uint64 from version 0.2
on and uint32 before; then float32 layer by layer: the biases, with batch norm its scales, means and variances, and the
convolution's weights (out, in, y, x).
"""

from __future__ import annotations

import struct
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING

import click
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from dataforge.command import Group
from dataforge.errors import ConfigError

if TYPE_CHECKING:
    from trainers.yolov2 import YOLOv2

# Batch norm divides by sqrt(variance + EPSILON), as OpenCV's reader does. Darknet itself divides by
# sqrt(variance) + 1e-6 on the CPU and by sqrt(variance + 1e-5) on the GPU; for trained variances all three agree.
EPSILON = 1e-6

_HEADER = struct.Struct("<3i")


def load_weights(model: YOLOv2, path: str | Path) -> str:
    """Load a whole `.weights` file, or one that ends after some layer (such as `darknet19_448.conv.23`).

    A whole file also sets `model.seen`.

    Returns:
        What was loaded, in words.

    Raises:
        ConfigError: not YOLOv2 on Darknet-19; no such file; a number of values that fits no whole layers.
    """
    _need_darknet(model)
    layers = _layers(model)
    seen, values = _read(Path(path))
    loaded, used = _fill(layers, values, Path(path), surplus=False)
    if loaded == len(layers):
        model.seen.fill_(seen)
        return f"{path}: all {loaded} convolutions, {used:,} values, {seen:,} images seen"
    return f"{path}: the first {loaded} of {len(layers)} convolutions, {used:,} values; the file ends there"


def load_backbone(backbone: nn.Module, path: str | Path) -> str:
    """Load the layers of Darknet-19 from the start of a classifier's, a detector's or a cut file.

    Returns:
        What was loaded, in words.

    Raises:
        ConfigError: not Darknet-19; no such file; it ends inside a layer or before the backbone does.
    """
    if getattr(backbone, "name", "") != "darknet19":
        raise ConfigError(f"{path}: Darknet weights fit the backbone darknet19 alone, not {backbone.name!r}")
    layers = _layers(backbone)
    _, values = _read(Path(path))
    loaded, used = _fill(layers, values, Path(path), surplus=True)
    if loaded < len(layers):
        return f"{path}: the first {loaded} of {len(layers)} convolutions, {used:,} values; the file ends there"
    return f"{path}: all {loaded} convolutions, {used:,} values; {len(values) - used:,} left over"


def save_weights(model: YOLOv2, path: str | Path) -> None:
    """Write a `.weights` file of version 0.2.

    Raises:
        ConfigError: not YOLOv2 on Darknet-19.
    """
    _need_darknet(model)
    with open(path, "wb") as file:
        file.write(_HEADER.pack(0, 2, 0) + struct.pack("<Q", int(model.seen)))
        for layer in _layers(model):
            for tensor in layer:
                file.write(tensor.detach().cpu().numpy().astype("<f4").tobytes())


def write_cfg(model: YOLOv2, path: str | Path, size: tuple[int, int], thresh: float = 0.6) -> None:
    """Write the network as Darknet's `.cfg`.

    Args:
        size: (height, width) of the input.
        thresh: Darknet reads it as the IoU above which a prediction is not punished as background; OpenCV reads it as
            the lowest score that it gives out, so write a small one for OpenCV.

    Raises:
        ConfigError: not YOLOv2 on Darknet-19.
    """
    _need_darknet(model)
    sections = [f"[net]\nbatch=1\nsubdivisions=1\nheight={size[0]}\nwidth={size[1]}\nchannels=3"]
    darknet19 = model.backbone
    assert isinstance(darknet19.to_16, nn.Sequential) and isinstance(darknet19.to_32, nn.Sequential)
    sections += [_section(layer) for layer in (*darknet19.to_16, *darknet19.to_32, *model.head)]
    if model.passthrough:
        sections.append("[route]\nlayers=-9")  # the last layer at stride 16
        sections += [_section(model.squeeze), "[reorg]\nstride=2", "[route]\nlayers=-1,-4"]
    sections += [_section(model.merge), _section(model.predict)]
    anchors = ", ".join(f"{value:.9g}" for value in model.anchors.flatten().tolist())
    sections.append(
        f"[region]\nanchors={anchors}\nbias_match=1\nclasses={model.classes}\ncoords=4\nnum={len(model.anchors)}\n"
        f"softmax=1\nrescore=1\nobject_scale=5\nnoobject_scale=1\nclass_scale=1\ncoord_scale=1\nabsolute=1\n"
        f"thresh={thresh:g}"
    )
    Path(path).write_text("\n\n".join(sections) + "\n", "utf-8")


def _section(layer: nn.Module) -> str:
    if isinstance(layer, nn.MaxPool2d):
        return "[maxpool]\nsize=2\nstride=2"
    normed = isinstance(layer, nn.Sequential)
    conv = layer[0] if isinstance(layer, nn.Sequential) else layer
    assert isinstance(conv, nn.Conv2d)
    return (
        f"[convolutional]\n{'batch_normalize=1' + chr(10) if normed else ''}filters={conv.out_channels}\n"
        f"size={conv.kernel_size[0]}\nstride=1\npad=1\nactivation={'leaky' if normed else 'linear'}"
    )


def _need_darknet(model: YOLOv2) -> None:
    name = getattr(getattr(model, "backbone", None), "name", type(model).__name__)
    if name != "darknet19":
        raise ConfigError(f"Darknet files hold YOLOv2 on darknet19 alone; this is {name!r}")


def _layers(module: nn.Module) -> list[list[Tensor]]:
    """Each convolution's tensors in the file's order. Modules are registered in the order of the `.cfg`."""
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


def _read(path: Path) -> tuple[int, NDArray[np.float32]]:
    """The images seen, and all values."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None
    major, minor, _ = _HEADER.unpack_from(data.ljust(_HEADER.size, b"\0"))
    seen_format = "<Q" if major * 10 + minor >= 2 else "<I"
    start = _HEADER.size + struct.calcsize(seen_format)
    if len(data) < start or (len(data) - start) % 4:
        raise ConfigError(f"{path}: {len(data):,} bytes; expected Darknet's header of {start} and then float32 values")
    return struct.unpack_from(seen_format, data, _HEADER.size)[0], np.frombuffer(data, "<f4", offset=start)


@torch.no_grad()
def _fill(layers: list[list[Tensor]], values: NDArray[np.float32], path: Path, *, surplus: bool) -> tuple[int, int]:
    """Copy as many whole layers as there are; gives their number and that of the values used."""
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


@click.group(cls=Group)
def main() -> None:
    """Darknet's YOLOv2 weights to a checkpoint of these trainers, and back."""


@main.command("import")
@click.argument("weights", type=click.Path(path_type=Path))
@click.option("--names", required=True, type=click.Path(path_type=Path), help="text file with a class name a line")
@click.option("--out", required=True, type=click.Path(path_type=Path), help="the checkpoint to write")
@click.option("--anchors", default="voc", show_default=True, help="voc, or w,h,w,h,... as in the .cfg")
@click.option("--size", default=416, show_default=True, help="side of the network's input, a multiple of 32")
def import_weights(weights: Path, names: Path, out: Path, anchors: str, size: int) -> None:
    """Turn Darknet's WEIGHTS of YOLOv2 into a checkpoint for trainers.evaluate and trainers.predict."""
    from trainers import anchors as anchor_sets
    from trainers import checkpoint
    from trainers.yolov2 import YOLOv2

    try:
        classes = [line.strip() for line in names.read_text("utf-8").splitlines() if line.strip()]
    except OSError as error:
        raise ConfigError(f"{names}: cannot be read: {error.strerror}") from None
    config = {"classes": len(classes), "anchors": [list(pair) for pair in anchor_sets.parse(anchors)]}
    model = YOLOv2(**config)  # type: ignore[arg-type]
    click.echo(load_weights(model, weights))
    facts = {"classes": classes, "class_ids": list(range(len(classes))), "size": [size, size], "fit": "stretch"}
    checkpoint.save(out, {"detector": "yolov2", "config": config, **facts, "model": model.state_dict()})


@main.command("export")
@click.argument("file", metavar="CHECKPOINT", type=click.Path(path_type=Path))
@click.option(
    "--out", required=True, type=click.Path(path_type=Path), help="folder for yolov2.weights, .cfg and .names"
)
def export_weights(file: Path, out: Path) -> None:
    """Write a CHECKPOINT of YOLOv2 on darknet19 as Darknet's files."""
    from trainers import checkpoint

    model, facts = checkpoint.load_detector(file)
    _need_darknet(model)  # type: ignore[arg-type]
    out.mkdir(parents=True, exist_ok=True)
    save_weights(model, out / "yolov2.weights")  # type: ignore[arg-type]
    write_cfg(model, out / "yolov2.cfg", tuple(facts["size"]))  # type: ignore[arg-type]
    (out / "yolov2.names").write_text("\n".join(facts["classes"]) + "\n", "utf-8")
    click.echo(f"{out}: yolov2.weights, yolov2.cfg, yolov2.names")


if __name__ == "__main__":
    main()
