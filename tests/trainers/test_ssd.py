"""SSD, held to torchvision's and to the paper's numbers."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor
from torchvision.models import vgg16
from torchvision.models.detection import ssd300_vgg16
from torchvision.models.detection.image_list import ImageList

from dataforge.adapters import to_torchvision
from dataforge.errors import ConfigError
from dataforge.record import CROWD, DIFFICULT
from tests.trainers.suite import DetectorSuite, make_batch
from trainers import ssd
from trainers.models import assign, priors
from trainers.models.boxes import iou

# one of each size, so that every map has something to learn
OBJECTS: list[list[tuple]] = [
    [(9, 15, 39, 47, 0), (120, 99, 185, 152, 2), (180, 6, 276, 90, 1, DIFFICULT)],
    [],
    [(0, 0, 288, 260, 1), (31.5, 36.25, 200, 200, 2), (60, 20, 280, 250, 0), (5, 200, 55, 250, 1, CROWD)],
]


class TestSSD(DetectorSuite):
    name = "ssd"
    config: ClassVar[dict[str, Any]] = {"classes": 3, "backbone": "test_efficientnet"}
    size = (260, 288)
    objects = OBJECTS


class TestSSDOnVGG(DetectorSuite):
    name = "ssd"
    config: ClassVar[dict[str, Any]] = {"classes": 3, "backbone": "vgg16"}
    size = (260, 288)
    objects = OBJECTS


@pytest.fixture(scope="module")
def theirs() -> Any:
    torch.manual_seed(0)
    return ssd300_vgg16(weights=None, weights_backbone=None, num_classes=4)


def ours_like(theirs: Any) -> ssd.SSD:
    ours = ssd.SSD(3, style="torchvision")
    said = ours.load(theirs.state_dict(), "theirs")
    assert said == f"theirs: {len(theirs.state_dict())} tensors"
    return ours


def test_the_paper_has_8732_priors_unclipped() -> None:
    maps = [(38, 38), (19, 19), (10, 10), (5, 5), (3, 3), (1, 1)]
    found = priors.priors((300, 300), maps)
    assert found.shape == (8732, 4) and found.min() < 0 and found.max() > 300
    centre, side = (found[:, :2] + found[:, 2:]) / 600, (found[:, 2:] - found[:, :2]) / 300
    # the first cell's four, and the last map's six: scales .1 and .9, the next scale .2 and 1
    torch.testing.assert_close(centre[:4], torch.full((4, 2), 0.5 / 38))
    root = 2**0.5
    first = [(0.1, 0.1), (0.02**0.5,) * 2, (0.1 * root, 0.1 / root), (0.1 / root, 0.1 * root)]
    torch.testing.assert_close(side[:4], torch.tensor(first))
    last = [(0.9, 0.9), (0.9**0.5,) * 2, (0.9 * root, 0.9 / root), (0.9 / root, 0.9 * root)]
    torch.testing.assert_close(side[-4:], torch.tensor(last))
    torch.testing.assert_close(centre[-4:], torch.full((4, 2), 0.5))


def test_ssd512_has_24564_priors() -> None:
    with torch.device("meta"):
        model = ssd.SSD(20, maps=7)
        maps = [int(n) for n in (64, 32, 16, 8, 4, 2, 1)]
    raw_shapes = [head.out_channels // 4 for head in model.regress]  # type: ignore[union-attr]
    assert sum(n * m * m for n, m in zip(raw_shapes, maps, strict=True)) == 24564
    with torch.no_grad():
        raw = ssd.SSD(2, maps=7, backbone="test_efficientnet").eval()(torch.zeros(1, 3, 512, 512))
    assert raw.offsets.shape == (1, 24564, 4) and raw.priors.shape == (24564, 4)


@pytest.mark.parametrize("objects", [OBJECTS, [[], [], []]])
def test_outputs_matches_and_loss_are_torchvisions(theirs: Any, objects: list[list[tuple]]) -> None:
    plain = [[box[:5] for box in image] for image in objects]
    draw = torch.Generator().manual_seed(1)
    batch = make_batch(torch.rand(3, 3, 300, 300, generator=draw), plain)
    ours = ours_like(theirs).train()
    theirs.train()
    _, targets = to_torchvision(batch)
    with torch.no_grad():
        raw = ours(batch.images)
        images, _ = theirs.transform(list(batch.images))
        features = list(theirs.backbone(images.tensors).values())
        heads = theirs.head(features)
        torch.testing.assert_close(raw.offsets, heads["bbox_regression"], rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(raw.logits, heads["cls_logits"], rtol=1e-4, atol=1e-4)
        fixed = theirs.anchor_generator(ImageList(images.tensors, [(300, 300)]), features)[0]
        torch.testing.assert_close(raw.priors, fixed, rtol=0, atol=1e-3)
        eligible, _ = assign.targets(batch)
        found = assign.match(raw.priors, batch.boxes, eligible, high=0.5, low=0.5, force="best")
        for image, target in zip(found, targets, strict=True):
            if len(target["boxes"]):
                assert torch.equal(image, theirs.proposal_matcher(iou(target["boxes"], fixed)))
        losses = ours.loss(raw, batch)
        expected = theirs(list(batch.images), targets)
    assert float(losses["box"]) == pytest.approx(float(expected["bbox_regression"]), rel=1e-4, abs=1e-6)
    assert float(losses["cls"]) == pytest.approx(float(expected["classification"]), rel=1e-4, abs=1e-6)


def test_detections_are_torchvisions(theirs: Any) -> None:
    draw = torch.Generator().manual_seed(1)
    images = torch.rand(2, 3, 300, 300, generator=draw)
    ours = ours_like(theirs).eval()
    theirs.eval()
    with torch.no_grad():
        found = ours.decode(ours(images), conf=0.01, top=50)
        expected = theirs(list(images))
    for i, one in enumerate(expected):
        count = min(50, len(one["scores"]))
        torch.testing.assert_close(found.scores[i, :count], one["scores"][:count], rtol=1e-4, atol=1e-5)


def test_a_vanished_map_gives_numbers() -> None:
    model = ssd.SSD(2).train()
    with torch.no_grad():
        last = model.backbone.features[21]  # type: ignore[index]
        last.weight.zero_()  # type: ignore[union-attr]
        last.bias.fill_(-1)  # type: ignore[union-attr]
    batch = make_batch(torch.rand(1, 3, 260, 260), [[(9, 15, 39, 47, 0)]])
    torch.stack(list(model.loss(model(batch.images), batch).values())).sum().backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


def test_a_backbone_that_rounds_down_needs_larger_images() -> None:
    model = ssd.SSD(2, backbone="test_convnext").eval()
    assert model(torch.rand(1, 3, 288, 300)).priors.shape[1] == 4
    with pytest.raises(ConfigError, match=r"260x280 leave backbone 'test_convnext' a map of 2x2.*expected 288 pixels"):
        model(torch.rand(1, 3, 260, 280))


def test_vgg16s_large_layers_are_thinned_out() -> None:
    torch.manual_seed(0)
    state = vgg16(weights=None).state_dict()
    model = ssd.SSD(2)
    said = model.load(state, "vgg16.pth")
    assert said == "vgg16.pth: 30 tensors"
    own = model.state_dict()
    assert torch.equal(own["backbone.features.28.weight"], state["features.28.weight"])
    whole = state["classifier.0.weight"].view(4096, 512, 7, 7)
    assert torch.equal(own["fc.1.weight"][5, 7, 1, 2], whole[20, 7, 3, 6])
    assert torch.equal(own["fc.3.weight"][3, 9, 0, 0], state["classifier.3.weight"][12, 36])
    with pytest.raises(ConfigError, match="holds neither"):
        model.load({"conv.weight": torch.zeros(1)}, "other.pth")


@pytest.mark.parametrize("options", [{"scales": [0.05, 0.1, 0.2, 0.4, 0.7, 0.9, 1.0]}, {"top_down": 512}])
def test_heads_for_other_priors_or_maps_are_not_loaded(theirs: Any, options: dict[str, Any]) -> None:
    model = ssd.SSD(3, style="torchvision", **options)
    heads = {k: weight.clone() for k, weight in model.state_dict().items() if k.startswith(("regress", "classify"))}
    said = model.load(theirs.state_dict(), "theirs")
    count = len(theirs.state_dict()) - len(heads)
    assert said == f"theirs: {count} tensors; left out, for priors = auto or top_down: classify, regress"
    assert all(torch.equal(model.state_dict()[name], weight) for name, weight in heads.items())


def test_other_class_counts_leave_the_heads_out(theirs: Any) -> None:
    said = ssd.SSD(7, style="torchvision").load(theirs.state_dict(), "theirs")
    assert "left out, for their shape: classify.0.bias" in said and "regress" not in said


@pytest.mark.parametrize(("size", "maps"), [([300, 300], 6), ([512, 512], 7), ([257, 400], 6)])
def test_configure(tiny_shards: Path, size: list[int], maps: int) -> None:
    from dataforge import Shards

    config = ssd.SSDConfig(size=size)
    assert ssd.SSD.configure(config, Shards(tiny_shards))["maps"] == maps
    with pytest.raises(ConfigError, match="style is 'torchvision' with 7 maps"):
        ssd.SSD(2, maps=7, style="torchvision")


def test_extra_positive_needs_no_overlap_above_half() -> None:
    """A box that no prior overlaps by half still has one (section 2.2)."""
    batch = make_batch(torch.zeros(1, 3, 300, 300), [[(0, 148, 300, 152, 0)]])
    fixed: Tensor = priors.priors((300, 300), [(38, 38), (19, 19), (10, 10), (5, 5), (3, 3), (1, 1)])
    eligible, _ = assign.targets(batch)
    found = assign.match(fixed, batch.boxes, eligible, high=0.5, low=0.5, force="best")
    assert int((found >= 0).sum()) == 1


def test_auto_priors_follow_the_boxes(tiny_shards: Path) -> None:
    from dataforge import Shards
    from dataforge.sources.view import View

    shards, fixed = Shards(tiny_shards), priors.SCALES["paper", 6]
    config = ssd.SSDConfig(size=[320, 288], priors="auto")
    scales = ssd.SSD.configure(config, shards)["scales"]
    assert len(scales) == len(fixed) and sorted(set(scales)) == scales
    assert all(side <= paper for side, paper in zip(scales, fixed, strict=True))
    table = shards.table
    areas = (table.boxes[:, 2:] - table.boxes[:, :2]).prod(1) / (table.height * table.width)[table.image]
    shares = areas[table.flags & CROWD == 0] ** 0.5
    assert scales[0] == pytest.approx(min(fixed[0], np.percentile(shares, 10)), rel=1e-5)
    assert ssd.SSD.configure(config, Shards(tiny_shards, view=View(side=(1e6, 2e6))))["scales"] == list(fixed)


@pytest.mark.parametrize("maps", [6, 7])
@pytest.mark.parametrize("tiny", [0.005, 0.02, 0.045])
def test_auto_priors_keep_those_of_large_boxes(monkeypatch: pytest.MonkeyPatch, maps: int, tiny: float) -> None:
    """The set has 10 % tiny boxes and 90 % large ones."""
    rng, fixed, side = np.random.default_rng(0), priors.SCALES["paper", maps], {6: 300, 7: 512}[maps]
    sizes = rng.uniform(0.4, 0.9, (90, 1)) * side * rng.uniform(0.8, 1.1, (90, 2))
    corner = rng.uniform(0, 1, (90, 2)) * (side - sizes)
    large = torch.tensor(np.concatenate([corner, corner + sizes], 1), dtype=torch.float32)
    sets = np.concatenate([np.full((11, 2), tiny * side), sizes])
    monkeypatch.setattr(priors.anchors, "fitted_sizes", lambda *_: sets)
    auto = priors.scales_of(None, (side, side), "stretch", fixed)  # type: ignore[arg-type]
    assert auto[0] == pytest.approx(tiny) and auto == sorted(auto)
    cells = {6: [38, 19, 10, 5, 3, 1], 7: [64, 32, 16, 8, 4, 2, 1]}[maps]
    shares = [
        (iou(large, priors.priors((side, side), [(n, n) for n in cells], scales=scales)).amax(1) >= 0.5).float().mean()
        for scales in (auto, fixed)
    ]
    assert shares[0] >= shares[1] - 0.05


def test_auto_priors_double_where_that_reaches_the_fixed_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    """The sides of the measurement on deeppcb_200 at 512 pixels, in docs/small_objects.md."""
    monkeypatch.setattr(priors.anchors, "fitted_sizes", lambda *_: np.full((9, 2), 23.0))
    sides = priors.scales_of(None, (512, 512), "stretch", priors.SCALES["paper", 7])  # type: ignore[arg-type]
    assert sides == [23 / 512, 46 / 512, 92 / 512, 184 / 512, 0.6, 0.75, 0.9, 1.05]


@pytest.mark.parametrize(("backbone", "parameters"), [("test_efficientnet", 9), ("vgg16", 5)])
def test_small_priors_and_the_top_down_path_find_small_boxes_and_learn(backbone: str, parameters: int) -> None:
    torch.manual_seed(0)
    model = ssd.SSD(3, backbone=backbone, scales=[0.05, 0.1, 0.2, 0.4, 0.7, 0.9, 1.0], top_down=8).train()
    boxes = [(100 + 3 * k, 40 + 31 * k, 114 + 4 * k, 55 + 31 * k, k % 3) for k in range(6)]
    batch = make_batch(torch.rand(1, 3, 288, 288), [boxes])
    raw = model(batch.images)
    eligible, _ = assign.targets(batch)
    owner = assign.match(raw.priors, batch.boxes, eligible, high=0.5, low=0.5)
    assert set(owner[owner >= 0].tolist()) == set(range(6))
    torch.stack(list(model.loss(raw, batch).values())).sum().backward()
    coarse = [p.grad for name, p in model.named_parameters() if name.startswith(("pyramid.inner", "scales"))]
    assert len(coarse) == parameters and all(grad is not None and grad.any() for grad in coarse)
