"""The detector without anchors and NMS."""

from __future__ import annotations

from typing import Any, ClassVar

from tests.trainers.suite import DetectorSuite

SMALL: dict[str, Any] = {"classes": 3, "backbone": "test_vit", "width": 16, "depth": 1, "window": 3, "global_blocks": 2}


class TestViT(DetectorSuite):
    """Windows of 3x3 tokens on a map of 4x6: some of them are padded."""

    name = "vit"
    config: ClassVar[dict[str, Any]] = SMALL


class TestMixFFN(DetectorSuite):
    name = "vit"
    config: ClassVar[dict[str, Any]] = {**SMALL, "ffn": "mix", "recompute": True}


class TestFrozen(DetectorSuite):
    name = "vit"
    config: ClassVar[dict[str, Any]] = {**SMALL, "train": "neck", "strides": [8, 16]}
    frozen = ("backbone.",)


class TestConvolutional(DetectorSuite):
    name = "vit"
    config: ClassVar[dict[str, Any]] = {**SMALL, "backbone": "test_efficientnet"}
