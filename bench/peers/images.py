"""What a user who brings no loader of their own writes for one image: the fastest of the common libraries.

simplejpeg and OpenCV (both release the GIL) decode and resize; Albumentations (MIT, the last release before its licence
changed) augments: measured, it is 1.7 times as fast as torchvision's v2 on the same image.
"""

from __future__ import annotations

import albumentations
import cv2
import numpy as np
import simplejpeg
from corpus import BATCH, CROP_AREA, JITTER, MEAN, SIDE, STD, Corpus

cv2.setNumThreads(0)
_STRENGTH = (1 - JITTER, 1 + JITTER)
_AUGMENT = albumentations.Compose(
    [
        albumentations.RandomResizedCrop((SIDE, SIDE), scale=CROP_AREA),
        albumentations.HorizontalFlip(p=0.5),
        albumentations.ColorJitter(_STRENGTH, _STRENGTH, _STRENGTH, hue=(0, 0), p=1),
        albumentations.Normalize(tuple(MEAN.tolist()), tuple(STD.tolist())),
    ],
    bbox_params=albumentations.BboxParams("pascal_voc", label_fields=["labels"], clip=True, min_area=1),
)


def resize(blob: bytes, boxes: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Decode and stretch to 320 x 320 uint8 HWC; boxes go along."""
    pixels = simplejpeg.decode_jpeg(blob, "RGB")
    factor = np.float32([SIDE / pixels.shape[1], SIDE / pixels.shape[0]] * 2)
    return cv2.resize(pixels, (SIDE, SIDE), interpolation=cv2.INTER_LINEAR), boxes * factor, labels


def augment(blob: bytes, boxes: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Decode, crop, flip, jitter, normalise: float32 HWC."""
    done = _AUGMENT(image=simplejpeg.decode_jpeg(blob, "RGB"), bboxes=boxes, labels=labels)
    return done["image"], done["bboxes"], done["labels"]


WORK = {"resize": resize, "augment": augment}


def collate(samples: list) -> dict:
    """(image, boxes, labels, index) of each image to a batch: images stacked, boxes as lists."""
    images, boxes, labels, index = zip(*samples, strict=True)
    return {"images": np.stack(images), "boxes": boxes, "labels": labels, "index": index}


def orders(corpus: Corpus, epoch: int) -> list[np.ndarray]:
    """An epoch's record numbers, shuffled and cut into batches."""
    order = np.random.default_rng(epoch).permutation(corpus.count)
    return np.split(order, range(BATCH, len(order), BATCH))
