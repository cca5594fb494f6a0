"""What exports of detectors get wrong: ties, several classes a box, fixed batches, no or too many detections, NMS.

The raw outputs of the detector under test are the pixels of its images, so that a test states boxes and scores.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor, nn

from dataforge.images.draw import Pixels
from trainers.exporting import onnx_file
from trainers.exporting.graph import SLOTS, Graph
from trainers.models.boxes import iou as overlap
from trainers.models.detector import Detections, Detector, select
from trainers.registry import DETECTORS, detector_class
from trainers.results.exported import Run

onnx: Any = pytest.importorskip("onnx", reason="onnx is not installed")
pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
pytest.importorskip("onnxscript", reason="onnxscript is not installed")

SIDE = 24  # of the images, and hence the number of rows with boxes; 19 boxes a row and image
CLASSES = 3
PLACES = SIDE * (SIDE * 3 // (4 + CLASSES))
Row = tuple[int, int, int, int, tuple[int, int, int]]  # x1, y1, x2, y2 in pixels; the classes' scores, of 255


class Probe(Detector):
    """Each row of an image holds boxes: x1, y1, x2, y2, and a score for each class."""

    stride = 1

    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Parameter(torch.ones(()))

    def forward(self, images: Tensor) -> Tensor:
        numbers = (images * 255).round().permute(0, 2, 3, 1).flatten(2) * self.one
        return numbers[..., : PLACES // SIDE * (4 + CLASSES)].reshape(images.shape[0], PLACES, 4 + CLASSES)

    def decode(self, raw: Tensor, *, conf: Any = 0.25, iou: Any = 0.45, top: int = 300) -> Detections:
        raw = raw.float()
        return select(raw[..., :4].unsqueeze(2), raw[..., 4:] / 255, conf=conf, iou=iou, top=top)


@pytest.fixture(scope="module")
def probe(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The graph in onnxruntime, for images that have the network's size."""
    facts = {"size": [SIDE, SIDE], "input": [SIDE, SIDE], "batch": "any", "conf": 0.25, "iou": 0.45, "top": 300}
    file = tmp_path_factory.mktemp("probe") / "probe.onnx"
    onnx_file.save(Graph(Probe(), (SIDE, SIDE), None), facts, file)
    return onnx_file.running(file)


