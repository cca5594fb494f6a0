"""What every detector must do. A detector's test file has a subclass with its name and a small configuration."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

from dataforge.loading.batch import Batch
from dataforge.record import CROWD, DIFFICULT
from tests.single import NoDouble
from trainers import checkpoint, registry
from trainers.models.detector import Detector


def assert_rounded(actual: torch.Tensor, expected: torch.Tensor) -> None:
    """Equal but for what many layers in float32 round; CPUs with other instructions round otherwise."""
    largest = float(expected.abs().max())
    worst = float((actual - expected).abs().max())
    assert worst <= 1e-5 * largest, f"{worst} of {largest}"


def make_batch(images: Tensor, objects: list[list[tuple]], places: int = 8) -> Batch:
    """A batch from (x1, y1, x2, y2, label) or (x1, y1, x2, y2, label, flags) an image."""
    count = len(images)
    boxes, labels = torch.zeros(count, places, 4), torch.full((count, places), -1)
    flags = torch.zeros(count, places, dtype=torch.uint8)
    for i, image in enumerate(objects):
        for k, (x1, y1, x2, y2, label, *flag) in enumerate(image):
            boxes[i, k] = torch.tensor([x1, y1, x2, y2])
            labels[i, k], flags[i, k] = label, sum(flag)
    affine = torch.eye(3).repeat(count, 1, 1)
    index = torch.arange(count)
    return Batch(images=images, boxes=boxes, labels=labels, flags=flags, affine=affine, index=index)


class DetectorSuite:
    """Inherit it and set the attributes.

    Attributes:
        name: in `registry.DETECTORS`; config: the constructor's keyword values, for a small detector of 3 classes.
        frozen: how the names of weights begin that do not learn.
        size: (height, width), not square.
        objects: boxes of three images, the second of them empty, with a crowd and a difficult one; no two of them may
            compete for the same place in the detector.
    """

    name: str
    config: ClassVar[dict[str, Any]]
    frozen: tuple[str, ...] = ()
    size = (64, 96)
    objects: ClassVar[list[list[tuple]]] = [
        [(3, 5, 30, 29, 0), (40, 33, 95, 64, 2), (66, 2, 92, 30, 1, DIFFICULT)],
        [],
        [(0, 0, 96, 64, 1, CROWD), (10.5, 36.25, 22, 60, 2)],
    ]

    @pytest.fixture
    def detector(self) -> Detector:
        torch.manual_seed(0)
        return registry.detector_class(self.name)(**self.config).eval()

    @pytest.fixture
    def batch(self) -> Batch:
        draw = torch.Generator().manual_seed(1)
        images = torch.randint(0, 256, (3, 3, *self.size), generator=draw, dtype=torch.uint8)
        return make_batch(images, self.objects)

    def losses(self, detector: Detector, batch: Batch) -> dict[str, float]:
        with torch.no_grad():
            return {name: float(value) for name, value in detector.loss(detector(batch.images), batch).items()}

    def test_uint8_is_float(self, detector: Detector, batch: Batch) -> None:
        with torch.no_grad():
            torch.testing.assert_close(detector(batch.images), detector(batch.images.float() / 255))

    def test_images_do_not_touch_each_other(self, detector: Detector, batch: Batch) -> None:
        with torch.no_grad():
            alone = detector.decode(detector(batch.images[2:]), conf=0.0, top=20)
            among = detector.decode(detector(batch.images), conf=0.0, top=20)[2:]
        # scores alone: where two are nearly equal, rounding decides which box comes first
        torch.testing.assert_close(alone.scores, among.scores, rtol=1e-4, atol=1e-5)

    def test_every_weight_learns(self, detector: Detector, batch: Batch) -> None:
        detector.train()
        optimizer = torch.optim.SGD(detector.parameters(), 1e-3)
        reached = set()
        for _ in range(2):  # timm's residual blocks begin with a last norm of weight 0, which no gradient passes
            with NoDouble():
                losses = detector.loss(detector(batch.images), batch)
                assert all(value.shape == () and value.dtype == torch.float32 for value in losses.values())
                torch.stack(list(losses.values())).sum().backward()
            for name, weight in detector.named_parameters():
                if name.startswith(self.frozen):
                    assert weight.grad is None, name
                    continue
                assert weight.grad is not None and weight.grad.isfinite().all(), name
                reached |= {name} if weight.grad.any() else set()
            optimizer.step()
            optimizer.zero_grad()
        learn = {name for name, _ in detector.named_parameters() if not name.startswith(self.frozen)}
        assert reached == learn, learn - reached

    @pytest.mark.parametrize("places", [0, 8])
    def test_no_boxes_at_all(self, detector: Detector, batch: Batch, places: int) -> None:
        empty = make_batch(batch.images, [[], [], []], places)
        total = torch.stack(list(detector.train().loss(detector(empty.images), empty).values())).sum()
        total.backward()
        assert total.isfinite()
        assert all(weight.grad.isfinite().all() for weight in detector.parameters() if weight.grad is not None)

    def test_one_image_of_2000_boxes(self, detector: Detector, batch: Batch) -> None:
        height, width = self.size
        corners = [(n % (width - 8), n % (height - 8)) for n in range(2000)]
        objects = [[(x, y, x + 3 + n % 5, y + 4, n % 3) for n, (x, y) in enumerate(corners)]]
        crowded = make_batch(batch.images[:1], objects, 2048)
        total = torch.stack(list(detector.train().loss(detector(crowded.images), crowded).values())).sum()
        total.backward()
        assert total.isfinite() and total > 0
        assert all(weight.grad.isfinite().all() for weight in detector.parameters() if weight.grad is not None)

    def test_order_and_padding_do_not_matter(self, detector: Detector, batch: Batch) -> None:
        expected = self.losses(detector, batch)
        turned = make_batch(batch.images, [image[::-1] for image in self.objects])
        padded = make_batch(batch.images, self.objects, 32)
        assert self.losses(detector, turned) == pytest.approx(expected, rel=1e-6)
        assert self.losses(detector, padded) == pytest.approx(expected, rel=1e-6)

    def test_dropped_boxes_do_not_matter(self, detector: Detector, batch: Batch) -> None:
        expected = self.losses(detector, make_batch(batch.images, [[], [], []]))
        batch.labels[:] = -1  # their boxes and flags stay, as augmentation leaves them
        assert self.losses(detector, batch) == pytest.approx(expected, rel=1e-6)

    def test_a_crowd_is_no_target_but_shields(self, detector: Detector, batch: Batch) -> None:
        crowded = make_batch(batch.images, [[(0, 0, self.size[1], self.size[0], 1, CROWD)]] * 3)
        total = sum(self.losses(detector, crowded).values())
        assert total <= sum(self.losses(detector, make_batch(batch.images, [[], [], []])).values())

    def test_decode_keeps_its_contract(self, detector: Detector, batch: Batch) -> None:
        with torch.no_grad():
            raw = detector(batch.images)
            found, few, none = (detector.decode(raw, **how) for how in ({"conf": 0.0}, {"top": 3}, {"conf": 1.1}))
        assert found.boxes.shape == (*found.scores.shape, 4) and found.labels.shape == found.scores.shape
        assert (found.scores.diff(dim=1) <= 0).all()
        there = found.labels >= 0
        assert there.any(1).all() and (there.int().diff(dim=1) <= 0).all(), "padding comes last"
        height, width = self.size
        inside = found.boxes[there]
        assert (inside[:, :2] >= 0).all() and (inside[:, 2] <= width).all() and (inside[:, 3] <= height).all()
        assert (inside[:, 2:] >= inside[:, :2]).all()
        assert found.labels.max() < self.config["classes"] and ((found.scores >= 0) & (found.scores <= 1)).all()
        assert few.labels.shape[1] <= 3
        assert (none.labels == -1).all() and (none.scores == 0).all()

    def test_autocast_changes_little(self, detector: Detector, batch: Batch) -> None:
        # one image, laid out as in training: a CPU without bfloat16 takes 10 to 25 times as long for a convolution
        detector.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        batch = batch[:1]
        batch.images = batch.images.contiguous(memory_format=torch.channels_last)
        expected = self.losses(detector, batch)
        with torch.autocast("cpu", torch.bfloat16):
            raw = detector(batch.images)
            within = detector.loss(raw, batch)
        for losses in (within, detector.loss(raw, batch)):
            assert all(value.dtype == torch.float32 for value in losses.values())
            assert {k: float(v.detach()) for k, v in losses.items()} == pytest.approx(expected, rel=0.1, abs=0.05)

    def test_checkpoint_round_trip(self, detector: Detector, batch: Batch, tmp_path: Path) -> None:
        path = tmp_path / "last.pt"
        facts = {"classes": ["a", "b", "c"], "class_ids": [0, 1, 2], "size": list(self.size), "fit": "letterbox"}
        checkpoint.save(path, {"detector": self.name, "config": self.config, "model": detector.state_dict(), **facts})
        loaded, _ = checkpoint.load_detector(path)
        detector.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        with torch.no_grad():
            torch.testing.assert_close(loaded(batch.images), detector(batch.images), rtol=0, atol=0)
