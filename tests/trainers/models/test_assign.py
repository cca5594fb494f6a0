"""Assignment, sampling, mining and box offsets, against torchvision's loops over images."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torchvision.models.detection._utils import BoxCoder, Matcher, SSDMatcher
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.image_list import ImageList
from torchvision.ops import sigmoid_focal_loss

from dataforge.record import CROWD, DIFFICULT
from tests.trainers.suite import make_batch
from trainers.dense import Dense
from trainers.faster_rcnn import FasterRCNN
from trainers.models import anchors, assign, losses
from trainers.models.boxes import iou


def boxes(draw: torch.Generator, *shape: int, side: float = 90.0) -> Tensor:
    corner = torch.rand(*shape, 2, generator=draw) * side
    return torch.cat([corner, corner + 2 + torch.rand(*shape, 2, generator=draw) * side / 2], -1)


@pytest.mark.parametrize("force", ["no", "best", "ties"])
@pytest.mark.parametrize("block", [40, 1 << 22])
@given(seed=st.integers(0, 1000))
@settings(max_examples=15, deadline=None)
def test_match_is_torchvisions(force: str, block: int, seed: int) -> None:
    draw = torch.Generator().manual_seed(seed)
    fixed, truth = boxes(draw, 200), boxes(draw, 3, 8)
    eligible = torch.rand(3, 8, generator=draw) < 0.6
    eligible[:, 0] = True
    eligible &= iou(truth, fixed).amax(2) > 0  # with a box that meets no anchor, torchvision forces the first one
    high, low = (0.5, 0.5) if force == "best" else (0.6, 0.3)
    whole, assign.BLOCK = assign.BLOCK, {"cpu": block}
    try:
        found = assign.match(fixed, truth, eligible, high=high, low=low, force=force)  # type: ignore[arg-type]
    finally:
        assign.BLOCK = whole
    matcher = SSDMatcher(high) if force == "best" else Matcher(high, low, allow_low_quality_matches=force == "ties")
    for i in range(3):
        numbers = eligible[i].nonzero()[:, 0]
        expected = matcher(iou(truth[i][numbers], fixed))
        expected = torch.where(expected >= 0, numbers[expected.clamp(min=0)], expected)
        assert torch.equal(found[i], expected)


def test_no_place_for_boxes_and_none_in_it() -> None:
    fixed = boxes(torch.Generator().manual_seed(0), 5)
    for places in (0, 4):
        nothing = torch.zeros(2, places, dtype=torch.bool)
        found = assign.match(fixed, torch.zeros(2, places, 4), nothing, high=0.5, low=0.4, force="ties")
        assert (found == assign.NEGATIVE).all() and found.shape == (2, 5)


def test_crowds_shield_and_are_not_learnt() -> None:
    batch = make_batch(torch.zeros(1, 3, 64, 64), [[(0, 0, 40, 40, 1, CROWD), (50, 50, 60, 60, 0, DIFFICULT)]])
    fixed = torch.tensor([[0.0, 0, 20, 20], [30, 0, 60, 30], [50, 50, 60, 61], [0, 50, 9, 60]])
    eligible, shields = assign.targets(batch)
    found = assign.match(fixed, batch.boxes, eligible, high=0.5, low=0.4, shields=shields)
    assert found.tolist() == [[assign.IGNORED, assign.NEGATIVE, 1, assign.NEGATIVE]]
    eligible, shields = assign.targets(batch, difficult=False)
    found = assign.match(fixed, batch.boxes, eligible, high=0.5, low=0.4, shields=shields)
    assert found.tolist() == [[assign.IGNORED, assign.NEGATIVE, assign.IGNORED, assign.NEGATIVE]]


@given(seed=st.integers(0, 1000), count=st.integers(1, 40), share=st.sampled_from([0.0, 0.25, 0.5, 1.0]))
@settings(max_examples=50, deadline=None)
def test_sample_fills_up_with_negatives(seed: int, count: int, share: float) -> None:
    draw = torch.Generator().manual_seed(seed)
    found = torch.randint(-2, 2, (4, 50), generator=draw)
    keys = torch.rand(4, 50, generator=draw)
    place, owner = assign.sample(found, keys, count=count, positive=share)
    assert place.shape == owner.shape == (4, min(count, 50))
    for i in range(4):
        drawn = place[i][owner[i] != assign.IGNORED]
        assert torch.equal(found[i][drawn], owner[i][owner[i] != assign.IGNORED])
        positive, negative = ((found[i] >= 0).nonzero()[:, 0], (found[i] == assign.NEGATIVE).nonzero()[:, 0])
        wanted = min(len(positive), int(count * share))
        expected = [
            positive[keys[i][positive].argsort()[:wanted]],
            negative[keys[i][negative].argsort()[: count - wanted]],
        ]
        assert drawn.tolist() == torch.cat(expected).tolist(), "those of the smallest keys, each once"


def test_focal_is_torchvisions() -> None:
    draw = torch.Generator().manual_seed(0)
    logits = (torch.randn(50, 7, generator=draw) * 5).requires_grad_()
    truth = (torch.rand(50, 7, generator=draw) < 0.2).float()
    for alpha in (0.25, -1.0):
        ours, theirs = losses.focal(logits, truth, alpha=alpha), sigmoid_focal_loss(logits, truth, alpha)
        torch.testing.assert_close(ours, theirs)
        torch.testing.assert_close(*(torch.autograd.grad(loss.sum(), logits)[0] for loss in (ours, theirs)))


def test_hard_negatives_are_the_hardest() -> None:
    draw = torch.Generator().manual_seed(0)
    loss, positive = torch.rand(4, 100, generator=draw), torch.rand(4, 100, generator=draw) < 0.1
    positive[3] = False
    negative = ~positive & (torch.rand(4, 100, generator=draw) < 0.8)
    chosen = losses.hard_negatives(loss, positive, negative)
    for i in range(4):
        count = min(3 * int(positive[i].sum()), int(negative[i].sum()))
        hardest = set(torch.where(negative[i], loss[i], -1).topk(count).indices.tolist())
        assert set(chosen[i].nonzero()[:, 0].tolist()) == hardest


def test_offsets_are_torchvisions_and_invert() -> None:
    draw = torch.Generator().manual_seed(0)
    fixed, truth, weights = boxes(draw, 60), boxes(draw, 60), (10.0, 10.0, 5.0, 5.0)
    coder = BoxCoder(weights)
    offsets = anchors.to_offsets(fixed, truth, weights)
    torch.testing.assert_close(offsets, coder.encode_single(truth, fixed))
    torch.testing.assert_close(anchors.from_offsets(offsets, fixed, weights), truth)
    wild = torch.randn(60, 4, generator=draw) * 50
    torch.testing.assert_close(anchors.from_offsets(wild, fixed, weights), coder.decode_single(wild, fixed))
    assert anchors.to_offsets(fixed, torch.zeros(60, 4)).isfinite().all()


def spacing(boxes: Tensor) -> list[float]:
    """The distinct distances between neighbouring centres, down and across."""
    centre = (boxes[:, :2] + boxes[:, 2:]) / 2
    return sorted({float(step) for axis in (0, 1) for step in centre[:, axis].unique().diff()})


@pytest.mark.parametrize("size", [(300, 300), (260, 332), (128, 64)])
def test_anchors_lie_by_the_stride_of_their_map(size: tuple[int, int]) -> None:
    """Also where the sides are no multiples of it: a map of 300 pixels at stride 8 has 38 rows."""
    plain = Dense(3, sizes=[[16], [32], [64]], channels=3, width=8)
    timm = Dense(3, sizes=[[32], [64], [128], [256], [512]], channels=3, width=8, backbone="test_resnet")
    regions = FasterRCNN(3, backbone="test_resnet", width=8, regions=4)
    for model, strides in ((plain, (4, 8, 16)), (timm, (8, 16, 32, 64, 128)), (regions, (4, 8, 16, 32, 64))):
        with torch.no_grad():
            raw = model.eval()(torch.zeros(1, 3, *size))
        counts = [3 * level.shape[2] * level.shape[3] for level in raw.maps]
        for boxes, stride in zip(raw.anchors.split(counts), strides, strict=True):
            assert spacing(boxes) in ([stride], []), stride


def test_grid_is_torchvisions() -> None:
    theirs = AnchorGenerator(((32, 64),), ((0.5, 1.0, 2.0),))
    shape = theirs.cell_anchors[0]
    images = ImageList(torch.zeros(1, 3, 48, 80), [(48, 80)])
    expected = theirs(images, [torch.zeros(1, 1, 3, 5)])[0]
    found = anchors.grid(shape[:, 2:] - shape[:, :2], 3, 5, (16, 16))
    torch.testing.assert_close(found, expected)
    middle = anchors.grid(torch.tensor([[4.0, 2.0]]), 2, 3, (10, 20), 0.5)
    assert middle[0].tolist() == [8, 4, 12, 6] and middle[-1].tolist() == [48, 14, 52, 16]
