"""Legend: B images, M box places, P predictions, K detections, C classes, H x W pixels.

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

CANDIDATES = 1000  # an image's best (box, class) pairs, among which overlapping ones are looked for
_HORIZON = 1e-9  # points behind a projective map's horizon are moved far away, but stay finite


@dataclass(eq=False)
class Detections:
    """The detected boxes of B images, best first, padded to K.

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
        """Those of some of the images."""
        return Detections(self.boxes[rows], self.scores[rows], self.labels[rows])

    def to_source(self, affine: Tensor) -> Detections:
        """The same detections in the pixels of the source images.

        Args:
            affine: (B, 3, 3), `Batch.affine`: source pixels to pixels of the network's input. Of a map that turns or
                bends boxes they become the hull of their corners.
        """
        a, b, c = affine.double().unbind(1)
        inverse = torch.stack([torch.linalg.cross(b, c), torch.linalg.cross(c, a), torch.linalg.cross(a, b)], -1)
        inverse = inverse / (a * inverse[..., 0]).sum(-1)[:, None, None]  # unlike `inv`, waits for no device, exports
        corners = self.boxes.double()[..., [0, 1, 2, 1, 2, 3, 0, 3]].unflatten(-1, (4, 2))
        moved = torch.einsum("bij,bkcj->bkci", inverse, nn.functional.pad(corners, (0, 1), value=1.0))
        points = moved[..., :2] / moved[..., 2:].clamp(min=_HORIZON)
        boxes = torch.cat([points.amin(2), points.amax(2)], -1).float()
        return Detections(boxes, self.scores, self.labels)


class Detector(nn.Module):
    """The base class of detectors.

    A subclass's constructor takes `classes: int` and flat keyword values that a checkpoint can hold.

    Attributes:
        stride: image sides must be multiples of it, and of `least` pixels or more.
    """

    stride: int
    least = 1

    @classmethod
    def configure(cls, config: Any, shards: Shards) -> dict[str, Any]:
        """The constructor's keyword values for a new run.

        Args:
            config: the detector's own subclass of `trainers.config.Config`.
            shards: the training split.
        """
        raise NotImplementedError

    def pretrain(self, config: Any) -> str:
        """Load the pretrained weights that a configuration names; return a description ("" for none)."""
        return ""

    def prepare(self, config: Any, classes: Sequence[str]) -> None:
        """Set up what a training needs and no checkpoint holds, such as a teacher; called at each start and resume.

        Args:
            classes: the names of the training split's classes, by label.
        """

    def forward(self, images: Tensor) -> Any:
        """Raw outputs, with no targets and no post-processing, so that it can be exported.

        Args:
            images: (B, 3, H, W) RGB, uint8 or float32 in 0..1.
        """
        raise NotImplementedError

    def loss(self, raw: Any, batch: Batch) -> dict[str, Tensor]:
        """Scalars by name; their sum is minimised. An empty or all-padding batch gives finite values."""
        raise NotImplementedError

    def decode(
        self, raw: Any, *, conf: float | Tensor = 0.001, iou: float | Tensor = 0.5, top: int = 300
    ) -> Detections:
        """Boxes in pixels of `images`.

        Args:
            conf: the lowest score that is kept; a () tensor in an exported graph, as `iou`.
            iou: the overlap from which, within a class, the weaker of two boxes is dropped.
            top: K, the most detections an image gets.
        """
        raise NotImplementedError

    def pictures(self, raw: Any, batch: Batch, names: Sequence[str]) -> dict[str, Pixels]:
        """Pictures by name of this detector's inner values, for `trainers.results.monitor`; called without gradients.

        Args:
            raw: what `forward` gives for the batch, a few images; names: the classes' names by label.
        """
        return {}


@contextmanager
def evaluating(detector: nn.Module) -> Iterator[None]:
    """Run a block in evaluation mode and without gradients; the mode that the detector was in is put back after it."""
    training = detector.training
    detector.eval()
    try:
        with torch.inference_mode():
            yield
    finally:
        detector.train(training)


def unit(images: Tensor) -> Tensor:
    """Images as floats in 0..1, whichever of the two forms a `Batch` holds them in."""
    return images if images.is_floating_point() else images.float() / 255


def limit(images: Tensor) -> Tensor:
    """(4,) float32: the width, height, width and height of images (B, 3, H, W), beyond which no box goes."""
    height, width = images.shape[2:]
    return torch.tensor([width, height, width, height], dtype=torch.float32, device=images.device)


def select(boxes: Tensor, scores: Tensor, *, conf: float | Tensor, iou: float | Tensor, top: int) -> Detections:
    """The best of an image's boxes, thinned out by NMS within each class. A box may be detected as several classes.

    Args:
        boxes: (B, P, 1, 4), or (B, P, C, 4) where each class has its own.
        scores: (B, P, C) float32.
        conf, iou, top: as in `Detector.decode`.
    """
    classes, scores = scores.shape[2], scores.flatten(1)
    best, order = scores.topk(min(CANDIDATES, scores.shape[1]))
    row = order.div(classes // boxes.shape[2], rounding_mode="floor").unsqueeze(-1).expand(-1, -1, 4)
    labels = torch.where(best >= conf, order % classes, -1)
    boxes = boxes.flatten(1, 2).gather(1, row)
    return Detections(*nms(boxes, best, labels, threshold=iou, top=top, classes=classes))
