"""Charts of the result of `stats.statistics`. The colours are Okabe and Ito's, which suit colour-blind readers."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from matplotlib.font_manager import findfont
from matplotlib.ft2font import FT2Font
from matplotlib.ticker import MaxNLocator

from dataforge.analysis.stats import by_boxes, image_size_rows

COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442", "#000000")
STYLE: dict[Any, Any] = {
    "axes.axisbelow": True,
    "axes.grid": True,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlesize": 11.5,
    "figure.constrained_layout.h_pad": 0.1,
    "figure.constrained_layout.w_pad": 0.1,
    "figure.dpi": 110,
    "font.size": 10.5,  # 11 pixels on a page 390 pixels wide
    "grid.alpha": 0.3,
    "legend.frameon": False,
}
BARS = 40  # classes with a bar; if there are more, a second chart shows all by rank
LONGEST = 26  # characters of a name
WIDTH, HEIGHT = 4.7, 3.0  # of a chart, inches


def draw(facts: Mapping[str, Any]) -> dict[str, tuple[str, bytes]]:
    """Draw all charts of a set.

    Args:
        facts: result of `statistics`, with that of `padding` under "padding" if it should have a chart.

    Returns:
        name -> (caption, SVG).
    """
    rows = min(BARS, max(1, len(facts["classes"])))
    charts: dict[str, tuple[str, Callable[[Axes, Mapping[str, Any]], None], float]] = {
        "classes": ("Boxes of each class", classes, 1.3 + 0.21 * rows),
        **(
            {"class_ranks": ("Boxes of all classes by rank", class_ranks, HEIGHT)}
            if len(facts["classes"]) > BARS
            else {}
        ),
        "box_sizes": ("Box sizes in pixels", box_sides, HEIGHT),
        "relative_box_sizes": ("Box sizes relative to the image", box_side_shares, HEIGHT),
        "box_centres": ("Centres of the boxes in the image", centres, 3.6),
        "box_widths_and_heights": ("Box widths and heights relative to the image", relative_sizes, 3.6),
        "image_aspects": ("Aspect ratios of the images", image_aspects, HEIGHT),
        "box_aspects": ("Aspect ratios of the boxes", box_aspects, HEIGHT),
        "boxes_per_image": ("Boxes per image", boxes_per_image, HEIGHT),
        "image_sizes": ("Most frequent image sizes", image_sizes, 1.2 + 0.21 * len(image_size_rows(facts))),
        **({"padding": ("Padding by letterboxing and batching", padding, HEIGHT)} if "padding" in facts else {}),
    }
    return {
        name: (caption, svg(lambda axis, part=part: part(axis, facts), height))  # type: ignore[misc]
        for name, (caption, part, height) in charts.items()
    }


def svg(paint: Callable[[Axes], object], height: float = HEIGHT) -> bytes:
    """Return a chart as SVG, whose black takes the colour of the text around it, for light and dark pages.

    Args:
        paint: draws on the axes it is given.
        height: in the unit in which the width is `WIDTH`; fonts are legible where the chart is as wide as a phone.
    """
    buffer = io.BytesIO()
    with matplotlib.rc_context(STYLE | {"svg.fonttype": "none", "svg.hashsalt": "", "font.family": "sans-serif"}):
        figure = Figure(figsize=(WIDTH, height), layout="constrained")
        paint(figure.subplots())
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    text = buffer.getvalue().decode()
    text = re.sub(r"<metadata>.*?</metadata>", "", text[text.index("<svg") :], count=1, flags=re.S)
    return text.replace("#000000", "currentColor").encode()


def classes(axis: Axes, facts: Mapping[str, Any]) -> None:
    """Draw a bar per class, stacked by split, with the most frequent class at the top."""
    ranked = by_boxes(facts)
    number = {name: i for i, name in enumerate(facts["classes"])}
    left = np.zeros(min(BARS, len(ranked)))
    for i, split in enumerate(facts["splits"]):
        counts = np.array([part["boxes"][split] for _, part in ranked[:BARS]])
        axis.barh(np.arange(len(left)), counts, left=left, color=COLOURS[i % len(COLOURS)], label=shown(split))
        left += counts
    axis.set_yticks(np.arange(len(left)), [shown(name, f"class {number[name]}") for name, _ in ranked[:BARS]])
    axis.set_ylim(max(len(left), 1) - 0.4, -0.6)
    axis.set_xlim(0, max(1.0, left.max(initial=0) * 1.05))
    if len(facts["splits"]) > 1:
        axis.legend(title="split", loc="upper left", bbox_to_anchor=(1, 1))
    more = f": the first {BARS} of {len(ranked)} classes" if len(ranked) > BARS else ""
    axis.set(xlabel="boxes", title=f"{facts['boxes']:,} boxes in {facts['images']:,} images{more}")
    axis.grid(False, axis="y")


def class_ranks(axis: Axes, facts: Mapping[str, Any]) -> None:
    """Draw the number of boxes of every class by rank."""
    counts = np.array([sum(part["boxes"].values()) for _, part in by_boxes(facts)])
    none = int((counts == 0).sum())
    axis.plot(np.arange(1, len(counts) - none + 1), counts[: len(counts) - none], color=COLOURS[0], linewidth=2)
    axis.set(xlabel="class, by rank", ylabel="boxes", title=f"all classes ({none} without a box)")
    axis.set_xlim(0, len(counts) + 1)
    if none < len(counts):
        axis.set_yscale("log")


def box_sides(axis: Axes, facts: Mapping[str, Any]) -> None:
    """Draw box sizes in pixels, with COCO's bounds."""
    _histogram(axis, facts["box_side"], "boxes")
    _octaves(axis, facts["box_side"], lambda value: f"{value:g}")
    for bound in (32, 96):
        axis.axvline(bound, color=COLOURS[5], linewidth=1, linestyle="--")
    shares = ", ".join(f"{name} {n / max(facts['boxes'], 1):.0%}" for name, n in facts["coco_areas"].items())
    axis.set(xlabel="√ box area, pixels (dashed: 32 and 96)", title=f"COCO's areas: {shares}")


