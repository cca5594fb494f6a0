"""Legend: B images, M padded boxes, C classes.

Pictures of a run folder.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import numpy as np
import PIL.Image
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from dataforge.analysis import charts
from dataforge.analysis.stats import statistics
from dataforge.errors import ConfigError, DataError
from dataforge.files import writing
from dataforge.images.draw import Pixels, contact_sheet
from dataforge.shards.reader import Shards
from dataforge.shards.table import Table
from trainers.results import evaluation_charts
from trainers.results.metrics import Curves
from trainers.results.truth import Predictions, Truth

if TYPE_CHECKING:
    from torch import Tensor

SELECTS = "mAP50-95"  # the column whose highest value is the best epoch


def mosaic(
    file: Path, images: Tensor, boxes: Tensor, labels: Tensor, names: Sequence[str], scores: Tensor | None = None
) -> None:
    """Write a contact sheet of a batch's first 16 images with their boxes; the values are those of `sheet`."""
    rows = slice(0, 16)
    shown = sheet(images[rows], boxes[rows], labels[rows], names, None if scores is None else scores[rows])
    with writing(file, ConfigError):
        PIL.Image.fromarray(shown).save(file, quality=90)


def on_images(file: Path, shards: Shards, rows: Sequence[int], of: Truth | Predictions, names: Sequence[str]) -> None:
    """Write a contact sheet of records with their boxes; damaged images are left out.

    Args:
        rows: record numbers, at least one.
        of: the boxes, in source pixels, by record.
    """
    own, shown = [], []
    for row in rows:
        i = np.flatnonzero(of.image == row)
        with suppress(DataError):  # a damaged image, which `on_error` has let pass
            shown.append(picture(shards, row, of.boxes[i]))
            own.append(i)
    if own:
        images, boxes = zip(*shown, strict=True)
        scores = [of.scores[i] for i in own] if isinstance(of, Predictions) else None
        drawn = contact_sheet(images, boxes, [of.labels[i] for i in own], names, scores)
        with writing(file, ConfigError):
            PIL.Image.fromarray(drawn).save(file, quality=90)