def image(rows: Sequence[Row]) -> Pixels:
    pixels = np.zeros((SIDE, SIDE * 3), np.uint8)
    for number, (*box, scores) in enumerate(rows):
        line, place = divmod(number, PLACES // SIDE)
        pixels[line, place * (4 + CLASSES) : (place + 1) * (4 + CLASSES)] = [*box, *scores]
    return pixels.reshape(SIDE, SIDE, 3)


Found = list[tuple[list[float], float, int]]


def found(answers: Sequence[NDArray[Any]]) -> list[Found]:
    """The detections of each image, without padding, which is to be last and zero."""
    every = []
    for boxes, scores, labels in zip(*answers, strict=True):
        real = labels >= 0
        assert (labels[~real] == -1).all() and not boxes[~real].any() and not scores[~real].any()
        rows = zip(boxes[real].tolist(), scores[real].tolist(), labels[real].tolist(), strict=True)
        every.append([(box, score, label) for box, score, label in rows])
    return every


def expected(rows: Sequence[Row], conf: float, iou: float, top: int) -> Found:
    """Greedy NMS, one candidate after the other; of equal scores, the first in the order box, class."""
    pairs = [(score / 255, place, label) for place, row in enumerate(rows) for label, score in enumerate(row[4])]
    pairs = sorted((pair for pair in pairs if np.float32(pair[0]) >= np.float32(conf)), key=lambda pair: -pair[0])
    boxes = torch.tensor([row[:4] for row in rows], dtype=torch.float32).view(-1, 4)
    above = (overlap(boxes, boxes) > torch.tensor(iou)).tolist()
    kept: list[tuple[float, int, int]] = []
    for score, place, label in pairs:
        if not any(kind == label and above[place][other] for _, other, kind in kept):
            kept.append((score, place, label))
    return [([float(x) for x in rows[place][:4]], score, label) for score, place, label in kept[:top]]


def same(actual: Found, wanted: Found) -> None:
    assert [(box, label) for box, _, label in actual] == [(box, label) for box, _, label in wanted]
    np.testing.assert_allclose([score for _, score, _ in actual], [score for _, score, _ in wanted], atol=1e-6)


def check(run: Run, rows: Sequence[Row], conf: float = 0.05, iou: float = 0.45, top: int = 300) -> Found:
    [answer] = found(run(image(rows)[None], conf, iou, top))
    same(answer, expected(rows, conf, iou, top))
    return answer


def test_a_box_may_be_of_several_classes(probe: Run) -> None:
    """The best class of each box alone, as exports often have it, would find one."""
    assert [label for *_, label in check(probe, [(2, 2, 20, 20, (200, 100, 180))])] == [0, 2, 1]


def test_equal_scores_keep_their_order(probe: Run) -> None:
    apart: list[Row] = [(x, y, x + 3, y + 3, (90, 90, 90)) for y in range(0, 20, 4) for x in (16, 0, 8, 4)]
    assert len(check(probe, apart)) == 60
    assert check(probe, apart, top=10) == check(probe, apart)[:10]
    inside: list[Row] = [(0, 0, 10, 10, (90, 0, 0)), (1, 0, 11, 10, (90, 0, 0)), (0, 0, 10, 10, (90, 0, 0))]
    assert check(probe, inside)[0][0] == [0, 0, 10, 10] and len(check(probe, inside)) == 1


def test_nms_goes_by_score_and_class(probe: Run) -> None:
    chain: list[Row] = [(8, 0, 18, 10, (90, 0, 0)), (4, 0, 14, 10, (150, 0, 0)), (1, 0, 11, 10, (200, 0, 0))]
    assert [box[0] for box, *_ in check(probe, chain, iou=0.4)] == [1, 8], "what is suppressed suppresses nothing"
    assert [box[0] for box, *_ in check(probe, chain, iou=0.6)] == [1, 4, 8]
    other: list[Row] = [(0, 0, 10, 10, (200, 0, 0)), (0, 0, 10, 10, (0, 150, 0))]
    assert len(check(probe, other)) == 2, "another class suppresses nothing"


def test_no_detection_and_a_class_without_boxes(probe: Run) -> None:
    assert check(probe, []) == [] and check(probe, [(2, 2, 9, 9, (20, 0, 30))], conf=0.2) == []
    assert {label for *_, label in check(probe, [(2, 2, 9, 9, (99, 0, 99)), (9, 9, 20, 20, (50, 0, 0))])} == {0, 2}


def test_more_detections_than_top(probe: Run) -> None:
    places = [(x, y) for y in range(0, SIDE, 2) for x in range(0, SIDE, 2)]
    many: list[Row] = [(x, y, x + 1, y + 1, (255 - n, 254 - n, 100)) for n, (x, y) in enumerate(places)]
    assert len(expected(many, 0.05, 0.45, 10**6)) > SLOTS
    assert len(check(probe, many)) == SLOTS and len(check(probe, many, top=7)) == 7 and check(probe, many, top=0) == []
    [answer] = found(probe(image(many)[None], 0.05, 0.45, 10**6))
    same(answer, expected(many, 0.05, 0.45, SLOTS))


def test_the_batch_is_not_baked_in(probe: Run) -> None:
    images: list[list[Row]] = [[], [(1, 1, 9, 9, (90, 0, 0))], [(1, 1, 9, 9, (0, 80, 0)), (12, 1, 20, 9, (99, 9, 0))]]
    for batch in (images[1:2], images[:2], images, images * 3):
        answers = found(probe(np.stack([image(rows) for rows in batch]), 0.05, 0.45, 300))
        assert len(answers) == len(batch)
        for answer, rows in zip(answers, batch, strict=True):
            same(answer, expected(rows, 0.05, 0.45, 300))


ROWS = st.lists(
    st.tuples(*[st.integers(0, SIDE)] * 4, st.tuples(*[st.sampled_from([0, 20, 90, 91, 255])] * CLASSES)).map(
        lambda row: (min(row[0], row[2]), min(row[1], row[3]), max(row[0], row[2]) + 1, max(row[1], row[3]) + 1, row[4])
    ),
    max_size=30,
)


@given(ROWS, st.sampled_from([0.3, 0.45, 0.5, 0.7]), st.integers(0, 40))
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_boxes(probe: Run, rows: list[Row], iou: float, top: int) -> None:
    rows = [row for row in rows if row[2] <= SIDE and row[3] <= SIDE]  # boxes beyond the image are clipped to it
    check(probe, rows, 0.05, iou, top)


SMALL: dict[str, tuple[dict[str, Any], tuple[int, int]]] = {
    "dense": ({"width": 8, "sizes": [[16, 32], [32, 64]]}, (64, 96)),
    "faster_rcnn": ({"backbone": "test_resnet", "width": 8}, (64, 96)),
    "ssd": ({"backbone": "test_efficientnet"}, (288, 320)),
    "vit": ({"backbone": "test_efficientnet", "width": 16, "depth": 1}, (64, 96)),
    "yolov2": ({"width": 0.125}, (64, 96)),
}


@pytest.mark.parametrize("name", DETECTORS)
def test_float16_does_not_overflow_in_exp(name: str) -> None:
    """Boxes of any predicted size are those of float32: the largest exponents are beyond float16."""
    config, size = SMALL[name]
    torch.manual_seed(0)
    detector = detector_class(name)(classes=CLASSES, **config).eval()
    for key, weight in detector.named_parameters():
        if key.endswith("bias") and any(part in key for part in ("regress", "offsets", "predict")):
            weight.data += 60 if name == "ssd" else 12  # SSD's are multiplied by a fifth
    images = torch.randint(0, 256, (1, *size, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    thresholds = (torch.tensor(0.0), torch.tensor(1.0), torch.tensor(300))
    with torch.inference_mode():
        boxes, scores, labels = Graph(detector.half(), size, None)(images, *thresholds)
    assert boxes.isfinite().all() and scores.isfinite().all() and (labels >= 0).any()
    assert boxes.dtype == scores.dtype == torch.float32
    assert (boxes[labels >= 0] == torch.tensor([0.0, 0, size[1], size[0]])).all(-1).any(), "one fills the image"


def test_equal_candidates_keep_the_order_of_their_boxes() -> None:
    """`topk` may give them in any order, and each runtime in its own; NMS then keeps another box."""
    boxes = torch.tensor([0.0, 0, 40, 40]) + torch.arange(900).view(1, 900, 1, 1) / 1000
    scores = torch.full((1, 900, 1), 0.5)
    scores[0, 450:] = 0.25
    detections = select(boxes, scores, conf=0.1, iou=0.5, top=5)
    assert detections.labels[0].tolist() == [0, -1, -1, -1, -1]
    assert detections.boxes[0, 0].tolist() == [0, 0, 40, 40]
