"""Legend: B images, M box places, C classes.

The pictures of a run folder. Every function writes one file, but for `draw`, which draws on pixels.
"""

from __future__ import annotations

import colorsys
import csv
import math
import warnings
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import matplotlib
import numpy as np
import PIL.Image
import PIL.ImageDraw
import PIL.ImageFont
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import Tensor

from dataforge.shards.table import Table
from trainers.metrics import Curves

Pixels = NDArray[np.uint8]


def draw(
    pixels: Pixels,
    boxes: NDArray[np.floating],
    labels: NDArray[np.integer],
    names: Sequence[str],
    scores: NDArray[np.floating] | None = None,
) -> Pixels:
    """Draw boxes with their classes' names, and scores where there are any.

    Args:
        pixels: (height, width, 3), left as they are.
        boxes: (n, 4) xyxy pixels; labels: (n,), -1 is passed over; scores: (n,), the best are drawn on top.
        names: the classes' names by label.

    Returns:
        (height, width, 3).
    """
    image = PIL.Image.fromarray(np.ascontiguousarray(pixels))
    pen = PIL.ImageDraw.Draw(image)
    width, height = image.size
    short = min(width, height)
    line = max(1, round(short / 200))
    font = _font(int(np.clip(short / 28, 9, 48)))
    order = np.flatnonzero(labels >= 0)
    if scores is not None:
        order = order[np.argsort(scores[order], kind="stable")]
    for i in order.tolist():
        x1, y1, x2, y2 = np.clip(np.round(boxes[i]), 0, [width, height] * 2).astype(int).tolist()
        # edges to pixels: the last pixel of a box that ends at x2 is x2 - 1
        pen.rectangle((x1, y1, max(x1, x2 - 1), max(y1, y2 - 1)), outline=colour(int(labels[i])), width=line)
    for i in order.tolist():
        text = names[int(labels[i])] + (f" {scores[i]:.2f}" if scores is not None else "")
        x1, y1 = float(boxes[i][0]), float(boxes[i][1])
        left, top, right, bottom = font.getbbox(text)
        wide, high = right - left + 2 * line + 2, bottom - top + 2 * line + 2
        x = max(0.0, min(x1, width - wide))
        y = y1 - high if y1 >= high else max(0.0, min(y1, height - high))
        shade = colour(int(labels[i]))
        pen.rectangle((x, y, x + wide - 1, y + high - 1), fill=shade)
        dark = np.dot(shade, (0.299, 0.587, 0.114)) < 140
        pen.text((x + line + 1 - left, y + line + 1 - top), text, fill="white" if dark else "black", font=font)
    return np.asarray(image)


@lru_cache
def colour(label: int) -> tuple[int, int, int]:
    """A class's colour: hues a golden angle apart, in three brightnesses."""
    r, g, b = colorsys.hsv_to_rgb(label * 0.618034 % 1, 0.85, (1.0, 0.8, 0.6)[label // 8 % 3])
    return round(255 * r), round(255 * g), round(255 * b)


@lru_cache
def _font(size: int) -> PIL.ImageFont.FreeTypeFont:
    # matplotlib brings a font with Latin, Greek and Cyrillic letters
    return PIL.ImageFont.truetype(str(Path(matplotlib.get_data_path()) / "fonts/ttf/DejaVuSans.ttf"), size)


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
    n, _, height, width = images.shape
    columns = math.ceil(math.sqrt(n))
    rows = math.ceil(n / columns)
    # small images are enlarged and large ones shrunk before drawing, so that names can be read
    scale = min(3.0, side / max(columns * width, rows * height))
    tile = (max(1, round(height * scale)), max(1, round(width * scale)))
    gap = 4
    sheet = np.full((rows * (tile[0] + gap) + gap, columns * (tile[1] + gap) + gap, 3), 255, np.uint8)
    factor = np.array([tile[1] / width, tile[0] / height] * 2)
    for i in range(n):
        picture = PIL.Image.fromarray(images[i].permute(1, 2, 0).contiguous().numpy())
        pixels = np.asarray(picture.resize((tile[1], tile[0]), PIL.Image.Resampling.BILINEAR))
        drawn = draw(
            pixels,
            boxes[i].detach().float().cpu().numpy() * factor,
            labels[i].cpu().numpy(),
            names,
            None if scores is None else scores[i].detach().float().cpu().numpy(),
        )
        y, x = gap + i // columns * (tile[0] + gap), gap + i % columns * (tile[1] + gap)
        sheet[y : y + tile[0], x : x + tile[1]] = drawn
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
