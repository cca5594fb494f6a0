"""The detectors by name, each loaded when it is asked for."""

from __future__ import annotations

import importlib
from typing import get_type_hints

from dataforge.errors import unknown
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
    """A detector's class by name.

    Raises:
        ConfigError: the name is not known.
    """
    if name not in DETECTORS:
        raise unknown("detector", name, DETECTORS)
    module, _, attribute = DETECTORS[name].partition(":")
    found: type[Detector] = getattr(importlib.import_module(module), attribute)
    return found


def config_class(name: str) -> type[Config]:
    """The configuration of a detector by name.

    Raises:
        ConfigError: the name is not known.
    """
    found: type[Config] = get_type_hints(detector_class(name).configure)["config"]
    return found
