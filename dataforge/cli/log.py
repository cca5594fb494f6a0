"""`dataforge log`: tell how a shard folder came to be."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from dataforge.cli.options import Directory, json_option
from dataforge.cloud.path import located
from dataforge.command import command, echo, echo_json
from dataforge.errors import ConfigError

ARGUMENTS = ("format_name", "root", "directory", "directories")


@command()
@click.argument("directory", type=Directory())
@json_option
def log(directory: Path, as_json: bool) -> None:
    """Tell how DIRECTORY came to be: command, options, version and date; also of the shards that it was made from."""
    steps = list(_steps(directory.absolute()))
    if as_json:
        echo_json({"steps": steps})
        return
    for step in steps:
        echo(f"{'  ' * step['depth']}{step['directory']}: {_text(step)}")


def _steps(directory: Path, below: tuple[Path, ...] = ()) -> Iterator[dict[str, Any]]:
    """Yield how a folder was made, then how each shard folder that it was made from was."""
    from dataforge.shards.index import INDEX, read_index

    index = read_index(directory)
    made = _baked(index["baked"]) if "baked" in index else _reported(directory)
    images_in = [parent["path"] for parent in index.get("parents", ())]
    yield {"directory": str(directory), "depth": len(below), **made, "images_in": images_in}
    given = [  # `out` may be where the folder was before it was moved or copied
        part
        for name, value in made.get("given", {}).items()
        if name != "out"
        for part in (value if isinstance(value, list) else [value])
    ]
    reached: set[str] = set()
    for part in (*given, *images_in):
        try:
            parent = located(str(part))
        except ConfigError:  # FORMAT:ROOT of --add
            continue
        known = parent in (directory, *below) or (part in images_in and part in reached)
        if parent.is_absolute() and (parent / INDEX).is_file() and not known:
            for step in _steps(parent, (*below, directory)):
                reached.add(step["directory"])
                yield step


def _baked(baked: dict[str, Any]) -> dict[str, Any]:
    """Return how a cache was made, from its index."""
    given = {"directory": baked["parent"], "view": baked["view"], **baked["form"]}
    return {"command": "bake", "given": {name: value for name, value in given.items() if value}}


def _reported(directory: Path) -> dict[str, Any]:
    """Return what the last line of the report states; {} if there is none, as for shards written by Python."""
    from dataforge.errors import ShardError
    from dataforge.files import reading
    from dataforge.shards.index import REPORT

    report = directory / REPORT
    if not report.is_file():
        return {}
    with reading(report, ShardError), report.open("rb") as file:
        last = b"{}"  # as for shards that `ShardWriter` wrote
        for line in file:
            last = line
    try:
        made = json.loads(last).get("made", {})
    except (ValueError, AttributeError):
        made = None
    if not isinstance(made, dict) or not isinstance(made.get("given", {}), dict):
        raise ShardError(f"{report}: its last line is not a summary of an ingest")
    return made


def _text(made: dict[str, Any]) -> str:
    given = dict(made.get("given", {}))
    out = {"out", "as_json", "jobs", "resume"}
    words = [made.get("command", "")]
    for name in sorted(given, key=lambda name: name not in ARGUMENTS):
        parts = given[name] if isinstance(given[name], list) else [given[name]]
        if name == "view":  # a cache's, which are options
            words += parts
        elif name not in out:
            words += [] if name in ARGUMENTS else [f"--{name.replace('_', '-')}"]
            words += [shlex.quote(str(part)) for part in parts if part is not True]
    facts = [f"dataforge {made['dataforge']}" if "dataforge" in made else "", made.get("date", "")]
    facts += [f"in {made['parts']} parts"] if "parts" in made else []
    facts += [f"images in {folder}{'' if Path(folder).exists() else ' (not there)'}" for folder in made["images_in"]]
    return ", ".join(filter(None, [" ".join(words).strip(), *facts])) or "not stated"
