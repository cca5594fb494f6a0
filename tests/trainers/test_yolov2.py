from __future__ import annotations

import math
from typing import Any, ClassVar

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from dataforge.loading.batch import Batch
from dataforge.record import CROWD
from tests.trainers.suite import DetectorSuite, make_batch
from trainers.models.assign import in_cells
from trainers.models.boxes import iou
from trainers.yolov2 import YOLOv2, reorg

ANCHORS = [(0.8, 0.7), (1.5, 1.1), (0.4, 1.2)]
TINY: dict[str, Any] = {"classes": 3, "anchors": ANCHORS, "width": 0.125}


class TestYOLOv2(DetectorSuite):
    name = "yolov2"
    config: ClassVar[dict[str, Any]] = TINY


class TestYOLOv2OnTimm(DetectorSuite):
    name = "yolov2"
    config: ClassVar[dict[str, Any]] = {**TINY, "backbone": "mobilenetv3_small_050", "passthrough": False}


def head(anchors: list[tuple[float, float]] = ANCHORS, classes: int = 3) -> YOLOv2:
    """A detector whose loss and decode are of interest, not its network."""
    return YOLOv2(classes, anchors=anchors, width=0.01).eval()


def blank(count: int, height: int = 64, width: int = 96) -> Tensor:
    return torch.zeros(count, 3, height, width, dtype=torch.uint8)


def numbers(losses: dict[str, Tensor]) -> dict[str, float]:
    return {name: float(value) for name, value in losses.items()}


