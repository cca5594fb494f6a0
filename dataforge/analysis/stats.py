"""Statistics of a set: counts, histograms and shares, computed from the table without opening images."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dataforge.analysis.padding import padding_waste
from dataforge.command import columns
from dataforge.errors import counted
from dataforge.loading.buckets import AUTO, Shape, auto_shapes
from dataforge.loading.sampler import plan
from dataforge.record import CROWD, DIFFICULT, TRUNCATED
from dataforge.shards.table import Table
from dataforge.threads import Spread, cached_property, ordered

Rows = tuple[Sequence[str], list[list[object]]]  # a table's header and rows

CELLS = 40  # per side of a heat map
SMALL, LARGE = 32**2, 96**2  # pixels: COCO's small objects are below SMALL, its large objects above LARGE
WINDOW = 16  # steps whose records are distributed by their number of boxes


def statistics(
    table: Table,
    classes: Sequence[str],
    splits: Mapping[str, NDArray[np.int64]],
    spread: Spread = ordered,
    jobs: int = 1,
) -> dict[str, Any]:
    """Return the statistics of a set, ready for JSON.

    Args:
        classes: names of the classes by label.
        splits: split -> numbers of its records; no record is in two splits.
        spread: runs the jobs; jobs: how many quantities are computed at a time.

    Returns:
        images, boxes: counts; splits, classes: counts for each and more; then for boxes, areas, aspect ratios,
        boxes per image and image sizes: "spread" (minimum, percentiles 5, 25, 50, 75, 95, maximum) and "histogram"
        (edges, counts); centres and relative_sizes: heat maps of `CELLS` x `CELLS` counts, rows from the top (of the
        relative heights: from 0 on).
    """
    whole = _Set(replace(table, _polygons=None), classes, splits)
    computed = zip(QUANTITIES, spread(whole.quantity, QUANTITIES, jobs), strict=True)
    return {"images": len(table), "boxes": len(table.boxes), **dict(computed)}


@dataclass
class _Set:
    """What the quantities are computed from.

    Attributes:
        side: (S, 2) width and height of the boxes; unit: (S, 2) as shares of the image's; image_size: (S, 2) of these.
        counts: (N,) boxes of each image.
    """

    table: Table
    classes: Sequence[str]
    splits: Mapping[str, NDArray[np.int64]]

    def quantity(self, name: str) -> Any:
        return QUANTITIES[name](self)

    @cached_property
    def side(self) -> NDArray[np.float32]:
        return self.table.boxes[:, 2:] - self.table.boxes[:, :2]

    @cached_property
    def image_size(self) -> NDArray[np.float32]:
        return np.stack([self.table.width, self.table.height], 1).astype(np.float32)[self.table.image]

    @cached_property
    def unit(self) -> NDArray[np.float32]:
        return self.side / self.image_size

    @cached_property
    def counts(self) -> NDArray[np.int64]:
        return np.diff(self.table.offsets)


def padding(table: Table, size: Shape, batch_size: int) -> dict[str, Any]:
    """Return the padding of letterboxing to one size, and to buckets of at most as many pixels.

    Returns:
        plan name -> the shapes, and `dataforge.analysis.padding.Waste`'s numbers.

    Raises:
        ConfigError: no bucket is as small as `size`.
    """
    plans: dict[str, tuple[list[Shape], int]] = {"1 size": ([size], 1)}
    if len(table):
        for most in (3, AUTO):
            plans[f"up to {most} buckets"] = auto_shapes(table.height, table.width, size[0] * size[1], most), 1
        plans[f"... and alike in boxes, {WINDOW} steps"] = plans[f"up to {AUTO} buckets"][0], WINDOW
    boxes, plans_waste = np.diff(table.offsets), {}
    for name, (shapes, window) in plans.items():
        how: dict[str, Any] = {"boxes": boxes, "box_window": window}
        steps = plan(table.height, table.width, shapes, batch_size, **how) if len(table) else ()
        plans_waste[name] = {"shapes": [list(shape) for shape in shapes], **vars(padding_waste(table, steps))}
    return plans_waste


def text(facts: Mapping[str, Any]) -> str:
    """Format the result of `statistics`, with that of `padding` under "padding", for a terminal."""
    sizes = (facts["images"], "image"), (facts["boxes"], "box"), (len(facts["classes"]), "class")
    first = ", ".join(counted(*size) for size in sizes)
    shares = ", ".join(f"{name} {n / max(facts['boxes'], 1):.1%}" for name, n in facts["coco_areas"].items())
    parts = [rows(facts) for rows in (split_rows, spread_rows, padding_rows, class_rows)]
    tables = [columns([head, *rows]) for head, rows in parts]
    return "\n\n".join([first, *tables[:2], f"boxes by COCO's areas: {shares}", *tables[2:]])


def split_rows(facts: Mapping[str, Any]) -> Rows:
    """Return a row per split: its contents, and shares of its images or boxes."""
    head = ("split", "images", "boxes", "empty", "crowd", "difficult", "truncated")
    rows: list[list[object]] = []
    for name, split in facts["splits"].items():
        shares = [f"{split['empty'] / max(split['images'], 1):.1%}"]
        shares += [f"{split[flag] / max(split['boxes'], 1):.1%}" for flag in head[4:]]
        rows.append([name, split["images"], split["boxes"], *shares])
    return head, rows


def spread_rows(facts: Mapping[str, Any]) -> Rows:
    """Return a row per quantity: its name with its unit, then its spread."""
    rows: list[list[object]] = []
    for name, words in (
        ("image_width", "image width, px"),
        ("image_height", "image height, px"),
        ("image_aspect", "image width / height"),
        ("box_width", "box width, px"),
        ("box_height", "box height, px"),
        ("box_side", "√ box area, px"),
        ("box_side_share", "√ (box area / image area)"),
        ("box_aspect", "box width / height"),
        ("boxes_per_image", "boxes per image"),
    ):
        rows.append([words, *(f"{v:.3g}" if v < 1000 else f"{v:.0f}" for v in facts[name]["spread"])])
    return ("", "min", "5 %", "25 %", "median", "75 %", "95 %", "max"), rows


def padding_rows(facts: Mapping[str, Any]) -> Rows:
    """Return a row per plan: its name, steps, shares of padded pixels and box places, shapes."""
    rows: list[list[object]] = []
    for name, waste in facts["padding"].items():
        shares = (f"{waste[part]:.1%}" for part in ("padded_pixels", "padded_places"))
        rows.append([name, waste["steps"], *shares, " ".join(f"{h}x{w}" for h, w in waste["shapes"])])
    return ("padding of", "steps", "pixels", "box places", "height x width"), rows


def class_rows(facts: Mapping[str, Any]) -> Rows:
    """Return a row per class, the most boxes first: its name, boxes, images, and boxes in each split."""
    rows: list[list[object]] = [
        [name, sum(counts["boxes"].values()), sum(counts["images"].values()), *counts["boxes"].values()]
        for name, counts in by_boxes(facts)
    ]
    return ("class", "boxes", "images", *(f"boxes, {split}" for split in facts["splits"])), rows


def image_size_rows(facts: Mapping[str, Any], most: int = 12) -> list[tuple[str, int]]:
    """Return the most common image sizes as "WIDTHxHEIGHT" with their number of images, then the rest as "others"."""
    rows = [(f"{w}x{h}", n) for h, w, n in facts["image_sizes"]["common"][:most]]
    others = facts["images"] - sum(n for _, n in rows)
    return [*rows, ("others", others)] if others else rows


def by_boxes(facts: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """Sort the classes by their number of boxes, the most first."""
    return sorted(facts["classes"].items(), key=lambda item: -sum(item[1]["boxes"].values()))


def _split(table: Table, rows: NDArray[np.int64]) -> dict[str, int]:
    counts, flags = np.diff(table.offsets)[rows], table.take(rows).flags
    return {
        "images": len(rows),
        "boxes": int(counts.sum()),
        "empty": int((counts == 0).sum()),
        "crowd": int((flags & CROWD > 0).sum()),
        "difficult": int((flags & DIFFICULT > 0).sum()),
        "truncated": int((flags & TRUNCATED > 0).sum()),
    }


def _coco_areas(areas: NDArray[np.float32]) -> dict[str, int]:
    return {
        "small": int((areas < SMALL).sum()),
        "medium": int(((areas >= SMALL) & (areas <= LARGE)).sum()),
        "large": int((areas > LARGE).sum()),
    }


def _image_sizes(table: Table) -> dict[str, Any]:
    sizes, times = np.unique(np.stack([table.height, table.width], 1), axis=0, return_counts=True)
    common = np.argsort(-times, kind="stable")[:20]
    rows = [[*size, n] for size, n in zip(sizes[common].tolist(), times[common].tolist(), strict=True)]
    return {"different": len(sizes), "common": rows}


def _classes(table: Table, classes: Sequence[str], splits: Mapping[str, NDArray[np.int64]]) -> dict[str, Any]:
    per_class: dict[str, Any] = {name: {"boxes": {}, "images": {}} for name in classes}
    for split, rows in splits.items():
        objects = table.take(rows)
        image = np.repeat(np.arange(len(rows)), np.diff(objects.offsets))
        pairs = np.sort(image * len(classes) + objects.labels)  # np.unique without counts is five times slower
        once = pairs[np.diff(pairs, prepend=-1) > 0] % max(len(classes), 1)  # one per image and class
        for part, labels in (("boxes", objects.labels), ("images", once)):
            for name, n in zip(classes, np.bincount(labels, minlength=len(classes)).tolist(), strict=True):
                per_class[name][part][split] = n
    return per_class


def _spread(values: NDArray[Any], edges: NDArray[np.float64] | None = None) -> dict[str, Any]:
    """Return percentiles, and a histogram whose outer bins include values beyond the edges."""
    points = np.percentile(values, [0, 5, 25, 50, 75, 95, 100]).tolist() if len(values) else [0.0] * 7
    if edges is None:
        return {"spread": points}
    counts, _ = np.histogram(np.clip(values, edges[0], edges[-1]), edges)
    return {"spread": points, "histogram": {"edges": edges.tolist(), "counts": counts.tolist()}}


def _octaves(low: float, high: float, parts: int) -> NDArray[np.float64]:
    """Return edges from low to high, with `parts` bins per doubling."""
    return low * np.exp2(np.arange(round(np.log2(high / low) * parts) + 1) / parts)


def _whole(most: int) -> NDArray[np.float64]:
    """Return edges around 0..most, with at most 50 bins of integer width."""
    step = most // 50 + 1
    return np.arange(0.0, most + step + 1, step) - 0.5


def _heat(points: NDArray[Any]) -> list[list[int]]:
    heat, _, _ = np.histogram2d(points[:, 1], points[:, 0], bins=CELLS, range=((0, 1), (0, 1)))
    return heat.astype(int).tolist()


QUANTITIES: dict[str, Callable[[_Set], Any]] = {
    "splits": lambda s: {name: _split(s.table, rows) for name, rows in s.splits.items()},
    "classes": lambda s: _classes(s.table, s.classes, s.splits),
    "coco_areas": lambda s: _coco_areas(s.table.areas),
    "box_width": lambda s: _spread(s.side[:, 0]),
    "box_height": lambda s: _spread(s.side[:, 1]),
    "box_side": lambda s: _spread(np.sqrt(s.side.prod(1)), _octaves(1, 1 << 13, 4)),
    "box_side_share": lambda s: _spread(np.sqrt(s.unit.prod(1)), np.linspace(0, 1, CELLS + 1)),
    "box_aspect": lambda s: _spread(s.side[:, 0] / np.maximum(s.side[:, 1], 1e-6), _octaves(1 / 16, 16, 6)),
    "image_aspect": lambda s: _spread(s.table.width / np.maximum(s.table.height, 1), _octaves(1 / 4, 4, 12)),
    "boxes_per_image": lambda s: _spread(s.counts, _whole(int(s.counts.max(initial=0)))),
    "image_height": lambda s: _spread(s.table.height),
    "image_width": lambda s: _spread(s.table.width),
    "image_sizes": lambda s: _image_sizes(s.table),
    "centres": lambda s: _heat((s.table.boxes[:, :2] + s.table.boxes[:, 2:]) / 2 / s.image_size),
    "relative_sizes": lambda s: _heat(s.unit),
}
