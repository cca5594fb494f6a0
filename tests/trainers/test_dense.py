"""The dense detector, and as RetinaNet held to torchvision's."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor
from torchvision.models.detection import retinanet_resnet50_fpn

from dataforge import Shards
from dataforge.adapters import to_torchvision
from dataforge.errors import ConfigError
from dataforge.record import CROWD, DIFFICULT
from tests.trainers.suite import DetectorSuite, assert_rounded, make_batch
from trainers.config import read_toml
from trainers.dense import Dense, DenseConfig
from trainers.models.boxes import iou

RETINANET: dict[str, Any] = {
    "sizes": [[x, int(x * 2 ** (1 / 3)), int(x * 2 ** (2 / 3))] for x in (32, 64, 128, 256, 512)],
    "channels": 3,
    "backbone": "resnet50",
    "width": 256,
    "depth": 4,
}


class TestDense(DetectorSuite):
    name = "dense"
    config: ClassVar[dict[str, Any]] = {"classes": 3, "sizes": [[12, 24, 48, 96]], "width": 8}


class TestDenseWithPlainLevels(DetectorSuite):
    name = "dense"
    config: ClassVar[dict[str, Any]] = {"classes": 3, "sizes": [[16, 20, 25], [32, 40, 50]], "width": 8, "channels": 3}


class TestPyramid(DetectorSuite):
    name = "dense"
    config: ClassVar[dict[str, Any]] = {
        "classes": 3,
        "sizes": [[8], [16], [32], [64], [128]],
        "backbone": "test_efficientnet",
        "width": 16,
    }
    size = (128, 192)
    objects: ClassVar[list[list[tuple]]] = [
        [(6, 5, 15, 14, 0), (80, 66, 95, 84, 2), (110, 2, 142, 30, 1, DIFFICULT)],
        [],
        [(0, 0, 96, 64, 1, CROWD), (10, 6, 180, 124, 2), (100, 36, 160, 100, 0)],
    ]


@pytest.fixture(scope="module")
def theirs() -> Any:
    torch.manual_seed(0)
    model = retinanet_resnet50_fpn(weights=None, weights_backbone=None, num_classes=3)
    with torch.no_grad():  # as built, every score is 0.01 and every box its anchor
        for name, weight in model.head.named_parameters():
            if name.endswith("weight"):
                weight.mul_(2)
    return model.eval()


def ours_like(theirs: Any) -> Dense:
    ours = Dense(3, **RETINANET)
    state: dict[str, Tensor] = {}
    for name, tensor in theirs.state_dict().items():
        name = re.sub(r"backbone\.body", "backbone.net", name)
        name = re.sub(r"backbone\.fpn", "pyramid", name)
        name = re.sub(r"head\.classification_head\.(cls_logits)?", lambda m: "classify." + "last" * bool(m[1]), name)
        name = re.sub(r"head\.regression_head\.(bbox_reg)?", lambda m: "regress." + "last" * bool(m[1]), name)
        state[name] = tensor
    own = ours.state_dict()
    assert {n for n in own if not n.endswith(("num_batches_tracked", "mean", "std"))} <= state.keys() | {
        n for n in own if "running" in n
    }
    assert not state.keys() - own.keys()
    ours.load_state_dict(state, strict=False)
    return ours.eval()


def _matched(theirs: Any, fixed: Tensor, targets: list[dict[str, Tensor]]) -> tuple[list[Tensor], list[Tensor]]:
    """As its forward pass does in training, which would also change its batch norm."""
    matched = []
    for target in targets:
        if len(target["boxes"]):
            matched.append(theirs.proposal_matcher(iou(target["boxes"], fixed)))
        else:
            matched.append(torch.full((len(fixed),), -1))
    return [fixed] * len(targets), matched


@pytest.mark.parametrize(
    "objects",
    [
        [[(10.0, 20.0, 120.0, 180.0, 0), (150.0, 30.0, 290.0, 250.0, 2), (5.0, 5.0, 40.0, 30.0, 1)], [(3, 5, 9, 8, 1)]],
        [[], [(0, 0, 320, 256, 1)]],
    ],
)
def test_outputs_and_losses_are_torchvisions(theirs: Any, objects: list[list[tuple]]) -> None:
    ours = ours_like(theirs)
    draw = torch.Generator().manual_seed(1)
    batch = make_batch(torch.rand(2, 3, 256, 384, generator=draw), objects)
    _, targets = to_torchvision(batch, first_label=0)
    theirs.transform.min_size, theirs.transform.max_size = (256,), 384
    with torch.no_grad():
        raw = ours(batch.images)
        images, _ = theirs.transform(list(batch.images))
        features = list(theirs.backbone(images.tensors).values())
        heads = theirs.head(features)
        assert_rounded(raw.logits, heads["cls_logits"])
        assert_rounded(raw.offsets, heads["bbox_regression"])
        torch.testing.assert_close(raw.anchors, theirs.anchor_generator(images, features)[0])
        expected = theirs.head.compute_loss(targets, heads, *_matched(theirs, raw.anchors, targets))
        losses = ours.loss(raw, batch)
    assert float(losses["cls"]) == pytest.approx(float(expected["classification"]), rel=1e-4)
    assert float(losses["box"]) == pytest.approx(float(expected["bbox_regression"]), rel=1e-4, abs=1e-6)


def test_detections_are_torchvisions(theirs: Any) -> None:
    ours, images = ours_like(theirs), torch.rand(2, 3, 256, 384, generator=torch.Generator().manual_seed(2))
    theirs.transform.min_size, theirs.transform.max_size, theirs.score_thresh = (256,), 384, 0.001
    with torch.no_grad():
        found, expected = ours.decode(ours(images), conf=0.001, top=20), theirs(list(images))
    for i, one in enumerate(expected):
        torch.testing.assert_close(found.scores[i], one["scores"][:20], rtol=1e-4, atol=1e-5)
        # nearly equal scores may change places, and boxes of no area overlap nothing
        same = iou(one["boxes"][:20], found.boxes[i]).amax(1) > 0.99
        assert (same | ((one["boxes"][:20, 2:] - one["boxes"][:20, :2]).amin(1) < 0.1)).sum() >= 19


def test_grey_is_what_a_grey_picture_has() -> None:
    model = Dense(2, sizes=[[16]], width=8).eval()
    grey = torch.rand(1, 1, 32, 64).expand(-1, 3, -1, -1)
    with torch.no_grad():
        torch.testing.assert_close(model.backbone(grey[:, :1])[0], model.backbone((grey * 1.0).mean(1, True))[0])
        tinted = grey * torch.tensor([1.0, 0.5, 0.25]).view(-1, 1, 1)
        luma = (tinted * torch.tensor([0.299, 0.587, 0.114]).view(-1, 1, 1)).sum(1, True).expand(-1, 3, -1, -1)
        torch.testing.assert_close(model(tinted).logits, model(luma).logits)


def test_the_laptops_anchors(tiny_shards: Path) -> None:
    found = Dense.configure(DenseConfig(), Shards(tiny_shards))
    assert found["sizes"] == [[16, 32, 64, 128]]
    raw = Dense(**found)(torch.zeros(1, 3, 64, 128))
    assert raw.anchors.shape == (16 * 32 * 12, 4)
    five = Dense.configure(DenseConfig(backbone="resnet50", levels=5), Shards(tiny_shards))
    assert five["sizes"] == RETINANET["sizes"]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"levels": 0}, "levels is 0; expected one of 1, 2, 3, 4, 5"),
        ({"levels": 4, "backbone": "resnet18"}, "levels is 4; expected one of 1, 2, 3, 5"),
        ({"channels": 2}, "channels is 2; expected one of 1, 3"),
    ],
)
def test_wrong_values(tiny_shards: Path, values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Dense.configure(DenseConfig(**values), Shards(tiny_shards))


def test_the_recipes(tiny_shards: Path) -> None:
    def recipe(name: str) -> DenseConfig:
        file = Path(__file__).resolve().parents[2] / "configs" / name
        return DenseConfig(**read_toml(DenseConfig, file), shards=str(tiny_shards))

    laptop, retinanet = recipe("dense_laptop.toml"), recipe("retinanet.toml")
    assert laptop == DenseConfig(shards=str(tiny_shards), device="cpu", defaults="paper"), "its head says so"
    retinanet.check()
    found = Dense.configure(retinanet, Shards(tiny_shards))
    assert found["sizes"] == RETINANET["sizes"]
    model = Dense(**found).train()
    norms = [layer for layer in model.backbone.modules() if isinstance(layer, torch.nn.BatchNorm2d)]
    assert norms and not any(layer.training for layer in norms)
    learning = {name.split(".")[1] for name, weight in model.backbone.named_parameters() if weight.requires_grad}
    assert learning == {"layer2", "layer3", "layer4"}
