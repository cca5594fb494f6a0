"""Whether a peer did the work: every image once, the right picture, the right boxes, floats that were normalised."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import cv2
import numpy as np
from corpus import SIDE, Corpus


def verdict(workload: str, batches: Iterable[dict[str, Any]], corpus: Corpus) -> str:
    """What is wrong with an epoch, "" if nothing.

    Args:
        batches: each with "images" (B, 320, 320, 3) or (B, 3, 320, 320), "boxes" and "labels" (a list of (n, 4) and
            (n,), one an image, or padded, with label -1), and "index" (B,).
    """
    seen: list[int] = []
    found = 0
    areas, expected = 0.0, 0.0
    values: list[np.ndarray] = []
    reference = corpus.pixels()
    for batch in batches:
        images, index = np.asarray(batch["images"]), np.asarray(batch["index"]).reshape(-1)
        if images.shape[1] == 3:
            images = images.transpose(0, 2, 3, 1)
        if images.shape != (len(index), SIDE, SIDE, 3):
            return f"images are {images.shape}, and {len(index)} numbers"
        seen += index.tolist()
        for i, image, boxes, labels in zip(index.tolist(), images, batch["boxes"], batch["labels"], strict=True):
            labels = np.asarray(labels).reshape(-1)
            boxes = np.asarray(boxes).reshape(-1, 4)[labels >= 0]
            want, want_labels = corpus.scaled[i], corpus.objects(i)[1]
            found, areas = found + len(boxes), areas + float((boxes[:, 2:] - boxes[:, :2]).prod(1).sum())
            expected += float((want[:, 2:] - want[:, :2]).prod(1).sum())
            if workload == "augment":
                if image.dtype != np.float32 or not np.isfinite(image).all():
                    return f"image {i} is {image.dtype} or not finite"
                if len(boxes) and not (boxes.min() >= -0.01 and boxes.max() <= SIDE + 0.01):
                    return f"image {i}: boxes {boxes.min():.1f} to {boxes.max():.1f} are outside"
                values.append(image[::8, ::8])
                continue
            if len(boxes) != len(want) or np.abs(boxes - want).max(initial=0) > 0.05:
                return f"image {i}: boxes {boxes[:2].tolist()}; expected {want[:2].tolist()}"
            if not np.array_equal(labels[labels >= 0], want_labels):
                return f"image {i}: other labels"
            difference = np.abs(_thumb(image) - _thumb(reference[i])).mean()
            if image.dtype != np.uint8 or difference > 4:
                return f"image {i} is {image.dtype}, {difference:.1f} levels off"
    if sorted(seen) != list(range(corpus.count)):
        return f"{len(seen)} images, {len(set(seen))} different; expected {corpus.count}"
    if seen == sorted(seen):
        return "not shuffled"
    if workload == "augment":
        mean, std = float(np.mean(values)), float(np.std(values))
        if abs(mean) > 0.6 or not 0.6 < std < 1.6:
            return f"mean {mean:.2f}, standard deviation {std:.2f}; expected about 0 and 1"
        total = len(corpus.boxes)
        if not 0.55 * total < found <= total or not areas / found > 1.1 * expected / total:
            return f"{found} boxes of {total}, area {areas / found:.0f} against {expected / total:.0f}: not moved?"
    return ""


def _thumb(image: np.ndarray) -> np.ndarray:
    return cv2.resize(np.ascontiguousarray(image), (8, 8), interpolation=cv2.INTER_AREA).astype(np.float32)
