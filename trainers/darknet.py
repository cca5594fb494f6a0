"""Convert Darknet's `.weights` and `.cfg` files of YOLOv2 to checkpoints of these trainers, and back.

python -m trainers.darknet import|export
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from dataforge.command import Group, LocalPath, echo, natural


@click.group(cls=Group)
def main() -> None:
    """Darknet's YOLOv2 weights to a checkpoint of these trainers, and back."""


@main.command("import")
@click.argument("weights", type=click.Path(path_type=Path))
@click.option("--names", required=True, type=click.Path(path_type=Path), help="text file with one class name per line")
@click.option("--out", required=True, type=LocalPath(), help="checkpoint to write")
@click.option("--anchors", default="voc", show_default=True, help="voc, or w,h,w,h,... as in the .cfg")
@click.option(
    "--size", type=natural(), default=416, show_default=True, help="side of the network's input, a multiple of 32"
)
def import_weights(**given: Any) -> None:
    """Turn Darknet's WEIGHTS of YOLOv2 into a checkpoint for trainers.evaluate and trainers.predict."""
    from trainers import darknet

    darknet.import_file(**given)


@main.command("export")
@click.argument("file", metavar="CHECKPOINT", type=click.Path(path_type=Path))
@click.option("--out", required=True, type=LocalPath(), help="folder for yolov2.weights, .cfg and .names")
def export_weights(**given: Any) -> None:
    """Write a CHECKPOINT of YOLOv2 on darknet19 as Darknet's files."""
    from trainers import darknet

    darknet.export_file(**given)


if __name__ == "__main__":  # before torch is imported: help and wrong options are answered at once
    main()

import struct

from torch import nn

from dataforge.errors import ConfigError
from dataforge.files import reading, writing
from trainers import checkpoint
from trainers.models import anchors as anchor_sets
from trainers.models.darknet_files import HEADER, fill, layers_of, read_values
from trainers.yolov2 import YOLOv2


def load_weights(model: YOLOv2, path: str | Path) -> str:
    """Load a complete `.weights` file, or one that ends after some layer (such as `darknet19_448.conv.23`).

    A complete file also sets `model.seen`.

    Returns:
        A description of what was loaded.

    Raises:
        ConfigError: the model is not YOLOv2 on Darknet-19, the file does not exist, or the number of values does not
            match a whole number of layers.
    """
    _need_darknet(model)
    layers = layers_of(model)
    seen, values = read_values(Path(path))
    loaded, used = fill(layers, values, Path(path), surplus=False)
    if loaded == len(layers):
        model.seen.fill_(seen)
        return f"{path}: all {loaded} convolutions, {used:,} values, {seen:,} images seen"
    return f"{path}: the first {loaded} of {len(layers)} convolutions, {used:,} values; the file ends there"


def save_weights(model: YOLOv2, path: str | Path) -> None:
    """Write a `.weights` file of version 0.2.

    Raises:
        ConfigError: the model is not YOLOv2 on Darknet-19.
    """
    _need_darknet(model)
    with open(path, "wb") as file:
        file.write(HEADER.pack(0, 2, 0) + struct.pack("<Q", int(model.seen)))
        for layer in layers_of(model):
            for tensor in layer:
                file.write(tensor.detach().cpu().numpy().astype("<f4").tobytes())


def write_cfg(model: YOLOv2, path: str | Path, size: tuple[int, int], thresh: float = 0.6) -> None:
    """Write the network as Darknet's `.cfg`.

    Args:
        size: (height, width) of the input.
        thresh: Darknet reads it as the IoU above which a prediction is not penalised as background; OpenCV reads it as
            the minimum score of its detections, so write a small value for OpenCV.

    Raises:
        ConfigError: the model is not YOLOv2 on Darknet-19.
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


def import_file(weights: Path, names: Path, out: Path, anchors: str, size: int) -> None:
    """Carry out `import`."""
    with reading(names, ConfigError):
        classes = [line.strip() for line in names.read_text("utf-8").splitlines() if line.strip()]
    config = {"classes": len(classes), "anchors": [list(pair) for pair in anchor_sets.parse(anchors)]}
    model = YOLOv2(**config)  # type: ignore[arg-type]
    echo(load_weights(model, weights))
    facts = {"classes": classes, "class_ids": list(range(len(classes))), "size": [size, size], "fit": "stretch"}
    checkpoint.save(out, {"detector": "yolov2", "config": config, **facts, "model": model.state_dict()})


def export_file(file: Path, out: Path) -> None:
    """Carry out `export`."""
    model, facts = checkpoint.load_detector(file)
    _need_darknet(model)  # type: ignore[arg-type]
    with writing(out, ConfigError):
        out.mkdir(parents=True, exist_ok=True)
        save_weights(model, out / "yolov2.weights")  # type: ignore[arg-type]
        write_cfg(model, out / "yolov2.cfg", tuple(facts["size"]))  # type: ignore[arg-type]
        (out / "yolov2.names").write_text("\n".join(facts["classes"]) + "\n", "utf-8")
    echo(f"{out}: yolov2.weights, yolov2.cfg, yolov2.names")
