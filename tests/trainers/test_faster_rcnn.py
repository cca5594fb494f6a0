"""Faster R-CNN, held to torchvision's."""

from __future__ import annotations

import re
from typing import Any, ClassVar

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torchvision.models.detection import fasterrcnn_resnet50_fpn
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.roi_heads import fastrcnn_loss
from torchvision.ops import MultiScaleRoIAlign, roi_align

from dataforge.adapters import to_torchvision
from dataforge.errors import ConfigError
from tests.trainers.suite import DetectorSuite, assert_rounded, make_batch
from trainers import faster_rcnn
from trainers.faster_rcnn import FasterRCNN, propose
from trainers.models import assign, pooling
from trainers.models.detector import Detector

SMALL: dict[str, Any] = {"classes": 3, "backbone": "test_resnet", "regions": 64}


class _Suite(DetectorSuite):
    name = "faster_rcnn"

    @pytest.fixture
    def detector(self, monkeypatch: pytest.MonkeyPatch) -> Detector:
        keep = dict.fromkeys(faster_rcnn.KEEP, ((200, 200), (100, 100)))
        monkeypatch.setattr(faster_rcnn, "KEEP", keep)
        torch.manual_seed(0)
        return FasterRCNN(**self.config).eval()


class TestPyramid(_Suite):
    config: ClassVar[dict[str, Any]] = {**SMALL, "width": 16, "sizes": [[4], [8], [16], [32], [64]]}


class TestC4(_Suite):
    config: ClassVar[dict[str, Any]] = {
        **SMALL,
        "neck": "c4",
        "pooling": "pool",
        "class_agnostic": True,
        "sizes": [[16, 32, 64]],
    }


class TestDeformable(_Suite):
    config: ClassVar[dict[str, Any]] = {**SMALL, "neck": "c4", "pooling": "deform", "sizes": [[16, 32]]}


# --- torchvision ---------------------------------------------------------------------------------------------------

SIZE = (128, 192)
OBJECTS: list[list[tuple]] = [
    [(6, 5, 45, 54, 0), (80, 66, 125, 120, 2), (130, 2, 172, 30, 1)],
    [(10, 6, 180, 124, 2)],
    [],
]


@pytest.fixture(scope="module")
def theirs() -> Any:
    torch.manual_seed(0)
    model = fasterrcnn_resnet50_fpn(
        weights=None, weights_backbone=None, num_classes=4, min_size=SIZE[0], max_size=SIZE[1], box_score_thresh=0.01
    )
    with torch.no_grad():  # as built, all proposals score the same
        model.rpn.head.cls_logits.weight.mul_(20)
        model.rpn.head.bbox_pred.weight.mul_(5)
    return model.eval()


@pytest.fixture(scope="module")
def ours(theirs: Any) -> FasterRCNN:
    model = FasterRCNN(3)
    names = {
        r"backbone\.body": "backbone.net",
        r"backbone\.fpn": "pyramid",
        r"rpn\.head\.conv\.0\.0": "rpn_conv",
        r"rpn\.head\.cls_logits": "rpn_logits",
        r"rpn\.head\.bbox_pred": "rpn_offsets",
        r"roi_heads\.box_head\.fc6": "tail.1",
        r"roi_heads\.box_head\.fc7": "tail.3",
        r"roi_heads\.box_predictor\.cls_score": "classify",
        r"roi_heads\.box_predictor\.bbox_pred": "regress",
    }
    state = {}
    for name, tensor in theirs.state_dict().items():
        for theirs_name, ours_name in names.items():
            name = re.sub(theirs_name, ours_name, name)
        state[name] = pooling.by_cell(tensor) if name == "tail.1.weight" else tensor
    missing, unexpected = model.load_state_dict(state, strict=False)
    assert not unexpected and set(missing) <= {"steps", "backbone.mean", "backbone.std"}
    return model.eval()


@pytest.fixture
def batch() -> Any:
    return make_batch(torch.rand(3, 3, *SIZE, generator=torch.Generator().manual_seed(1)), OBJECTS)


@torch.no_grad()
def their_first_stage(theirs: Any, batch: Any) -> tuple[Any, ...]:
    images, _ = theirs.transform(list(batch.images))
    features = theirs.backbone(images.tensors)
    return images, features, theirs.rpn.head(list(features.values())), theirs.rpn(images, features)[0]


