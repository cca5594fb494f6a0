"""`dataforge diff`: report the differences between two shard folders."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dataforge.cli.options import Directory, json_option
from dataforge.command import OutFile, command, echo, echo_json, real
from dataforge.errors import ConfigError, counted
from dataforge.files import writing

if TYPE_CHECKING:
    from dataforge.shards.reader import Shards

SHADES = {"removed": (214, 39, 40), "added": (0, 150, 90), "moved": (230, 130, 0), "relabelled": (0, 114, 178)}
OTHER, FAINT = (150, 80, 170), (170, 170, 170)
LEGEND = "Red: removed; green: added; orange: moved; blue: relabelled; purple: flags, area or polygon; grey: unchanged."
SHOWN = 24  # images in the report


@command()
@click.argument("a", type=Directory())
@click.argument("b", type=Directory())
@click.option(
    "--iou",
    type=real(above=0, most=1),
    default=0.5,
    show_default=True,
    help="Least IoU at which two boxes count as the same box, moved.",
)
@click.option("--report", type=OutFile(), help="Write an HTML page with images to this file.")
@json_option
def diff(a: Path, b: Path, iou: float, report: Path | None, as_json: bool) -> None:
    """Report what was added, removed, moved and relabelled from shard folder A to shard folder B.

    Exits with 0 if they are equal, with 1 if they differ, and with 2 if they cannot be compared.
    """
    from dataforge.analysis.diff import diff as compare
    from dataforge.analysis.diff import text
    from dataforge.shards.reader import Shards

    old, new = Shards(a, trust=False), Shards(b, trust=False)
    difference = compare(old, new, iou)
    facts = difference.facts()
    if report is not None:
        html = _page(facts, old, new)
        with writing(f"--report {report}", ConfigError):
            report.write_text(html, "utf-8")
    echo_json(facts) if as_json else echo(text(facts))
    if not difference.equal:
        sys.exit(1)


def _page(facts: dict[str, Any], old: Shards, new: Shards) -> str:
    from dataforge.analysis.diff import place
    from dataforge.analysis.html_page import Section, page

    counts = [[what, kind, n] for what in ("images", "boxes") for kind, n in facts[what].items() if n or kind == "same"]
    sections = [Section("Counts", table=(("", "", ""), counts))]
    classes = [[kind, name] for kind in ("removed", "added") for name in facts["classes"][kind]]
    classes += [["renamed", f"{one} -> {other}"] for one, other in facts["classes"]["renamed"]]
    if classes:
        sections.append(Section("Classes", table=(("", "class"), classes)))
    for kind in ("removed", "added"):
        if facts[kind]:
            rows = [[one["split"], one["key"], one["boxes"]] for one in facts[kind]]
            sections.append(Section(f"Images {kind}", table=(("split", "key", "boxes"), rows)))
    if facts["changed"]:
        rows = [
            [place(one["new"]), "" if place(one["old"]) == place(one["new"]) else place(one["old"]), *_counted(one)]
            for one in facts["changed"]
        ]
        sections.append(Section("Images changed", table=(("image", "was", "changes", "boxes"), rows)))
    with_boxes = [one for one in facts["changed"] if one["boxes"]]
    for one in with_boxes[:SHOWN]:
        left = f"old: {place(one['old'])}, {counted(one['old']['boxes'], 'box')}"
        right = f"new: {place(one['new'])}, {counted(one['new']['boxes'], 'box')}"
        pictures = [(left, _picture(old, one, "old")), (right, _picture(new, one, "new"))]
        sections.append(Section(place(one["new"]), LEGEND, pictures=pictures))
    if len(with_boxes) > SHOWN:
        sections.append(Section("More", f"{len(with_boxes) - SHOWN} more images with other boxes are not drawn."))
    return page(f"{facts['a']} and {facts['b']}", sections)


def _counted(image: dict[str, Any]) -> tuple[str, str]:
    """Return the changes of an image, and the number of its boxes by change."""
    boxes = Counter(" and ".join(box["changes"]) for box in image["boxes"])
    return ", ".join(image["changes"]), ", ".join(f"{n} {kind}" for kind, n in boxes.items())


def _picture(shards: Shards, image: dict[str, Any], side: str) -> bytes:
    """Draw the image with its boxes, coloured by their change, as JPEG."""
    import numpy as np

    from dataforge.images.draw import thumbnail

    n = image[side]["record"]
    boxes = shards.table.boxes[slice(*shards.table.offsets[n : n + 2])]
    changed = [box for box in image["boxes"] if side in box]
    others = [one[side]["box"] for one in changed]
    same = np.array([box not in others for box in boxes.tolist()], bool)
    drawn = np.concatenate([boxes[same], np.array(others, np.float64).reshape(-1, 4)])
    names = [""] * int(same.sum()) + [f"{one[side]['class']}, {' and '.join(one['changes'])}" for one in changed]
    shades = [FAINT] * int(same.sum()) + [SHADES.get(one["changes"][0], OTHER) for one in changed]
    return thumbnail(shards.pixels(n), drawn, np.arange(len(drawn)), names, shades)