def picture(
    shards: Shards, row: int, boxes: NDArray[np.floating], side: int = 640
) -> tuple[Pixels, NDArray[np.float64]]:
    """Return a record's image, with a longer side of at most `side`, and boxes in its pixels.

    Args:
        boxes: (n, 4) in source pixels.
    """
    image = shards.pixels(row)
    shown = PIL.Image.fromarray(np.repeat(image, 3 // image.shape[2], 2))
    shown.thumbnail((side, side))
    matrix = shards.to_stored(np.array([row]))[0]
    stored = boxes * np.tile(matrix.diagonal()[:2], 2) + np.tile(matrix[:2, 2], 2)
    return np.asarray(shown), stored * np.tile([shown.width / image.shape[1], shown.height / image.shape[0]], 2)


def sheet(
    images: Tensor,
    boxes: Tensor,
    labels: Tensor,
    names: Sequence[str],
    scores: Tensor | None = None,
    *,
    side: int = 1920,
) -> Pixels:
    """Draw a contact sheet of images with their boxes.

    Args:
        images: (B, 3, H, W) uint8, or float in 0..1.
        boxes: (B, M, 4) xyxy pixels of `images`; labels: (B, M), -1 for padding; scores: (B, M).
        side: approximate maximum of the sheet's longer side, pixels.
    """
    return contact_sheet(
        pictures(images),
        list(boxes.detach().float().cpu().numpy()),
        list(labels.detach().cpu().numpy()),
        names,
        None if scores is None else list(scores.detach().float().cpu().numpy()),
        side=side,
    )


def pictures(images: Tensor) -> list[Pixels]:
    """Convert (B, 3, H, W) uint8, or float in 0..1, to B pictures (H, W, 3)."""
    images = images.detach().cpu()
    if images.is_floating_point():
        images = (images.float().clamp(0, 1) * 255).round().byte()
    return list(images.permute(0, 2, 3, 1).numpy())


def labels(file: Path, table: Table, names: Sequence[str]) -> None:
    """Write charts of a split's boxes: class counts, centres, sizes, boxes per image.

    Args:
        table: the split's `Shards.table`.
        names: the classes' names by label.
    """
    facts = statistics(table, names, {"": np.arange(len(table))})
    figure = Figure(figsize=(12, 9 if len(names) <= 20 else 14), layout="constrained")
    parts = (charts.classes, charts.boxes_per_image, charts.centres, charts.relative_sizes)
    for axis, part in zip(figure.subplots(2, 2).ravel(), parts, strict=True):
        part(axis, facts)
    _save(figure, file)


def results(table: Path, file: Path) -> None:
    """Write the curves of a `results.csv` against its epochs, with the best one marked. Empty cells are gaps."""
    with open(table, newline="", encoding="utf-8") as opened:
        head, *rows = list(csv.reader(opened)) or [[]]
    values = np.array([[_number(cell) for cell in row[: len(head)]] for row in rows], np.float64)
    values = values.reshape(len(rows), len(head))
    names = [name.strip() for name in head]
    drawn = [i for i in range(1, len(head)) if names[i] != "step" and np.isfinite(values[:, i]).any()]
    score = names.index(SELECTS) if SELECTS in names else None
    best = None if score not in drawn else values[np.nanargmax(values[:, score]), 0]
    columns = max(1, min(4, len(drawn)))
    lines = max(1, math.ceil(len(drawn) / columns))
    figure = Figure(figsize=(4 * columns, 3 * lines), layout="constrained")
    axes: list[Axes] = figure.subplots(lines, columns, squeeze=False).ravel().tolist()
    for axis, i in zip(axes, drawn, strict=False):
        finite = np.isfinite(values[:, i]) & np.isfinite(values[:, 0])
        axis.plot(values[finite, 0], values[finite, i], marker="o" if finite.sum() <= 30 else None, markersize=3)
        if best is not None:
            axis.axvline(best, color="grey", linestyle=":", linewidth=1)
        axis.set(title=charts.shown(names[i]), xlabel=charts.shown(names[0]))
        if best is not None and i == score:
            axis.set_title(f"{SELECTS}, best {np.nanmax(values[:, i]):.3f} at {names[0]} {best:g}")
        axis.set_xlim(values[0, 0] - 0.5, values[-1, 0] + 0.5)  # the same for all, also for one that is known once
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
        if values[finite, i].min() >= 0:
            axis.set_ylim(0, 1.05 * values[finite, i].max() or 1)
        axis.grid(alpha=0.3)
    for axis in axes[len(drawn) :]:
        axis.set_axis_off()
    _save(figure, file)


def curves(folder: Path, of: Curves, names: Sequence[str]) -> None:
    """Write `PR_curve.png`, and `F1_curve.png`, `P_curve.png` and `R_curve.png` against the score threshold."""
    figure = Figure(figsize=(9, 6), layout="constrained")
    evaluation_charts.precision_recall(figure.subplots(), of, names)
    _save(figure, folder / "PR_curve.png")
    for letters, quantity in (("F1", "F1"), ("P", "precision"), ("R", "recall")):
        figure = Figure(figsize=(9, 6), layout="constrained")
        evaluation_charts.threshold(figure.subplots(), of, names, quantity)
        _save(figure, folder / f"{letters}_curve.png")


def confusion_matrix(file: Path | BinaryIO, counts: NDArray[np.int64], names: Sequence[str]) -> None:
    """Write the confusion matrix.

    Args:
        counts: (C + 1, C + 1) as `metrics.confusion` gives it; shades are fractions of the true class.
    """
    words = [*(charts.shown(name, f"class {i}") for i, name in enumerate(names)), "background"]
    n = len(words)
    side = float(np.clip(3 + 0.5 * n, 6, 16))
    small = 9 if n <= 25 else 6
    figure = Figure(figsize=(side + 1.5, side), layout="constrained")
    axis = figure.subplots()
    share = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    shown = axis.imshow(share.T, cmap="Blues", vmin=0, vmax=1)
    figure.colorbar(shown, ax=axis, label="share of the true class", shrink=0.8)
    axis.set_xticks(range(n), words, rotation=90 if n > 6 else 0, fontsize=small)
    axis.set_yticks(range(n), words, fontsize=small)
    axis.set(xlabel="true", ylabel="found", title="confusion at confidence 0.25, IoU 0.5 (counts)")
    if n <= 25:
        for true, predicted in np.argwhere(counts > 0).tolist():
            dark = share[true, predicted] > 0.5
            text = str(counts[true, predicted])
            axis.text(true, predicted, text, ha="center", va="center", color="white" if dark else "black", fontsize=9)
    _save(figure, file)


def _number(cell: str) -> float:
    try:
        return float(cell)
    except ValueError:
        return math.nan


def _save(figure: Figure, file: Path | BinaryIO) -> None:
    with writing(file, ConfigError):
        figure.savefig(file, dpi=120, bbox_inches="tight")