@torch.no_grad()
def test_features_rpn_and_proposals_are_torchvisions(theirs: Any, ours: FasterRCNN, batch: Any) -> None:
    images, features, (logits, offsets), proposals = their_first_stage(theirs, batch)
    raw = ours(batch.images)
    for mine, their in zip(raw.maps, features.values(), strict=False):
        assert_rounded(mine, their)
    logit = torch.cat([x.permute(0, 2, 3, 1).flatten(1) for x in logits], 1)
    offset = torch.cat([x.permute(0, 2, 3, 1).reshape(3, -1, 4) for x in offsets], 1)
    assert_rounded(raw.logits, logit)
    assert_rounded(raw.offsets, offset)
    torch.testing.assert_close(raw.anchors, theirs.rpn.anchor_generator(images, list(features.values()))[0])
    for i, their in enumerate(proposals):
        mine = raw.proposals[i][raw.real[i]]
        assert len(mine) == len(their)
        same = ((mine[:, None] - their).abs().amax(-1).amin(1) < 0.05).float().mean()
        assert same > 0.99, "nearly equal scores may change places, and then what NMS drops"


def test_proposals_are_ordered_by_their_logits() -> None:
    """In float32 the sigmoids of both are 1: each runtime would keep another of the two boxes."""
    logits = [torch.tensor([[20.0, 21.0]])]
    fixed = [torch.tensor([[0.0, 0.0, 40.0, 40.0], [1.0, 0.0, 41.0, 40.0]])]
    boxes, real = propose(logits, [torch.zeros(1, 2, 4)], fixed, torch.full((4,), 100.0), 2, 2)
    assert real.tolist() == [[True, False]] and boxes[0, 0].tolist() == fixed[0][1].tolist()
    assert logits[0].sigmoid().unique().numel() == 1


@torch.no_grad()
def test_detections_are_torchvisions(theirs: Any, ours: FasterRCNN, batch: Any) -> None:
    found, expected = ours.decode(ours(batch.images), conf=0.01), theirs(list(batch.images))
    for i, one in enumerate(expected):
        count = int((found.labels[i] >= 0).sum())
        assert count == len(one["scores"]) > 20
        torch.testing.assert_close(found.scores[i, :count], one["scores"], rtol=1e-3, atol=1e-4)
        near = (one["boxes"][:, None] - found.boxes[i, :count]).abs().amax(-1) < 0.1  # of 200 pixels
        same = near & (one["labels"][:, None] == found.labels[i, :count] + 1)
        assert same.any(1).float().mean() > 0.95


