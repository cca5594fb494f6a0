"""Legend: B images, M box places, C classes.

The pictures of a run folder. Every function writes one file.
"""

from __future__ import annotations

import csv
import math
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import Tensor

from dataforge.draw import colour, contact_sheet
from dataforge.shards.table import Table
from trainers.metrics import Curves


def mosaic(
    file: Path,
    images: Tensor,
    boxes: Tensor,
    labels: Tensor,
    names: Sequence[str],
    scores: Tensor | None = None,
    *,
    most: int = 16,
    side: int = 1920,
) -> None:
    """Write a contact sheet of a batch with its boxes.

    Args:
        images: (B, 3, H, W) uint8, or float in 0..1.
        boxes: (B, M, 4) xyxy pixels of `images`; labels: (B, M), -1 where there is none; scores: (B, M).
        most: how many images are shown.
        side: the sheet's longer side is at most about so many pixels.
    """
    images = images[:most].detach().cpu()
    if images.is_floating_point():
        images = (images.float().clamp(0, 1) * 255).round().byte()

    def arrays(values: Tensor) -> list[NDArray[Any]]:
        return list(values[:most].detach().cpu().numpy())

    sheet = contact_sheet(
        list(images.permute(0, 2, 3, 1).numpy()),
        arrays(boxes.float()),
        arrays(labels),
        names,
        None if scores is None else arrays(scores.float()),
        side=side,
    )
    PIL.Image.fromarray(sheet).save(file, quality=90)


def labels(file: Path, table: Table, names: Sequence[str]) -> None:
    """Write what the boxes of a split are like: class counts, centres, sizes, boxes an image.

    Args:
        table: the split's `Shards.table`.
        names: the classes' names by label.
    """
    figure = Figure(figsize=(12, 9), layout="constrained")
    counts, centres, sizes, images = figure.subplots(2, 2).ravel().tolist()
    per_class = np.bincount(table.labels, minlength=len(names))
    counts.bar(range(len(names)), per_class, color=[np.divide(colour(i), 255) for i in range(len(names))])
    small = 9 if len(names) <= 20 else 5
    counts.set_xticks(
        range(len(names)), [_safe(n) for n in names], rotation=0 if len(names) <= 5 else 90, fontsize=small
    )
    counts.set(title=f"{len(table.boxes)} boxes in {len(table)} images", ylabel="boxes")
    unit = table.boxes / np.stack([table.width, table.height] * 2, 1)[table.image]
    centre, side = (unit[:, :2] + unit[:, 2:]) / 2, unit[:, 2:] - unit[:, :2]
    heat, _, _ = np.histogram2d(centre[:, 1], centre[:, 0], bins=40, range=((0, 1), (0, 1)))
    centres.imshow(heat, extent=(0, 1, 1, 0), cmap="viridis", interpolation="nearest")
    centres.set(title="box centres", xlabel="x / image width", ylabel="y / image height")
    some = np.random.default_rng(0).permutation(len(side))[:20000]  # more dots only make the file slow to draw
    shades = np.array([colour(i) for i in range(len(names))]).reshape(-1, 3)[table.labels[some]] / 255
    sizes.scatter(side[some, 0], side[some, 1], s=6, c=shades, alpha=0.5, linewidths=0)
    sizes.set(title="box sizes", xlabel="width / image width", ylabel="height / image height", xlim=(0, 1), ylim=(0, 1))
    sizes.grid(alpha=0.3)
    each = np.diff(table.offsets)
    most = int(each.max(initial=0))
    step = math.ceil((most + 1) / 50)
    images.hist(each, bins=np.arange(0, most + step + 1, step) - 0.5, color="tab:blue")
    images.set(title=f"boxes an image (none in {int((each == 0).sum())})", xlabel="boxes", ylabel="images")
    _save(figure, file)


def results(table: Path, file: Path) -> None:
    """Write the curves of a `results.csv`: its first column against each other one. Empty cells are gaps."""
    with open(table, newline="", encoding="utf-8") as opened:
        head, *rows = list(csv.reader(opened)) or [[]]
    values = np.array([[_number(cell) for cell in row[: len(head)]] for row in rows], np.float64)
    values = values.reshape(len(rows), len(head))
    shown = [i for i in range(1, len(head)) if np.isfinite(values[:, i]).any()]
    columns = max(1, min(4, len(shown)))
    lines = max(1, math.ceil(len(shown) / columns))
    figure = Figure(figsize=(4 * columns, 3 * lines), layout="constrained")
    axes: list[Axes] = figure.subplots(lines, columns, squeeze=False).ravel().tolist()
    for axis, i in zip(axes, shown, strict=False):
        there = np.isfinite(values[:, i]) & np.isfinite(values[:, 0])
        axis.plot(values[there, 0], values[there, i], marker="o" if there.sum() <= 30 else None, markersize=3)
        axis.set_title(_safe(head[i].strip()))
        axis.set_xlabel(_safe(head[0].strip()))
        axis.grid(alpha=0.3)
    for axis in axes[len(shown) :]:
        axis.set_axis_off()
    _save(figure, file)


def pr_curve(file: Path, curves: Curves, names: Sequence[str]) -> None:
    """Write precision against recall, a line for each class with boxes and one for their mean."""
    figure = Figure(figsize=(9, 6), layout="constrained")
    axis = figure.subplots()
    measured = np.flatnonzero(~np.isnan(curves.ap))
    few = len(measured) <= 20
    for c in measured.tolist():
        look = {"label": f"{_safe(names[c])} {curves.ap[c]:.3f}"} if few else {"label": "_", "alpha": 0.35}
        shade = np.divide(colour(c), 255) if few else "grey"
        axis.plot(curves.recall, curves.at_recall[c], color=shade, linewidth=1.2, **look)
    if len(measured):
        mean = f"all classes {curves.ap[measured].mean():.3f} mAP50"
        axis.plot(curves.recall, curves.at_recall[measured].mean(0), color="black", linewidth=3, label=mean)
        figure.legend(loc="outside right upper")
    axis.set(xlabel="recall", ylabel="precision", xlim=(0, 1), ylim=(0, 1.02))
    axis.set_title(f"precision and recall at IoU 0.5; the best mean F1 is at confidence {curves.best:.3f}")
    axis.grid(alpha=0.3)
    _save(figure, file)


def confusion_matrix(file: Path, counts: NDArray[np.int64], names: Sequence[str]) -> None:
    """Write which class was taken for which.

    Args:
        counts: (C + 1, C + 1) as `metrics.confusion` gives it; shades are shares of the true class.
    """
    words = [*map(_safe, names), "background"]
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
        for true, found in np.argwhere(counts > 0).tolist():
            dark = share[true, found] > 0.5
            text = str(counts[true, found])
            axis.text(true, found, text, ha="center", va="center", color="white" if dark else "black", fontsize=9)
    _save(figure, file)


def _number(cell: str) -> float:
    try:
        return float(cell)
    except ValueError:
        return math.nan


def _safe(name: str) -> str:
    """A name that matplotlib shows as it stands: no formulas, nothing hidden for a leading underscore."""
    name = name.replace("$", r"\$")
    return " " + name if name.startswith("_") else name


def _save(figure: Figure, file: Path) -> None:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from")  # a name in a script the font lacks
        figure.savefig(file, dpi=120, bbox_inches="tight")
