"""Detectors by name, each imported on use."""

from __future__ import annotations

from typing import get_type_hints

from dataforge.registry import load
from trainers.config import Config
from trainers.models.detector import Detector

DETECTORS = {
    "dense": "trainers.dense:Dense",
    "faster_rcnn": "trainers.faster_rcnn:FasterRCNN",
    "ssd": "trainers.ssd:SSD",
    "vit": "trainers.vit:ViT",
    "yolov2": "trainers.yolov2:YOLOv2",
}


def detector_class(name: str) -> type[Detector]:
    """Return a detector's class by name.

    Raises:
        ConfigError: the name is not known.
    """
    detector: type[Detector] = load("detector", name, DETECTORS)
    return detector


def config_class(name: str) -> type[Config]:
    """Return a detector's configuration class by name.

    Raises:
        ConfigError: the name is not known.
    """
    config: type[Config] = get_type_hints(detector_class(name).configure)["config"]
    return config
