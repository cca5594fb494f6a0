"""Detect on images in memory with a detector, as `trainers.predict` does. torch is imported on use."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from dataforge.images.draw import Pixels
from trainers.results.exported import Boxes

if TYPE_CHECKING:
    import torch

    from trainers.models.detector import Detector


def detect(
    detector: Detector,
    pictures: Sequence[Pixels],
    size: tuple[int, int],
    fit: str,
    device: torch.device,
    conf: float,
    iou: float,
    top: int | None = None,
) -> list[Boxes]:
    """Detect on a batch of images, each fitted to the network's input as by the `Loader`.

    Args:
        pictures: (height, width, 3) RGB each, of any sizes.
        size: (height, width) of the input; fit: "letterbox" or "stretch".
        top: the maximum number of detections per image; None for the detector's default.

    Returns:
        For each image: boxes (n, 4) xyxy in its pixels, clipped to it; scores (n,), best first; labels (n,).
    """
    import torch

    from dataforge.augment.preprocess import Preprocess

    preprocess, limits = Preprocess(size, fit), {} if top is None else {"top": top}
    fitted = [preprocess(torch.from_numpy(pixels).permute(2, 0, 1)[None]) for pixels in pictures]
    images, affine = (torch.cat(parts).to(device) for parts in zip(*fitted, strict=True))
    with torch.inference_mode():
        detections = detector.decode(detector(images), conf=conf, iou=iou, **limits).to_source(affine)
    every = []
    columns = (column.cpu().numpy() for column in (detections.boxes, detections.scores, detections.labels))
    for pixels, box, score, label in zip(pictures, *columns, strict=True):
        boxes = box.astype(np.float64).clip(0, [pixels.shape[1], pixels.shape[0]] * 2)
        keep = (label >= 0) & (boxes[:, 2:] > boxes[:, :2]).all(1)
        every.append((boxes[keep], score.astype(np.float64)[keep], label[keep]))
    return every