def test_full_width_is_darknet19_with_yolov2s_head() -> None:
    with torch.device("meta"):
        model = YOLOv2(20)
        convolutions = [m for m in model.modules() if isinstance(m, torch.nn.Conv2d)]
        assert [c.out_channels for c in convolutions] == [
            *(32, 64, 128, 64, 128, 256, 128, 256, 512, 256, 512, 256, 512, 1024, 512, 1024, 512, 1024),
            *(1024, 1024, 64, 1024, 125),
        ]
        assert convolutions[-2].in_channels == 1280
        # yolov2-voc.weights: 202,704,264 bytes, with a header of 20
        assert (
            sum(p.numel() for p in model.parameters())
            + sum(2 * m.num_features for m in model.modules() if isinstance(m, torch.nn.BatchNorm2d))
            == (202_704_264 - 20) // 4
        )
        for size in ((320, 320), (608, 352), (32, 64)):
            assert model(torch.zeros(2, 3, *size)).shape == (2, 125, size[0] // 32, size[1] // 32)


def test_reorg_is_darknets() -> None:
    """Darknet's loop with its index arithmetic, over flat memory."""
    channels, height, width = 8, 4, 6
    x = torch.arange(2 * channels * height * width).view(2, channels, height, width)
    flat, out = x[1].flatten().tolist(), [0] * x[1].numel()
    for k in range(channels):
        for j in range(height):
            for i in range(width):
                part, offset = k % (channels // 4), k // (channels // 4)
                there = (2 * i + offset % 2) + 2 * width * ((2 * j + offset // 2) + 2 * height * part)
                out[i + width * (j + height * k)] = flat[there]
    assert reorg(x)[1].shape == (4 * channels, height // 2, width // 2)
    assert reorg(x)[1].flatten().tolist() == out


def test_decode_of_a_raw_map_made_by_hand() -> None:
    model = head()
    raw = torch.zeros(1, 3, 8, 2, 3)  # anchor, (tx ty tw th object classes), row, column
    raw[:, :, 4] = -20
    raw[0, 1, :, 1, 2] = torch.tensor([0, math.log(3), math.log(0.5), 0, 20, 0, 20, 0])
    raw[0, 0, :, 0, 0] = torch.tensor([0, 0, 0, math.log(2), 0, 0, 0, 20])
    found = model.decode(raw.flatten(1, 2), conf=0.1)
    there = found.labels[0] >= 0
    assert found.labels[0, there].tolist() == [1, 2]
    torch.testing.assert_close(found.scores[0, there], torch.tensor([1.0, 0.5]))
    # centre (2.5, 1.75) cells, size 1.5*0.5 x 1.1 cells, cut at the image's bottom, which is 64; and (.5, .5), .8 x 1.4
    expected = torch.tensor([[80 - 12, 56 - 17.6, 80 + 12, 64], [16 - 12.8, 0, 16 + 12.8, 16 + 22.4]])
    torch.testing.assert_close(found.boxes[0, there], expected)


def test_one_predictor_may_give_several_classes() -> None:
    raw = torch.full((1, 3, 8, 2, 3), -20.0)
    raw[0, 0, :, 0, 0] = torch.tensor([0, 0, 0, 0, 20, 5, 5, -20])
    found = head().decode(raw.flatten(1, 2), conf=0.1)
    assert sorted(found.labels[0].tolist())[-2:] == [0, 1] and (found.labels[0] >= 0).sum() == 2


def overlap(a: list[float], b: list[float], crowd: bool = False) -> float:
    shared = max(0.0, min(a[2], b[2]) - max(a[0], b[0])) * max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    own, other = ((c[2] - c[0]) * (c[3] - c[1]) for c in (a, b))
    return shared / (own if crowd else own + other - shared)


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def slow_assign(image: list[tuple], anchors: list[tuple[float, float]], rows: int, columns: int) -> dict[tuple, int]:
    """In rounds: each box that has none yet asks for its next best anchor; of those who ask, the first is heard."""
    owner: dict[tuple, int] = {}
    wishes = {}
    for n, (x1, y1, x2, y2, _, *flags) in enumerate(image):
        if CROWD not in flags:
            cell = (min(int((y1 + y2) / 64), rows - 1), min(int((x1 + x2) / 64), columns - 1))
            shape = [0, 0, (x2 - x1) / 32, (y2 - y1) / 32]
            fits = [overlap(shape, [0, 0, *anchor]) for anchor in anchors]
            wishes[n] = [(a, *cell) for a in sorted(range(len(anchors)), key=lambda a: -fits[a])]
    for turn in range(len(anchors)):
        before = set(owner)
        for n in sorted(wishes):
            wish = wishes[n][turn]
            if n not in owner.values() and wish not in before and wish not in owner:
                owner[wish] = n
    return owner


def slow_loss(raw: Tensor, objects: list[list[tuple]], model: YOLOv2) -> dict[str, float]:
    """YOLO9000 and Darknet's region layer, predictor by predictor."""
    anchors = model.anchors.tolist()
    rows, columns = raw.shape[2:]
    total = dict.fromkeys(("box", "obj", "noobj", "cls", "prior"), 0.0)
    for i, image in enumerate(objects):
        owner = slow_assign(image, anchors, rows, columns)
        for a, (aw, ah) in enumerate(anchors):
            for y in range(rows):
                for x in range(columns):
                    tx, ty, tw, th, to, *logits = raw[i].view(len(anchors), -1, rows, columns)[a, :, y, x].tolist()
                    cx, cy, w, h = x + sigmoid(tx), y + sigmoid(ty), aw * math.exp(tw), ah * math.exp(th)
                    box = [32 * v for v in (cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2)]
                    if (a, y, x) in owner:
                        x1, y1, x2, y2, label = image[owner[a, y, x]][:5]
                        scale = 2 - (x2 - x1) * (y2 - y1) / (rows * columns * 32 * 32)
                        wanted = (
                            (x1 + x2) / 64,
                            (y1 + y2) / 64,
                            math.log((x2 - x1) / 32 / aw),
                            math.log((y2 - y1) / 32 / ah),
                        )
                        total["box"] += (
                            scale * sum((p - q) ** 2 for p, q in zip((cx, cy, tw, th), wanted, strict=True)) / 2
                        )
                        total["obj"] += 5 * (sigmoid(to) - overlap(box, [x1, y1, x2, y2])) ** 2 / 2
                        total["cls"] -= logits[label] - math.log(sum(map(math.exp, logits)))
                        continue
                    best = max((overlap(box, list(gt[:4]), CROWD in gt[5:]) for gt in image), default=0)
                    if best <= 0.6:
                        total["noobj"] += sigmoid(to) ** 2 / 2
                    if int(model.seen) < 12800:
                        drift = (sigmoid(tx) - 0.5) ** 2 + (sigmoid(ty) - 0.5) ** 2 + tw**2 + th**2
                        total["prior"] += 0.01 * drift / 2
    return {name: value / len(objects) for name, value in total.items()}


sides = st.integers(8, 400).map(lambda quarter: quarter / 4)


@st.composite
def placed(draw: st.DrawFn, flags: tuple[int, ...] = (0, CROWD)) -> tuple:
    """A box in a 64 x 96 image, at least 2 pixels a side."""
    w, h = min(draw(sides), 95.0), min(draw(sides), 63.0)
    x1, y1 = draw(st.floats(0, 96 - w, width=32)), draw(st.floats(0, 64 - h, width=32))
    return (x1, y1, x1 + w, y1 + h, draw(st.integers(0, 2)), draw(st.sampled_from(flags)))


@settings(max_examples=40, deadline=None)
@given(st.lists(st.lists(placed(), max_size=8), min_size=1, max_size=3), st.integers(0, 10_000), st.booleans())
def test_loss_is_the_papers(objects: list[list[tuple]], seed: int, late: bool) -> None:
    model = head()
    model.seen.fill_(12800 if late else 0)
    draw = torch.Generator().manual_seed(seed)
    raw = torch.randn(len(objects), 24, 2, 3, generator=draw)
    found = numbers(model.loss(raw, make_batch(blank(len(objects)), objects)))
    assert found == pytest.approx(slow_loss(raw, objects, model), rel=1e-4, abs=1e-5)
    assert (found["prior"] == 0) == late


def test_many_boxes_in_one_cell_take_one_predictor_each() -> None:
    same = torch.tensor([[33.0, 33, 57, 55]] * 5) / 32
    owner = in_cells(same[None], torch.ones(1, 5, dtype=torch.bool), torch.tensor(ANCHORS), (2, 3)).view(3, 2, 3)
    assert sorted(owner[:, 1, 1].tolist()) == [0, 1, 2], "the first three get a predictor each"
    assert owner[0, 1, 1] == 0, "and the first of them the best"
    assert (owner == 5).sum() == 15


def test_assignment_under_deterministic_algorithms() -> None:
    torch.use_deterministic_algorithms(True)
    try:
        boxes = torch.rand(2, 50, 4).sort(-1).values[..., [0, 1, 2, 3]] * 3
        first = in_cells(boxes, torch.ones(2, 50, dtype=torch.bool), torch.tensor(ANCHORS), (3, 3))
        model = head()
        raw = torch.randn(2, 24, 2, 3, requires_grad=True)
        torch.stack(list(model.loss(raw, make_batch(blank(2), [[(3, 3, 30, 40, 1)]] * 2)).values())).sum().backward()
        again = in_cells(boxes, torch.ones(2, 50, dtype=torch.bool), torch.tensor(ANCHORS), (3, 3))
    finally:
        torch.use_deterministic_algorithms(False)
    assert torch.equal(first, again) and raw.grad is not None


def encode(objects: list[tuple], model: YOLOv2, batch: Batch, sure: float = 12.0) -> Tensor:
    """The raw map (1, A*(5+C), 2, 3) that says exactly these boxes."""
    raw = torch.zeros(1, len(model.anchors), 5 + model.classes, 2, 3)
    raw[:, :, 4] = -sure
    owner = in_cells(batch.boxes / 32, batch.labels >= 0, model.anchors, (2, 3)).view(-1, 2, 3)
    for n, (x1, y1, x2, y2, label, *_) in enumerate(objects):
        ((a, y, x),) = (owner == n).nonzero().tolist()
        centre = torch.tensor([(x1 + x2) / 64 - x, (y1 + y2) / 64 - y]).clamp(1e-4, 1 - 1e-4)
        size = torch.tensor([x2 - x1, y2 - y1]) / 32
        raw[0, a, :2, y, x], raw[0, a, 2:4, y, x] = centre.logit(), (size / model.anchors[a]).log()
        raw[0, a, 4, y, x], raw[0, a, 5 + label, y, x] = sure, 2 * sure
    return raw.flatten(1, 2)


@settings(max_examples=60, deadline=None)
@given(st.lists(placed(flags=(0,)), min_size=1, max_size=3, unique_by=lambda box: box[4]))
def test_a_perfect_map_costs_nothing_and_decodes_to_the_truth(objects: list[tuple]) -> None:
    model = head()
    model.seen.fill_(12800)
    batch = make_batch(blank(1), [objects])
    raw = encode(objects, model, batch)
    losses = numbers(model.loss(raw, batch))
    assert losses["box"] < 1e-4 and sum(losses.values()) < 1e-2
    found = model.decode(raw, conf=0.5)
    assert sorted(found.labels[found.labels >= 0].tolist()) == sorted(box[4] for box in objects)
    for x1, y1, x2, y2, label, _ in objects:
        (box,) = found.boxes[found.labels == label]
        torch.testing.assert_close(box, torch.tensor([x1, y1, x2, y2]), rtol=0, atol=0.05)


def test_a_prediction_inside_a_crowd_is_not_punished() -> None:
    model = head()
    model.seen.fill_(12800)
    raw = torch.zeros(1, 24, 2, 3)
    empty = numbers(model.loss(raw, make_batch(blank(1), [[]])))
    crowd = numbers(model.loss(raw, make_batch(blank(1), [[(0, 0, 96, 64, 0, CROWD)]])))
    assert empty["noobj"] == pytest.approx(18 * 0.5**2 / 2)
    assert crowd["noobj"] == 0 and crowd["obj"] == 0


def test_the_prior_ends_and_evaluation_does_not_count() -> None:
    model = head()
    batch = make_batch(blank(2), [[], []])
    raw = torch.ones(2, 24, 2, 3)
    model.loss(raw, batch)
    assert int(model.seen) == 0
    model.train()
    model.seen.fill_(12799)
    assert model.loss(raw, batch)["prior"] > 0
    assert int(model.seen) == 12801
    assert model.loss(raw, batch)["prior"] == 0
    assert "seen" in model.state_dict()


def test_wild_outputs_stay_finite() -> None:
    model = head()
    batch = make_batch(blank(1), [[(0, 0, 0.01, 64, 0), (96, 64, 96, 64, 1), (10, 10, 40, 40, 2)]])
    for value in (-1e4, 1e4):
        raw = torch.full((1, 24, 2, 3), value, requires_grad=True)
        losses = model.loss(raw, batch)
        torch.stack(list(losses.values())).sum().backward()
        assert all(loss.isfinite() for loss in losses.values())
        assert raw.grad is not None and raw.grad.isfinite().all()
        assert model.decode(raw.detach()).boxes.isfinite().all()


def test_it_learns_a_few_pictures() -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # so little work is slower on many
    torch.manual_seed(0)
    images = torch.full((4, 3, 128, 160), 90, dtype=torch.uint8)
    objects: list[list[tuple]] = []
    for i in range(4):
        red, blue = (
            (8 + 20 * i, 10, 44 + 24 * i, 56 + 8 * i, 0),
            (60 + 15 * i, 84 - 10 * i, 104 + 15 * i, 116 - 4 * i, 1),
        )
        for (x1, y1, x2, y2, _), colour in ((red, (230, 30, 30)), (blue, (30, 30, 230))):
            images[i, :, y1:y2, x1:x2] = torch.tensor(colour, dtype=torch.uint8).view(3, 1, 1)
        objects.append([red, blue])
    batch = make_batch(images, objects)
    model = YOLOv2(2, anchors=[(1, 1), (1.5, 1), (1, 1.5)], width=0.125)
    optimizer = torch.optim.AdamW(model.parameters(), 3e-3)
    for step in range(160):
        optimizer.param_groups[0]["lr"] = 3e-3 * (1 - step / 160)  # else rounding decides where it ends
        optimizer.zero_grad()
        torch.stack(list(model.loss(model(images), batch).values())).sum().backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 10)
        optimizer.step()
    torch.set_num_threads(threads)
    model.eval()
    with torch.no_grad():
        found = model.decode(model(images), conf=0.3)
    assert (found.labels >= 0).sum(1).tolist() == [2] * 4
    close = iou(batch.boxes[:, :2], found.boxes) * (batch.labels[:, :2, None] == found.labels[:, None])
    assert close.amax(-1).min() > 0.85