@torch.no_grad()
def test_losses_are_torchvisions(theirs: Any, ours: FasterRCNN, batch: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """With all anchors and regions sampled, so that no chance is left."""
    monkeypatch.setattr(faster_rcnn, "RPN_SAMPLES", 1 << 20)
    monkeypatch.setattr(ours, "regions", 1 << 20)
    raw = ours(batch.images)
    losses = ours.loss(raw, batch)
    images, features, _, _ = their_first_stage(theirs, batch)
    _, targets = to_torchvision(batch)
    for sampler in (theirs.rpn.fg_bg_sampler, theirs.roi_heads.fg_bg_sampler):
        monkeypatch.setattr(sampler, "batch_size_per_image", 1 << 20)
    monkeypatch.setattr(theirs.rpn, "training", True)
    monkeypatch.setattr(theirs.rpn, "_pre_nms_top_n", {"training": 1000, "testing": 1000})
    expected = theirs.rpn(ImageList(images.tensors, images.image_sizes), features, targets)[1]
    assert float(losses["rpn_obj"]) == pytest.approx(float(expected["loss_objectness"]), rel=1e-4)
    assert float(losses["rpn_box"]) == pytest.approx(float(expected["loss_rpn_box_reg"]), rel=1e-4)
    mine = [raw.proposals[i][raw.real[i]] for i in range(3)]
    regions, _, labels, goals = theirs.roi_heads.select_training_samples(mine, targets)
    pooled = theirs.roi_heads.box_head(theirs.roi_heads.box_roi_pool(features, regions, images.image_sizes))
    classes, boxes = fastrcnn_loss(*theirs.roi_heads.box_predictor(pooled), labels, goals)
    assert float(losses["cls"]) == pytest.approx(float(classes), rel=1e-4)
    assert float(losses["box"]) == pytest.approx(float(boxes), rel=1e-4)


def test_what_flows_back_is_torchvisions(
    theirs: Any, ours: FasterRCNN, batch: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first stage's losses, through it into the features, with all anchors sampled."""
    monkeypatch.setattr(faster_rcnn, "RPN_SAMPLES", 1 << 20)
    images, _ = theirs.transform(list(batch.images))
    with torch.no_grad():
        features = {key: x.detach() for key, x in theirs.backbone(images.tensors).items()}
    found = []
    for kind in (0, 1):
        maps = {key: x.clone().requires_grad_() for key, x in features.items()}
        if kind:
            monkeypatch.setattr(ours.pyramid, "forward", lambda _, maps=maps: list(maps.values()))
            losses = ours.loss(ours(batch.images), batch)
            loss, head = losses["rpn_obj"] + losses["rpn_box"], ours.rpn_conv
        else:
            monkeypatch.setattr(theirs.rpn.fg_bg_sampler, "batch_size_per_image", 1 << 20)
            monkeypatch.setattr(theirs.rpn, "training", True)
            loss = sum(
                theirs.rpn(ImageList(images.tensors, images.image_sizes), maps, to_torchvision(batch)[1])[1].values()
            )
            head = theirs.rpn.head.conv[0][0]
        found.append(torch.autograd.grad(loss, [head.weight, head.bias, *maps.values()]))
    for one, other in zip(*found, strict=True):
        assert (one - other).norm() < 1e-2 * other.norm(), "a ReLU or two may turn, where its input is nearly 0"


# --- poolers -------------------------------------------------------------------------------------------------------


def regions_of(boxes: Tensor) -> Tensor:
    image = torch.arange(len(boxes)).repeat_interleave(boxes.shape[1]).unsqueeze(1)
    return torch.cat([image.float(), boxes.flatten(0, 1)], 1)


def some_boxes(seed: int, count: int = 12, side: float = 200.0) -> Tensor:
    draw = torch.Generator().manual_seed(seed)
    corner = torch.rand(2, count, 2, generator=draw) * side * 0.6
    return torch.cat([corner, corner + 20 + torch.rand(2, count, 2, generator=draw) * side * 0.35], -1)


@given(seed=st.integers(0, 1000))
@settings(max_examples=20, deadline=None)
def test_pyramid_levels_are_torchvisions(seed: int) -> None:
    draw = torch.Generator().manual_seed(seed)
    maps = [torch.randn(2, 3, 256 // s, 320 // s, generator=draw) for s in (4, 8, 16, 32)]
    boxes = some_boxes(seed, side=320.0)
    theirs = MultiScaleRoIAlign(["0", "1", "2", "3"], 7, 2)
    expected = theirs({str(i): x for i, x in enumerate(maps)}, list(boxes), [(256, 320)] * 2)
    found, place = pooling.pool(pooling.Align(3, 7), maps, (4, 8, 16, 32), boxes)
    torch.testing.assert_close(found[place.flatten()], expected)


@given(seed=st.integers(0, 1000), size=st.tuples(st.integers(1, 20), st.integers(1, 20)), channels_last=st.booleans())
@settings(max_examples=30, deadline=None)
def test_align_is_torchvisions_wherever_a_region_lies(seed: int, size: tuple[int, int], channels_last: bool) -> None:
    """Values and gradients; regions beyond the edges, thin ones, and none."""
    draw = torch.Generator().manual_seed(seed)
    features = torch.randn(2, 3, *size, generator=draw)
    features = features.contiguous(memory_format=torch.channels_last) if channels_last else features
    corner = torch.rand(2, seed % 5, 2, generator=draw) * 400 - 150
    regions = regions_of(torch.cat([corner, corner + torch.rand(2, seed % 5, 2, generator=draw) * 200], -1))
    features.requires_grad_()
    found, expected = pooling.Align(3, 7)(features, regions, 1 / 8), roi_align(features, regions, 7, 1 / 8, 2)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    back = torch.randn(expected.shape, generator=draw)
    torch.testing.assert_close(
        *(torch.autograd.grad(x, features, back)[0] for x in (found, expected)), rtol=1e-4, atol=1e-4
    )


@pytest.mark.parametrize("kind", pooling.POOLERS)
def test_all_poolers_see_the_same_region(kind: str) -> None:
    """On a picture that rises linearly each gives about the value at the bins' middles."""
    y, x = torch.meshgrid(torch.arange(32.0), torch.arange(40.0), indexing="ij")
    features = torch.stack([torch.stack([x, y]), torch.stack([x + 100, y + 100])])
    boxes = some_boxes(3)
    found = pooling.pool(pooling.POOLERS[kind](2, 7), [features], [8], boxes)[0].reshape(2, -1, 2, 7, 7)
    expected = roi_align(features, regions_of(boxes), 7, 1 / 8, 2).view(2, -1, 2, 7, 7)
    size = (boxes[..., 2:] - boxes[..., :2])[..., None, None] / 8
    allowed = {"align": 1e-4, "deform": 1e-4, "crop": 1 / 14, "pool": 1.0}[kind]
    assert (
        (found - expected).abs() <= allowed * size.clamp(min=1 if kind == "pool" else 0) + 1.1 * (kind == "pool") + 1e-4
    ).all()


def test_deformed_bins_move_by_a_share_of_the_region() -> None:
    y, x = torch.meshgrid(torch.arange(32.0), torch.arange(40.0), indexing="ij")
    pooler = pooling.Deform(2, 7)
    boxes = some_boxes(3)
    before = pooling.pool(pooler, [torch.stack([x, y]).expand(2, -1, -1, -1)], [8], boxes)[0]
    with torch.no_grad():
        pooler.offsets.bias.view(49, 2)[:] = torch.tensor([0.5, -0.3])
    after = pooling.pool(pooler, [torch.stack([x, y]).expand(2, -1, -1, -1)], [8], boxes)[0]
    size = (boxes[..., 2:] - boxes[..., :2]).flatten(0, 1) / 8
    moved = (after - before).flatten(2)
    inner = (before.flatten(2)[:, 1] > 3).all(1)  # those whose samples stay on the map
    expected = size * torch.tensor([0.05, -0.03])
    torch.testing.assert_close(moved[inner].mean(-1), expected[inner], rtol=1e-3, atol=1e-3)


def test_a_region_does_not_see_the_next_image() -> None:
    features = torch.stack([torch.zeros(1, 8, 8), torch.ones(1, 8, 8)])
    boxes = torch.tensor([[[0.0, 0, 64, 64], [30, 50, 80, 90]], [[0.0, 0, 64, 64], [-20, -20, 20, 20]]])
    for kind in ("crop", "deform"):
        found = pooling.pool(pooling.POOLERS[kind](1, 7), [features], [8], boxes)[0].reshape(2, -1)
        assert (found[0] == 0).all() and (found[1] == 1).all()


# --- the rest --------------------------------------------------------------------------------------------------------


def test_keys_depend_on_record_and_step_alone() -> None:
    step = torch.tensor(5)
    both = assign.keys(torch.tensor([3, 9]), 40, step)
    assert torch.equal(both[1:], assign.keys(torch.tensor([9]), 40, step))
    assert torch.equal(both[:, :10], assign.keys(torch.tensor([3, 9]), 10, step))
    many = assign.keys(torch.arange(50), 4000, step)
    assert many.min() >= 0 and many.max() < 1 and abs(float(many.mean()) - 0.5) < 0.005
    assert many.unique().numel() > 0.98 * many.numel()
    assert (
        abs(
            float(
                torch.corrcoef(torch.stack([many.flatten(), assign.keys(torch.arange(50), 4000, step + 1).flatten()]))[
                    0, 1
                ]
            )
        )
        < 0.01
    )


def test_norms_stay_frozen() -> None:
    model = FasterRCNN(2, backbone="test_resnet", width=8, frozen_norm=True).train()
    norms = [m for m in model.backbone.modules() if isinstance(m, nn.BatchNorm2d)]
    assert norms and not any(m.training or m.weight.requires_grad for m in norms)
    assert model.backbone.training


def test_large_layers_run_in_the_precision_of_the_maps() -> None:
    """Also where the loss calls them, outside of autocast."""
    model = FasterRCNN(3, backbone="test_resnet", width=8, regions=32, sizes=[[4], [8], [16], [32], [64]]).eval()
    kinds = []
    model.tail[1].register_forward_hook(lambda _, given, made: kinds.append(made.dtype))  # type: ignore[index]
    boxes = torch.tensor([[[0.0, 0, 30, 40], [20, 10, 90, 60]]])
    found = []
    for kind in (torch.float32, torch.bfloat16):
        maps = [map_.to(kind) for map_ in model(torch.ones(1, 3, 64, 128)).maps]
        found.append(model.second_stage(maps, boxes))
        assert found[-1][0].dtype == found[-1][1].dtype == torch.float32
    assert kinds == [torch.float32, torch.bfloat16]
    torch.testing.assert_close(found[0], found[1], atol=0.05, rtol=0.05)


def test_more_boxes_than_regions_are_all_seen() -> None:
    """300 boxes are all learnt by the first stage; the second samples of them."""
    grid = [(x, y, x + 6, y + 4, 1) for y in range(0, 60, 4) for x in range(0, 120, 6)]
    assert len(grid) == 300
    batch = make_batch(torch.zeros(1, 3, 64, 128), [grid], 512)
    model = FasterRCNN(3, backbone="test_resnet", width=8, regions=32, sizes=[[4], [8], [16], [32], [64]])
    raw = model.eval()(batch.images)
    eligible, shields = assign.targets(batch, difficult=False)
    owner = assign.match(raw.anchors, batch.boxes, eligible, high=0.7, low=0.3, force="ties")
    assert owner.max() >= 0 and eligible.sum() == 300
    regions, owner = model._regions(raw, batch, eligible, shields)
    assert regions.shape == (1, 32, 4) and (owner >= 0).sum() <= 8
    assert all(value.isfinite() for value in model.loss(raw, batch).values())


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"neck": "c5"}, "neck is 'c5'; expected one of fpn, c4"),
        ({"pooling": "warp"}, "pooling is 'warp'; expected one of pool, align, crop, deform"),
        ({"neck": "c4", "backbone": "test_efficientnet"}, "has no layer4; neck c4 takes vgg16 and ResNets"),
    ],
)
def test_wrong_values(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        FasterRCNN(2, **values)
