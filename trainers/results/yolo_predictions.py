"""Detections as YOLO's tools write them: a text file per image."""

from __future__ import annotations

from pathlib import Path, PurePosixPath

import numpy as np

from dataforge.errors import FormatError
from dataforge.files import reading
from trainers.results.truth import Predictions, Truth


def read_yolo_predictions(folder: Path, truth: Truth) -> Predictions:
    """Read a folder of YOLO text files with a score in each line: `class x_center y_center width height score`.

    A file belongs to the image of its name without the suffix; an image without a file has no detections. Positions are
    fractions of the image, classes are numbered as in the truth.

    Raises:
        FormatError: a file has no image or several, the truth does not state its size, or a line is invalid.
    """
    rows_of: dict[str, list[int]] = {}
    for row, name in enumerate(truth.names):
        rows_of.setdefault(PurePosixPath(name).stem, []).append(row)
    images, values = [], []
    files = sorted(folder.glob("*.txt"))
    if not files:
        raise FormatError(f"{folder}: no .txt file; expected one per image with detections")
    for file in files:
        rows = rows_of.get(file.stem, [])
        if len(rows) != 1:
            raise FormatError(f"{file}: {len(rows)} images of the truth are named {file.stem!r}; expected one")
        if truth.sizes is None or not truth.sizes[rows[0]].all():
            raise FormatError(f"{file}: the truth does not state the size of {truth.names[rows[0]]}")
        with reading(file, FormatError):
            lines = file.read_text(encoding="utf-8").splitlines()
        for number, line in enumerate(lines, 1):
            if line.strip():
                values.append(_yolo_row(f"{file}: line {number}", line, len(truth.classes)))
                images.append(rows[0])
    table = np.array(values, np.float64).reshape(-1, 6)
    image = np.array(images, np.int64)
    height_width = np.zeros((0, 2), np.int64) if truth.sizes is None else truth.sizes[image]
    centre, side = table[:, 1:3] * height_width[:, ::-1], table[:, 3:5] * height_width[:, ::-1]
    boxes = np.concatenate([centre - side / 2, centre + side / 2], 1)
    return Predictions(image, boxes, table[:, 5], table[:, 0].astype(np.int64))


def _yolo_row(place: str, line: str, classes: int) -> list[float]:
    try:
        values = [float(cell) for cell in line.split()]
    except ValueError:
        values = []
    if len(values) != 6 or not np.isfinite(values).all() or min(values[3:5]) < 0 or values[0] not in range(classes):
        raise FormatError(
            f"{place}: {line.strip()!r}; expected class (0 to {classes - 1}), x_center, y_center, width, height, score"
        )
    return values
