"""`dataforge diff`: report the differences between two shard folders."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dataforge.cli.options import Directory, json_option
from dataforge.command import command, echo_json, real
from dataforge.errors import ConfigError
from dataforge.files import writing

if TYPE_CHECKING:
    from dataforge.shards.reader import Shards

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
@click.option("--report", type=click.Path(path_type=Path), help="Write an HTML page with images to this file.")
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
    echo_json(facts) if as_json else click.echo(text(facts))
    if not difference.equal:
        sys.exit(1)


def _page(facts: dict[str, Any], old: Shards, new: Shards) -> str:
    from dataforge.analysis.diff import place
    from dataforge.analysis.html_page import Section, page

    counts = [[kind, facts[what][kind], what] for what in ("images", "boxes") for kind in facts[what]]
    sections = [Section("Counts", table=(("", "", ""), [[what, kind, n] for kind, n, what in counts]))]
    classes = [[kind, name] for kind in ("removed", "added") for name in facts["classes"][kind]]
    classes += [["renamed", f"{one} -> {other}"] for one, other in facts["classes"]["renamed"]]
    if classes:
        sections.append(Section("Classes", table=(("", "class"), classes)))
    for kind in ("removed", "added"):
        if facts[kind]:
            rows = [[one["split"], one["key"], one["boxes"]] for one in facts[kind]]
            sections.append(Section(f"Images {kind}", table=(("split", "key", "boxes"), rows)))
    if facts["changed"]:
        rows = [[place(one["old"]), place(one["new"]), ", ".join(one["changes"])] for one in facts["changed"]]
        sections.append(Section("Images changed", table=(("old", "new", "changes"), rows)))
    with_boxes = [one for one in facts["changed"] if one["boxes"]]
    for one in with_boxes[:SHOWN]:
        left = f"old: {place(one['old'])}, {one['old']['boxes']} boxes"
        right = f"new: {place(one['new'])}, {one['new']['boxes']} boxes"
        pictures = [(left, _picture(old, one, "old")), (right, _picture(new, one, "new"))]
        sections.append(Section(place(one["new"]), "Only the boxes that differ are drawn.", pictures=pictures))
    if len(with_boxes) > SHOWN:
        sections.append(Section("More", f"{len(with_boxes) - SHOWN} more images with other boxes are not drawn."))
    return page(f"{facts['a']} and {facts['b']}", sections)


def _picture(shards: Shards, image: dict[str, Any], side: str) -> bytes:
    """Draw the image with its boxes that differ, as JPEG."""
    import numpy as np

    from dataforge.images.draw import thumbnail

    def name(box: dict[str, Any], side: str) -> str:
        return f"{box[side]['class']}, {' and '.join(box['changes'])}"

    # numbered across both sides, so that each name has one colour
    names = sorted({name(box, one) for box in image["boxes"] for one in ("old", "new") if one in box})
    shown = [box for box in image["boxes"] if side in box]
    labels = np.array([names.index(name(box, side)) for box in shown], np.int64)
    boxes = np.array([box[side]["box"] for box in shown], np.float64).reshape(-1, 4)
    return thumbnail(shards.pixels(image[side]["record"]), boxes, labels, names)