def box_side_shares(axis: Axes, facts: Mapping[str, Any]) -> None:
    """Draw box sizes relative to the image size."""
    _histogram(axis, facts["box_side_share"], "boxes")
    axis.set(xlabel="√ (box area / image area)", xlim=(0, 1), title="relative sizes")


def centres(axis: Axes, facts: Mapping[str, Any]) -> None:
    """Draw a heat map of box centres."""
    _heat(axis, facts["centres"], (0, 1, 1, 0))
    axis.set(xlabel="x / image width", ylabel="y / image height", title="box centres")


def relative_sizes(axis: Axes, facts: Mapping[str, Any]) -> None:
    """Draw a heat map of relative box widths and heights."""
    _heat(axis, facts["relative_sizes"][::-1], (0, 1, 0, 1))
    axis.set(xlabel="width / image width", ylabel="height / image height", title="box widths and heights")


def image_aspects(axis: Axes, facts: Mapping[str, Any]) -> None:
    """Draw the aspect ratios (width / height) of the images."""
    _histogram(axis, facts["image_aspect"], "images")
    _octaves(axis, facts["image_aspect"], _ratio)
    axis.set(xlabel="image width / height", title="images")


def box_aspects(axis: Axes, facts: Mapping[str, Any]) -> None:
    """Draw the aspect ratios (width / height) of the boxes."""
    _histogram(axis, facts["box_aspect"], "boxes")
    _octaves(axis, facts["box_aspect"], _ratio)
    axis.set(xlabel="box width / height", title="boxes")


def boxes_per_image(axis: Axes, facts: Mapping[str, Any]) -> None:
    """Draw the distribution of boxes per image."""
    _histogram(axis, facts["boxes_per_image"], "images")
    empty = sum(split["empty"] for split in facts["splits"].values())
    axis.set(xlabel="boxes per image", title=f"boxes per image ({empty:,} images have none)")
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))


