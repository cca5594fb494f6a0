"""`dataforge annotate`: draw and correct boxes in a browser."""

from __future__ import annotations

import json
import secrets
import tomllib
import webbrowser
from contextlib import closing, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

import click

from dataforge.cli.complete import FORMAT
from dataforge.cli.options import names, polite_kill
from dataforge.cli.pages import listen, serve
from dataforge.command import LocalPath, command, echo, natural
from dataforge.errors import ConfigError, counted, unknown
from dataforge.files import reading

if TYPE_CHECKING:
    from dataforge.web.proposals import Proposals
    from dataforge.web.session import Session


@command()
@click.argument("path", type=click.Path(path_type=Path))
@click.option(
    "--format", "format_name", default="auto", show_default=True, type=FORMAT, help="Of PATH: shards, photos, coco, ..."
)
@click.option("--classes", multiple=True, help="Classes to add to those that there are (separate by commas).")
@click.option("--model", type=click.Path(path_type=Path), help="Checkpoint, run or exported .onnx that proposes boxes.")
@click.option("--overlay", type=LocalPath(), help="The folder of the edits (default: PATH.overlay).")
@click.option("--port", type=natural(0, 65535), help="Of the server (default: one that the overlay keeps).")
@click.option("--no-browser", is_flag=True, help="Only print the address.")
@click.option("--keys", type=click.Path(path_type=Path), help='TOML of action = "key" or ["key", ...].')
def annotate(
    path: Path,
    format_name: str,
    classes: tuple[str, ...],
    model: Path | None,
    overlay: Path | None,
    port: int | None,
    no_browser: bool,
    keys: Path | None,
) -> None:
    """Draw and correct boxes in a browser.

    PATH is a folder of photos, an annotated set in any format, either also in a zip or tar file, or shards. It is never
    written to: every edit is appended to a journal in the overlay folder, and is on the disk before the page shows it
    as saved.
    """
    from dataforge.overlay.versions import is_version, open_version
    from dataforge.transform.edited import base_of, open_base, overlay_of
    from dataforge.web.annotator import application
    from dataforge.web.novelty import Novelty
    from dataforge.web.proposals import Proposals
    from dataforge.web.session import Session

    rebound = _read_keys(keys) if keys else {}
    if is_version(path):
        if overlay is not None or format_name != "auto" or not path.is_dir():
            raise ConfigError(f"{path}: is an overlay; to go on with it, give its folder alone")
        base, overlay = base_of(open_version(path)), path
    else:
        base = open_base(path, format_name)
    if base.left_out:
        echo(f"left out: {counted(len(base.left_out), 'image')}, such as {base.left_out[0].key}", err=True)
    folder = overlay or overlay_of(base.path)
    if model is not None and not model.exists():
        raise ConfigError(f"--model {model}: no such file; expected a checkpoint, a run's folder or an exported .onnx")
    with (
        listen(port, folder) as listening,
        closing(Session(base, folder, names(classes) or ())) as session,
        polite_kill(),
        closing(Proposals(session, model)) if model else nullcontext() as proposals,
        closing(Novelty(session, proposals)) as novelty,
    ):
        if proposals:
            _load(proposals, session)
        port, token = listening.getsockname()[1], secrets.token_urlsafe(32)
        address = f"http://127.0.0.1:{port}/?token={token}"
        echo(f"{base.path}: {counted(len(base.places), 'image')} ({base.format}); edits go to {folder}\n{address}")
        echo("Ctrl-C ends it")
        if not no_browser:
            webbrowser.open(address)
        serve(application(session, token, port, rebound, proposals, novelty), listening)
    echo(f"{counted(session.edits.version, 'edit')} in {folder}")


def _load(proposals: Proposals, session: Session) -> None:
    """Load the model, and print which of its classes the set lacks: their boxes are not proposed."""
    echo("loading the model ...", err=True)
    known = set(session.edits.classes().values())
    lacking = [name for name in proposals.load() if name not in known]
    if lacking:
        shown = ",".join(lacking[:10]) + (f" and {len(lacking) - 10} more" if len(lacking) > 10 else "")
        echo(f"note: the model also knows {shown}; add them by --classes to have their boxes proposed", err=True)


def _read_keys(path: Path) -> dict[str, list[str]]:
    from dataforge.web.server import STATIC

    known = [action["id"] for action in json.loads((STATIC / "keys.json").read_text("utf-8"))]
    try:
        with reading(path, ConfigError):
            facts = tomllib.loads(path.read_text("utf-8-sig"))
    except ValueError as error:
        raise ConfigError(f"{path}: not TOML: {error}") from None
    keys = {action: [given] if isinstance(given, str) else given for action, given in facts.items()}
    for action, given in keys.items():
        if not isinstance(given, list) or not all(isinstance(key, str) and key for key in given):
            raise ConfigError(f'{path}: {action} is {given!r}; expected "key" or ["key", ...]')
        if action not in known:
            raise ConfigError(f"{path}: {unknown('action', action, known)}")
    return keys
