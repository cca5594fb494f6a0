"""The files that `trainers.predict` writes: drawn images, crops, labels, and COCO's rows."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
from numpy.typing import NDArray

from dataforge.errors import ConfigError
from dataforge.files import writing
from dataforge.images.draw import Pixels
from trainers.results.calibration import probability
from trainers.results.exported import Boxes
from trainers.results.truth import Predictions, coco_rows


def yolo_lines(boxes: NDArray[np.float64], scores: NDArray[np.float64], labels: NDArray[np.int64], size: Any) -> str:
    """Return lines of `class cx cy width height confidence`, as fractions of the image's (height, width)."""
    height, width = size
    middle, side = (boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]
    cxcywh_unit = np.concatenate([middle, side], 1) / [width, height, width, height]
    rows = zip(labels.tolist(), cxcywh_unit.tolist(), scores.tolist(), strict=True)
    return "".join(f"{c} " + " ".join(f"{v:.6f}" for v in [*box, score]) + "\n" for c, box, score in rows)


def write_picture(out: Path, name: str, drawing: Pixels) -> None:
    drawn = out / (name if Path(name).suffix.lower() in (".jpg", ".jpeg", ".png") else name + ".jpg")
    with writing(drawn, ConfigError):
        drawn.parent.mkdir(parents=True, exist_ok=True)
        PIL.Image.fromarray(drawing).save(drawn, quality=92)


def write_crops(out: Path, name: str, pixels: Pixels, boxes: NDArray[np.float64], names: Sequence[str]) -> None:
    """Write the pixels of each box, at least one, to crops/<its class>."""
    for n, (box, folder) in enumerate(zip(boxes, names, strict=True), 1):
        (x1, y1), (x2, y2) = np.floor(box[:2]).astype(int), np.ceil(box[2:]).astype(int)
        write_picture(
            out / "crops" / re.sub(r"[^\w. -]", "_", folder),
            f"{Path(name).with_suffix('')}-{n}.jpg",
            pixels[y1:y2, x1:x2],
        )


def write_text(out: Path, name: str, texts: set[Path], lines: str) -> None:
    """Write an image's labels file.

    Args:
        texts: the files written so far; this one is added.
    """
    text = out / "labels" / Path(name).with_suffix(".txt")
    if text in texts:  # a.jpg and a.png
        text = out / "labels" / (name + ".txt")
    texts.add(text)
    with writing(text, ConfigError):
        text.parent.mkdir(parents=True, exist_ok=True)
        text.write_text(lines, "utf-8")


def named_rows(
    results: dict[int, Boxes],
    names: list[str],
    classes: tuple[str, ...],
    class_ids: tuple[int, ...],
    temperature: float | None = None,
) -> list[dict[str, Any]]:
    """Return COCO's rows with `category_name`, and `probability` where there is a temperature; `image_id` is the
    image's index among all, sorted by path.
    """
    if not results:
        return []
    boxes, scores, labels = (np.concatenate(column) for column in zip(*results.values(), strict=True))
    image = np.repeat(list(results), [len(labels) for _, _, labels in results.values()])
    rows = coco_rows(Predictions(image, boxes, scores, labels), np.arange(len(names)), class_ids, names)
    rows = [row | {"category_name": classes[label]} for row, label in zip(rows, labels.tolist(), strict=True)]
    if temperature is None:
        return rows
    sure = probability(scores, temperature).round(5)
    return [row | {"probability": value} for row, value in zip(rows, sure.tolist(), strict=True)]