def image_sizes(axis: Axes, facts: Mapping[str, Any]) -> None:
    """Draw the most common image sizes and the rest."""
    rows = image_size_rows(facts)
    axis.barh(np.arange(len(rows)), [n for _, n in rows], color=COLOURS[0])
    axis.set_yticks(np.arange(len(rows)), [name for name, _ in rows])
    axis.set_ylim(max(len(rows), 1) - 0.4, -0.6)
    different = facts["image_sizes"]["different"]
    axis.set(xlabel="images", title=f"image sizes, width x height in pixels ({different:,} different)")
    axis.grid(False, axis="y")


def padding(axis: Axes, facts: Mapping[str, Any]) -> None:
    """Draw the shares of padded pixels and box places of each plan."""
    plans = facts["padding"]
    for i, (part, words) in enumerate((("padded_pixels", "pixels"), ("padded_places", "box places"))):
        values = [100 * waste[part] for waste in plans.values()]
        bars = axis.barh(np.arange(len(plans)) + 0.4 * i - 0.2, values, 0.36, color=COLOURS[i], label=words)
        axis.bar_label(bars, fmt="%.1f %%", padding=3)
    axis.set_yticks(np.arange(len(plans)), list(plans))
    axis.set_ylim(len(plans) - 0.4, -0.6)
    axis.set(xlabel="padding, % of all", xlim=(0, 115), title="padding of a plan's batches")
    axis.set_xticks(range(0, 101, 50))
    axis.legend(loc="upper center", bbox_to_anchor=(0.4, -0.22), ncols=2)
    axis.grid(False, axis="y")


def shown(name: str, instead: str = "?") -> str:
    """Escape and shorten a name so that matplotlib shows it without formulas, hidden text or missing glyphs.

    Args:
        instead: replaces a name with a missing glyph.
    """
    if not all(ord(letter) in _letters() for letter in name):
        return instead
    name = name if len(name) <= LONGEST else name[: LONGEST - 1] + "…"
    name = name.replace("$", r"\$")
    return " " + name if name.startswith("_") else name


@lru_cache
def _letters() -> frozenset[int]:
    """Return the code points in the font bundled with matplotlib."""
    return frozenset(FT2Font(str(Path(findfont("DejaVu Sans")))).get_charmap())


def _histogram(axis: Axes, quantity: Mapping[str, Any], what: str) -> None:
    edges, counts = quantity["histogram"]["edges"], quantity["histogram"]["counts"]
    axis.stairs(counts, edges, fill=True, color=COLOURS[0])
    axis.set_ylabel(what)
    if not any(counts):
        axis.set_ylim(0, 1)
        axis.text(0.5, 0.5, "none", transform=axis.transAxes, ha="center", color="0.4")


def _octaves(axis: Axes, quantity: Mapping[str, Any], words: Callable[[float], str]) -> None:
    """Set a logarithmic x axis with a tick at each power of two, over the non-empty bins."""
    edges, used = quantity["histogram"]["edges"], np.flatnonzero(quantity["histogram"]["counts"])
    low, high = np.log2([edges[used[0]], edges[used[-1] + 1]] if len(used) else [edges[0], edges[-1]])
    ticks = np.exp2(np.arange(np.floor(low), np.ceil(high) + 1))
    axis.set_xscale("log", base=2)
    axis.set_xlim(ticks[0], ticks[-1])
    axis.set_xticks(ticks, [words(float(tick)) for tick in ticks])


def _ratio(value: float) -> str:
    return f"{value:g}" if value >= 1 else f"1/{1 / value:g}"


def _heat(axis: Axes, heat: Sequence[Sequence[int]], extent: tuple[float, float, float, float]) -> None:
    shades = PowerNorm(0.5, vmin=0, vmax=max(1, np.max(heat)))  # keeps small counts visible beside a peak
    image = axis.imshow(heat, extent=extent, cmap="viridis", norm=shades)
    axis.figure.colorbar(image, ax=axis, label="boxes", shrink=0.8)
    axis.grid(False)
