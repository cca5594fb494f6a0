"""Legend: B images, M padded boxes, P predictions, K detections, C classes, H x W pixels.

The interface of all detectors, and the detections that they return.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from dataforge.images.draw import Pixels
from dataforge.loading.batch import Batch
from dataforge.shards.reader import Shards
from trainers.models.boxes import nms

CANDIDATES = 1000  # number of best (box, class) pairs per image that NMS considers
_HORIZON = 1e-9  # points beyond the horizon of a projective map are moved far away but stay finite


@dataclass(eq=False)
class Detections:
    """Detected boxes of B images, best first, padded to K.

    Attributes:
        boxes: (B, K, 4) float32 xyxy pixels, edge coordinates.
        scores: (B, K) float32 in 0..1.
        labels: (B, K) int64; -1 marks padding.
    """

    boxes: Tensor
    scores: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, rows: slice) -> Detections:
        """Return the detections of selected images."""
        return Detections(self.boxes[rows], self.scores[rows], self.labels[rows])

    def to_source(self, affine: Tensor) -> Detections:
        """Return the same detections in pixels of the source images; of MPS, which has no float64, on the CPU.

        Args:
            affine: (B, 3, 3), `Batch.affine`: source pixels to pixels of the network's input. If the map rotates or
                distorts boxes, the result is the bounding box of their corners.
        """
        if affine.device.type == "mps":
            return Detections(self.boxes.cpu(), self.scores.cpu(), self.labels.cpu()).to_source(affine.cpu())
        a, b, c = affine.double().unbind(1)
        inverse = torch.stack([torch.linalg.cross(b, c), torch.linalg.cross(c, a), torch.linalg.cross(a, b)], -1)
        inverse = inverse / (a * inverse[..., 0]).sum(-1)[:, None, None]  # unlike `inv`, does not synchronise, exports
        corners = self.boxes.double()[..., [0, 1, 2, 1, 2, 3, 0, 3]].unflatten(-1, (4, 2))
        moved = torch.einsum("bij,bkcj->bkci", inverse, nn.functional.pad(corners, (0, 1), value=1.0))
        points = moved[..., :2] / moved[..., 2:].clamp(min=_HORIZON)
        boxes = torch.cat([points.amin(2), points.amax(2)], -1).float()
        return Detections(boxes, self.scores, self.labels)


class Detector(nn.Module):
    """Base class of detectors.

    A subclass's constructor takes `classes: int` and flat keyword values that a checkpoint can store.

    Attributes:
        stride: image sides must be multiples of it, and at least `least` pixels.
    """

    stride: int
    least = 1

    @classmethod
    def configure(cls, config: Any, shards: Shards) -> dict[str, Any]:
        """Return the constructor's keyword values for a new run.

        Args:
            config: the detector's own subclass of `trainers.config.Config`.
            shards: the training split.
        """
        raise NotImplementedError

    def pretrain(self, config: Any) -> str:
        """Load the pretrained weights named in a configuration; return a description ("" for none)."""
        return ""

    def prepare(self, config: Any, classes: Sequence[str]) -> None:
        """Set up training state that is not in a checkpoint, such as a teacher; called at each start and resume.

        Args:
            classes: the names of the training split's classes, by label.
        """

    def forward(self, images: Tensor) -> Any:
        """Compute raw outputs, without targets and post-processing, so that it can be exported.

        Args:
            images: (B, 3, H, W) RGB, uint8 or float32 in 0..1.
        """
        raise NotImplementedError

    def loss(self, raw: Any, batch: Batch) -> dict[str, Tensor]:
        """Compute the losses by name; their sum is minimised. An empty or all-padding batch gives finite values."""
        raise NotImplementedError

    def decode(
        self, raw: Any, *, conf: float | Tensor = 0.001, iou: float | Tensor = 0.5, top: int = 300
    ) -> Detections:
        """Decode raw outputs to boxes in pixels of `images`.

        Args:
            conf: the minimum score; a () tensor in an exported graph, as is `iou`.
            iou: the overlap from which, within a class, the box of lower score is removed.
            top: K, the maximum number of detections per image.
        """
        raise NotImplementedError

    def pictures(self, raw: Any, batch: Batch, names: Sequence[str]) -> dict[str, Pixels]:
        """Draw this detector's internal values, by name, for `trainers.results.monitor`; called without gradients.

        Args:
            raw: the output of `forward` for the batch, a few images; names: the classes' names by label.
        """
        return {}


@contextmanager
def evaluating(detector: nn.Module) -> Iterator[None]:
    """Run a block in evaluation mode and without gradients; the detector's previous mode is restored after it."""
    training = detector.training
    detector.eval()
    try:
        with torch.inference_mode():
            yield
    finally:
        detector.train(training)


def unit(images: Tensor) -> Tensor:
    """Convert images to floats in 0..1, from either of the two types of a `Batch`."""
    return images if images.is_floating_point() else images.float() / 255


def limit(images: Tensor) -> Tensor:
    """Return (4,) float32: the width, height, width and height of images (B, 3, H, W), to clip boxes to."""
    height, width = images.shape[2:]
    return torch.tensor([width, height, width, height], dtype=torch.float32, device=images.device)


def select(boxes: Tensor, scores: Tensor, *, conf: float | Tensor, iou: float | Tensor, top: int) -> Detections:
    """Select the best boxes of each image by NMS within each class. A box may be detected as several classes.

    Args:
        boxes: (B, P, 1, 4), or (B, P, C, 4) where each class has its own.
        scores: (B, P, C) float32.
        conf, iou, top: as in `Detector.decode`.
    """
    classes, scores = scores.shape[2], scores.flatten(1)
    # in the order of their numbers, which `nms` keeps for equal scores: each runtime's `topk` has another
    order = scores.topk(min(CANDIDATES, scores.shape[1])).indices.sort().values
    best = scores.gather(1, order)
    row = order.div(classes // boxes.shape[2], rounding_mode="floor").unsqueeze(-1).expand(-1, -1, 4)
    labels = torch.where(best >= conf, order % classes, -1)
    boxes = boxes.flatten(1, 2).gather(1, row)
    return Detections(*nms(boxes, best, labels, threshold=iou, top=top, classes=classes))
