"""Detect on images in memory with a detector, as `trainers.predict` does. torch is imported on use."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from dataforge.augment.operations.geometry import fit_matrix
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


def detect_and_embed(
    detector: Detector,
    pictures: Sequence[Pixels],
    size: tuple[int, int],
    fit: str,
    device: torch.device,
    conf: float,
    iou: float,
) -> tuple[list[Boxes], NDArray[np.float32]]:
    """Detect as `detect`, and embed the images by the same run of the network, which must have a `backbone`.

    Returns:
        What `detect` does; and (B, C) the mean of the backbone's last map over each image without its padding.
    """
    last: list[torch.Tensor] = []
    backbone: torch.nn.Module = detector.backbone  # type: ignore[assignment]
    hook = backbone.register_forward_hook(lambda module, inputs, maps: last.append(maps[-1]))
    try:
        boxes = detect(detector, pictures, size, fit, device, conf, iou)
    finally:
        hook.remove()
    [maps] = last
    means = []
    for pixels, image in zip(pictures, maps, strict=True):
        height, width = pixels.shape[:2]
        matrix = fit_matrix(height, width, size, fit)
        corners = matrix[:2, 2], matrix[:2, 2] + matrix[[0, 1], [0, 1]] * (width, height)
        cells = [point * image.shape[:0:-1] / size[::-1] for point in corners]
        (left, top), (right, bottom) = np.floor(cells[0]).astype(int), np.ceil(cells[1]).astype(int)
        means.append(image[:, top:bottom, left:right].float().mean((1, 2)).cpu().numpy())
    return boxes, np.stack(means)
