"""`dataforge overlay`: what annotators did to a set, its versions, and shards and files of them."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dataforge.cli.complete import WRITTEN_FORMAT
from dataforge.cli.ingest import publish
from dataforge.cli.options import json_option, max_bad_option, out_option, store_or_link_options
from dataforge.command import Group, echo, echo_json

if TYPE_CHECKING:
    from dataforge.record import Source

_version = click.argument("version", metavar="DIR[@VERSION]", type=click.Path(path_type=Path))
_untouched = click.option(
    "--untouched/--no-untouched", default=None, help="Take images without an edit too (default: unless of bare photos)."
)


@click.group(cls=Group)
def overlay() -> None:
    """Inspect, tag and apply the edits that `dataforge annotate` keeps in a folder.

    DIR@v3 is the overlay in DIR as it was after 3 edits, DIR@clean as it was when it was tagged "clean"; DIR is the
    newest. An overlay of shards is read like shards by every command and trainer: --shards DIR@v3.
    """


@overlay.command()
@_version
@json_option
def log(version: Path, as_json: bool) -> None:
    """Tell who edited what and when, and which tags there are."""
    from dataforge.overlay.history import sittings
    from dataforge.overlay.versions import open_version, tags

    opened = open_version(version)
    known, newest = tags(opened.folder), opened.edits.version
    lines = [line for line in opened.lines if line.get("version", 0) <= newest]
    known = {name: tag for name, tag in known.items() if tag["version"] <= newest}
    if as_json:
        of = {"path": opened.edits.path, "format": opened.header["format"]}
        facts = {**of, "version": newest, "conflicts": opened.edits.conflicts, "tags": known}
        echo_json({**facts, "sittings": [one.facts() for one in sittings(lines)]})
        return
    echo(f"{opened.folder}: version {newest}, of {opened.edits.path} ({opened.header['format']})")
    for sitting in sittings(lines):
        echo(sitting.text())
    for name, tag in known.items():
        echo(f"tag {name} = v{tag['version']}  {tag['when'][:16].replace('T', ' ')} UTC  {tag['who']}")


@overlay.command()
@_version
@click.option("--since", default="v0", show_default=True, help="Compare with this version or tag; v0 is unedited.")
@json_option
def diff(version: Path, since: str, as_json: bool) -> None:
    """Report the boxes, classes and states that differ between two versions, one a line."""
    from dataforge.overlay.history import changes
    from dataforge.overlay.versions import open_version, split

    folder, _ = split(version)
    new, old = open_version(version), open_version(folder.with_name(f"{folder.name}@{since}"))
    differences = list(changes(old.edits, new.edits))
    if as_json:
        echo_json({"changes": differences})
    else:
        for change in differences:
            echo(_line(change))


def _line(change: dict[str, Any]) -> str:
    kind = change["change"]
    if kind == "class":
        return f"class {change['label']}: {change['old'] or 'none'} -> {change['new']}"
    if kind == "merge":
        return f"class {change['label']}: {change['old']} is merged into {change['new']}"
    place = f"{change['split']} {change['key']}"
    if kind == "state":
        return f"{place}: {change['old']} -> {change['new']}"
    sides = []
    for side in ("old", "new"):
        if side in change:
            box = change[side]
            corners = ", ".join(f"{number:.6g}" for number in box["box"])
            sides.append(f"{box['class']} [{corners}]" + (f" flags {box['flags']}" if box["flags"] else ""))
    return f"{place}: {change['id']} {kind}" + (": " if sides else "") + " -> ".join(sides)


@overlay.command()
@_version
@click.argument("name")
def tag(version: Path, name: str) -> None:
    """Name a version: DIR@NAME. A tag is never moved."""
    from dataforge.overlay.versions import split
    from dataforge.overlay.versions import tag as put

    echo(f"{split(version)[0]}@{name} is v{put(version, name)}")


@overlay.command()
@_version
@out_option
@_untouched
@max_bad_option
@store_or_link_options
@json_option
def apply(version: Path, out: Path, untouched: bool | None, max_bad: int, store_name: str, as_json: bool) -> None:
    """Write a version as new shards, images with their own bytes."""

    def make() -> tuple[Source, str]:
        return _source(version, untouched), f"overlay {version.name}"

    publish(make, out, as_json, max_bad=max_bad, store_name=store_name)


def _source(version: Path, untouched: bool | None) -> Source:
    from dataforge.overlay.versions import open_version
    from dataforge.transform.edited import PHOTOS, edited_source

    if untouched is None:
        untouched = open_version(version).header["format"] != PHOTOS
        if not untouched:
            echo("images without an edit are left out; --untouched takes them, as images without objects", err=True)
    return edited_source(version, untouched)


@overlay.command()
@_version
@click.option(
    "--format",
    "format_name",
    required=True,
    type=WRITTEN_FORMAT,
    help="A format that can be written: coco, voc, yolo, ...",
)
@out_option
@_untouched
@max_bad_option
@json_option
def export(version: Path, format_name: str, out: Path, untouched: bool | None, max_bad: int, as_json: bool) -> None:
    """Write a version as annotated images, and report what the format cannot store."""
    from dataforge.formats import writer
    from dataforge.ingest.run import ingest
    from dataforge.shards.reader import Shards
    from dataforge.transform.export import export as run

    writer(format_name)  # an error before anything is written
    source = _source(version, untouched)
    with tempfile.TemporaryDirectory(prefix=".export-", dir=out.resolve().parent) as folder:
        ingest(source, Path(folder, "shards"), max_bad=max_bad)
        done = run(Shards(Path(folder, "shards")), format_name, out)
    echo_json(vars(done) | {"out": str(out)}) if as_json else echo(done.text())
