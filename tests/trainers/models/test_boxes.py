from __future__ import annotations

import numpy as np
import pytest
import torch
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as coco_mask
from torch import Tensor

from trainers.models.boxes import area, iou, nms

coordinate = st.integers(0, 2560).map(lambda quarter: quarter / 4)
corners = st.tuples(coordinate, coordinate, coordinate, coordinate)
box = corners.map(lambda c: (min(c[0], c[2]), min(c[1], c[3]), max(c[0], c[2]) + 0.25, max(c[1], c[3]) + 0.25))
box_sets = st.lists(box, max_size=6).map(lambda found: torch.tensor(found).reshape(-1, 4))


@given(box_sets, box_sets)
def test_iou_is_torchvisions(a: Tensor, b: Tensor) -> None:
    torch.testing.assert_close(iou(a, b), torchvision.ops.box_iou(a, b), rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(iou(a[None], b[None])[0], iou(a, b))
    torch.testing.assert_close(iou(b, a), iou(a, b).T)


@given(box_sets, st.lists(st.tuples(box, st.booleans()), min_size=1, max_size=6))
def test_iou_with_crowds_is_cocos(a: Tensor, truth: list[tuple[tuple[float, ...], bool]]) -> None:
    b, crowd = torch.tensor([t[0] for t in truth]), torch.tensor([t[1] for t in truth])

    def xywh(boxes: Tensor) -> np.ndarray:
        return torch.cat([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], 1).double().numpy()

    if not len(a):
        assert iou(a, b, crowd).shape == (0, len(b))
        return
    expected = coco_mask.iou(xywh(a), xywh(b), crowd.int().tolist())
    np.testing.assert_allclose(iou(a, b, crowd).numpy(), expected, rtol=1e-5, atol=1e-7)


def test_padding_and_inverted_boxes_overlap_nothing() -> None:
    odd = torch.tensor([[0.0, 0, 0, 0], [9, 9, 3, 3], [5, 0, 5, 8]])
    assert area(odd).tolist() == [0, 0, 0]
    assert iou(odd, odd).tolist() == [[0] * 3] * 3
    assert iou(odd, odd, torch.tensor([True] * 3)).isfinite().all()


def reference(boxes: Tensor, scores: Tensor, labels: Tensor, threshold: float, top: int) -> list[list[tuple]]:
    """Image by image and class by class, in float64."""
    found = []
    for b, s, c in zip(boxes, scores, labels, strict=True):
        rows = []
        for label in c[c >= 0].unique():
            here = (c == label).nonzero()[:, 0]
            kept = here[torchvision.ops.nms(b[here].double(), s[here].double(), threshold)]
            rows += [(-float(s[i]), int(label), *b[i].tolist()) for i in kept]
        found.append(sorted(rows)[:top])
    return found


def rows(boxes: Tensor, scores: Tensor, labels: Tensor) -> list[list[tuple]]:
    return [
        [(-float(s), int(c), *b.tolist()) for b, s, c in zip(*image, strict=True) if c >= 0]
        for image in zip(boxes, scores, labels, strict=True)
    ]


def clusters(images: int, count: int, classes: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Many boxes of one class over each other, with scores that all differ."""
    draw = torch.Generator().manual_seed(seed)
    middle = torch.rand(images, count // 4, 1, 2, generator=draw) * 600
    low = (middle + torch.rand(images, count // 4, 4, 2, generator=draw) * 12).flatten(1, 2)
    size = 20 + 12 * torch.rand(images, count, 2, generator=draw)
    labels = torch.randint(-1, classes, (images, count // 4, 1), generator=draw).expand(-1, -1, 4).flatten(1, 2)
    scores = (torch.randperm(images * count, generator=draw) + 1).view(images, count) / (images * count + 1)
    return torch.cat([low, low + size], -1), scores, labels


@pytest.mark.parametrize(("images", "count", "classes", "top"), [(64, 60, 80, 300), (3, 40, 1, 5), (1, 4, 2, 1)])
def test_nms_is_that_of_each_image_and_class_alone(images: int, count: int, classes: int, top: int) -> None:
    boxes, scores, labels = clusters(images, count, classes)
    found = nms(boxes, scores, labels, threshold=0.5, top=top, classes=classes)
    assert rows(*found) == reference(boxes, scores, labels, 0.5, top)
    assert found[0].shape == (images, min(top, count), 4)
    assert (found[1].diff(dim=1) <= 0).all()
    if count == 60:
        assert 0 < int((found[2] >= 0).sum()) < int((labels >= 0).sum()), "nothing was suppressed, or all"


def test_nms_is_exact_in_the_last_of_many_groups() -> None:
    """An IoU just under the threshold stays and one just over it goes, 64 images and 80 classes away from 0."""
    pair = torch.tensor(
        [[[500.0, 300, 600, 400], [500, 300, 600, 499.99]], [[500, 300, 600, 400], [500, 300, 600, 500.01]]]
    )
    boxes = pair.repeat(32, 1, 1)
    labels = torch.full((64, 2), 79)
    _, _, kept = nms(boxes, torch.tensor([[0.9, 0.8]]).expand(64, 2), labels, threshold=0.5, top=2, classes=80)
    assert (kept >= 0).sum(1).tolist() == [1, 2] * 32


def test_nms_of_nothing() -> None:
    for shape in ((0, 5), (2, 0)):
        empty = torch.zeros(*shape, 4), torch.zeros(shape), torch.zeros(shape, dtype=torch.int64)
        boxes, scores, labels = nms(*empty, threshold=0.5, top=3, classes=1)
        assert boxes.shape[:2] == scores.shape == labels.shape == (shape[0], min(shape[1], 3))
    none = torch.full((2, 4), -1)
    _, scores, labels = nms(torch.rand(2, 4, 4), torch.rand(2, 4), none, threshold=0.5, top=9, classes=1)
    assert (labels == -1).all() and (scores == 0).all()


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from([0.0, 0.3, 0.5, 0.9, 1.0]))
def test_nms_does_not_depend_on_order_or_padding(seed: int, threshold: float) -> None:
    boxes, scores, labels = clusters(2, 12, 2, seed)
    expected = rows(*nms(boxes, scores, labels, threshold=threshold, top=12, classes=2))
    shuffled = torch.randperm(12, generator=torch.Generator().manual_seed(seed))
    padded = [torch.nn.functional.pad(t[:, shuffled], p) for t, p in ((boxes, (0, 0, 0, 5)), (scores, (0, 5)))]
    more = torch.nn.functional.pad(labels[:, shuffled], (0, 5), value=-1)
    assert rows(*nms(padded[0], padded[1], more, threshold=threshold, top=12, classes=2)) == expected
