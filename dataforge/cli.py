"""The `dataforge` command. Heavy imports happen inside the commands, so that `--help` is instant."""

from __future__ import annotations

import inspect
import json
import re
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dataforge import __version__
from dataforge.command import Group
from dataforge.errors import ConfigError, DataforgeError

if TYPE_CHECKING:
    from dataforge.record import Source
    from dataforge.shards.reader import Shards


@click.group(cls=Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="dataforge")
def main() -> None:
    """Annotated images to shards, shards to batches."""


def _json(command: Callable[..., Any]) -> Callable[..., Any]:
    return click.option("--json", "as_json", is_flag=True, help="Print one JSON object for machines.")(command)


def _format_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """What the formats' readers take beyond the folder; a command gets them all as `**given`."""
    for option in reversed(
        (
            click.option("--annotations", type=click.Path(path_type=Path), help="coco: this JSON file."),
            click.option(
                "--images", type=click.Path(path_type=Path), help="The folder of the pictures, where it is another."
            ),
            click.option(
                "--voc-offset",
                type=int,
                help="voc: 1 (default) for 1-based inclusive boxes, 0 for boxes as they stand.",
            ),
            click.option("--map", metavar="FIELD=COLUMN,...|FILE.toml", help="table: which columns hold what."),
            click.option("--boxes", metavar="xyxy|xywh|cxcywh", help="table: what a box's four numbers are."),
            click.option("--unit", metavar="pixel|unit", help="table: pixels, or fractions of the image's size."),
            click.option(
                "--inclusive", is_flag=True, default=None, help="table: xmax and ymax are the last pixels' numbers."
            ),
            click.option(
                "--corners", help="matlab: matlab (default) for [x y w h] from 1, converter for [x, y + h, x + w, y]."
            ),
        )
    ):
        command = option(command)
    return command


def _source(format_name: str, root: Path, splits: tuple[str, ...] | None, given: dict[str, Any]) -> Source:
    """Read ROOT with those options that were given, which must be ones that the format takes."""
    from dataforge.formats import reader

    read = reader(format_name)
    options = {name: value for name, value in given.items() if value is not None}
    for name in options.keys() - inspect.signature(read).parameters.keys():
        raise ConfigError(f"--{name.replace('_', '-')}: format {format_name!r} does not take it")
    return read(root, split=splits, **options)


def _format_and_root(text: str, option: str) -> tuple[str, Path]:
    """The parts of FORMAT:ROOT, where FORMAT may be the user's own file.py:function."""
    found = re.fullmatch(r"(.+?\.py:\w+|[^:]+):(.*)", text, re.DOTALL)
    if not found:
        raise ConfigError(f"{option} {text}: expected FORMAT:ROOT, such as coco:path/to/coco")
    root = Path(found[2] or ".")
    return _named(found[1], root), root


def _named(format_name: str, root: Path) -> str:
    """The format's name; where it is `auto`, the one that ROOT is in, and what was seen of it is said."""
    if format_name != "auto":
        return format_name
    from dataforge.formats.auto import detect

    found, saw = detect(root)
    click.echo(f"{root}: {found} ({saw})", err=True)
    return found


def _names(values: tuple[str, ...]) -> tuple[str, ...] | None:
    """The names in a repeated option, each of which may hold several between commas."""
    return tuple(name.strip() for value in values for name in value.split(",") if name.strip()) or None


@contextmanager
def _polite_kill() -> Iterator[None]:
    """SIGTERM ends what happens here as Ctrl-C does."""
    previous = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


@main.command()
@click.argument("format_name", metavar="FORMAT")
@click.argument("root", default=".", type=click.Path(path_type=Path))
@click.option("--out", required=True, type=click.Path(path_type=Path), help="The folder to make.")
@click.option("--split", "splits", multiple=True, help="Take these only (repeat it, or separate by commas).")
@_format_options
@click.option("--add", "added", multiple=True, metavar="FORMAT:ROOT", help="Join this set too; classes unite by name.")
@click.option("--class-map", type=click.Path(path_type=Path), help='TOML of old = "new"; old = "" drops a class.')
@click.option("--max-bad", type=click.IntRange(0), default=0, help="Go on with up to this many unreadable images.")
@click.option("--decode-check", is_flag=True, help="Decode every image too.")
@_json
def ingest(
    format_name: str,
    root: Path,
    out: Path,
    splits: tuple[str, ...],
    added: tuple[str, ...],
    class_map: Path | None,
    max_bad: int,
    decode_check: bool,
    as_json: bool,
    **given: Any,
) -> None:
    """Turn annotated images into shards.

    FORMAT is a format's name (a wrong one lists them all), `auto` to find it out, or your own reader as
    `path/to/file.py:function`. ROOT is the folder of the annotated images, `.` by default.
    """
    from dataforge.join import join, read_class_map, rename

    def make() -> tuple[Source, str]:
        name = _named(format_name, root)
        source, names = _source(name, root, _names(splits), given), name
        if added:
            places = [_format_and_root(text, "--add") for text in added]
            names = " + ".join([name, *(other for other, _ in places)])
            more = [(place.resolve().name, _source(other, place, _names(splits), {})) for other, place in places]
            source = join([(root.resolve().name, source), *more])
        return (rename(source, read_class_map(class_map)) if class_map else source), names

    _publish(make, out, as_json, max_bad=max_bad, decode_check=decode_check)


@main.command()
@click.argument("directories", nargs=-1, required=True, metavar="DIR DIR...", type=click.Path(path_type=Path))
@click.option("--out", required=True, type=click.Path(path_type=Path), help="The folder to make.")
@_json
def merge(directories: tuple[Path, ...], out: Path, as_json: bool) -> None:
    """Put shard folders together: classes unite by name, splits of one name become one, images keep their bytes."""
    from dataforge.export import source_of
    from dataforge.join import join
    from dataforge.shards.reader import Shards

    def make() -> tuple[Source, str]:
        parts = [Shards(directory) for directory in directories]
        source = join([(part.path.resolve().name, source_of(part)) for part in parts])
        return source, " + ".join(part.index["source"] for part in parts)

    _publish(make, out, as_json)


def _publish(make: Callable[[], tuple[Source, str]], out: Path, as_json: bool, **how: Any) -> None:
    """Ingest what `make` gives, a source and its name, and say what came of it."""
    from dataforge.ingest import IngestError
    from dataforge.ingest import ingest as run
    from dataforge.shards.reader import Shards

    failed: dict[str, Any] = {"out": str(out)}
    code = 1
    try:
        with _polite_kill():
            source, source_name = make()
            with _progress(source.total, hidden=as_json) as progress:
                summary = run(source, out, source_name=source_name, progress=progress, **how)
    except KeyboardInterrupt:
        failed["error"], code = "interrupted; nothing was published", 130
    except DataforgeError as error:
        failed["error"] = str(error)
        if isinstance(error, IngestError):
            failed |= error.summary.facts()
    if "error" not in failed:
        facts = Shards(out).info()
        if as_json:
            click.echo(json.dumps(facts | summary.facts(), ensure_ascii=False))
        else:
            click.echo(f"{describe(facts)}\n\n{summary.text()}")
        return
    if as_json:
        click.echo(json.dumps(failed, ensure_ascii=False))
    click.echo(f"error: {failed['error']}" if code == 1 else failed["error"], err=True)
    sys.exit(code)


@contextmanager
def _progress(total: int, hidden: bool) -> Iterator[Callable[[int], None] | None]:
    """A bar on a terminal, else a line every tenth of the way, but not several a second."""
    if hidden:
        yield None
    elif sys.stderr.isatty():
        from tqdm import tqdm

        with tqdm(total=total or None, unit=" images", leave=False) as bar:

            def advance(done: int) -> None:
                bar.update(done - bar.n)

            yield advance
    else:
        last, said = 0, time.monotonic()

        def say(done: int) -> None:
            nonlocal last, said
            if done - last >= max(total / 10, 1) and time.monotonic() - said > 0.5:
                last, said = done, time.monotonic()
                click.echo(f"{done} of {total} images" if total else f"{done} images", err=True)

        yield say


@main.command()
@click.argument("directory", type=click.Path(path_type=Path))
@click.option(
    "--out", type=click.Path(path_type=Path), default=Path("show.jpg"), show_default=True, help="The picture."
)
@click.option("--n", type=click.IntRange(1, 400), default=16, show_default=True, help="How many images.")
@click.option("--split", help="Only of this split.")
@click.option("--class", "class_name", help="Only images that hold this class.")
@click.option("--augment", metavar="RECIPE", help="As this augmentation recipe makes them.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of the choice, and of the augmentation.")
def show(directory: Path, out: Path, split: str | None, **what: Any) -> None:
    """Write a contact sheet: images with their boxes and class names."""
    import PIL.Image

    from dataforge.shards.reader import Shards
    from dataforge.show import show as draw

    sheet = PIL.Image.fromarray(draw(Shards(directory, split), **what))
    try:
        sheet.save(out, quality=90)
    except (OSError, ValueError) as error:
        raise ConfigError(f"--out {out}: cannot be written: {getattr(error, 'strerror', None) or error}") from None
    click.echo(f"{out}: {sheet.width}x{sheet.height}")


@main.command()
@click.argument("directory", type=click.Path(path_type=Path))
@_json
def info(directory: Path, as_json: bool) -> None:
    """What a shard folder holds: splits, classes, sizes, box counts."""
    from dataforge.shards.reader import Shards

    facts = Shards(directory).info()
    click.echo(json.dumps(facts, ensure_ascii=False) if as_json else describe(facts))


def describe(facts: dict[str, Any]) -> str:
    """`Shards.info()` as text."""
    lines = [
        f"{facts['images']} images, {facts['boxes']} boxes, {len(facts['classes'])} classes, "
        f"{facts['bytes'] / 1e6:.1f} MB of images ({facts['store']}, codec {facts['codec']}, from {facts['source']})"
    ]
    for name in ("height", "width", "boxes_per_image"):
        low, middle, high = facts[name]
        lines.append(f"{name.replace('_', ' ')}: {low} to {high}, median {middle}")
    splits = facts["splits"]
    wide = max([5, *map(len, facts["classes"])])
    lines.append("  ".join([" " * wide, *(f"{name:>10}" for name in splits)]))
    for row in ("images", "boxes", "empty", "crowd", "difficult", "truncated"):
        lines.append("  ".join([f"{row:<{wide}}", *(f"{split[row]:>10}" for split in splits.values())]))
    lines.append("boxes per class")
    for name in facts["classes"]:
        lines.append("  ".join([f"{name:<{wide}}", *(f"{split['per_class'][name]:>10}" for split in splits.values())]))
    for name, parts in facts["unions"].items():
        lines.append(f"{name} = {' + '.join(parts)}, stored once")
    return "\n".join(lines)


@main.command()
@click.argument("directory", type=click.Path(path_type=Path))
@click.option("--source", "origin", metavar="FORMAT:ROOT", help="Compare with this, record by record, instead.")
@_format_options
@_json
def verify(directory: Path, origin: str | None, as_json: bool, **given: Any) -> None:
    """Read, check and decode every record; exit with 1 if one is bad. Or compare all with what it was made from."""
    from dataforge.shards.reader import Shards
    from dataforge.shards.reader import verify as check

    shards = Shards(directory)
    if origin is not None:
        _prove(shards, origin, given, as_json)
        return
    for name in [name for name, value in given.items() if value is not None]:
        raise ConfigError(f"--{name.replace('_', '-')}: only goes with --source")
    faults = list(check(shards))
    if as_json:
        click.echo(json.dumps({"images": len(shards), "faults": [vars(fault) for fault in faults]}, ensure_ascii=False))
    else:
        for fault in faults:
            click.echo(f"{fault.place}: {fault.reason}", err=True)
        click.echo(f"{len(shards)} images checked, {len(faults)} faults")
    if faults:
        sys.exit(1)


def _prove(shards: Shards, origin: str, given: dict[str, Any], as_json: bool) -> None:
    from dataforge.prove import first_difference

    format_name, root = _format_and_root(origin, "--source")
    source = _source(format_name, root, (*shards.index["splits"], *shards.index["unions"]), given)
    with _progress(len(shards), hidden=as_json) as progress:
        found = first_difference(shards, source, progress)
    if as_json:
        click.echo(json.dumps({"images": len(shards), "difference": found and vars(found)}, ensure_ascii=False))
    elif found is None:
        click.echo(f"{len(shards)} images, {len(shards.table.boxes)} boxes: the same as in {origin}")
    else:
        click.echo(found.text(), err=True)
    if found:
        sys.exit(1)


@main.command()
@click.argument("directory", type=click.Path(path_type=Path))
@click.option("--format", "format_name", required=True, help="One that can be written: coco, voc, yolo, ...")
@click.option("--out", required=True, type=click.Path(path_type=Path), help="The folder to make.")
@click.option("--split", "splits", multiple=True, help="Take these only (repeat it, or separate by commas).")
@_json
def export(directory: Path, format_name: str, out: Path, splits: tuple[str, ...], as_json: bool) -> None:
    """Write a shard folder as annotated images again, and say what the format could not hold."""
    from dataforge.export import export as run
    from dataforge.export import source_of
    from dataforge.shards.reader import Shards

    shards, names = Shards(directory), _names(splits)
    try:
        with _polite_kill(), _progress(source_of(shards, names).total, hidden=as_json) as progress:
            done = run(shards, format_name, out, split=names, progress=progress)
    except KeyboardInterrupt:
        click.echo("interrupted; nothing was written", err=True)
        sys.exit(130)
    click.echo(json.dumps(vars(done) | {"out": str(out)}, ensure_ascii=False) if as_json else done.text())


@main.command()
@click.argument("directory", type=click.Path(path_type=Path))
@click.option("--images", type=int, default=640, show_default=True, help="How many; a fifth goes to val.")
@click.option("--seed", type=int, default=0, show_default=True, help="The same seed draws the same bytes.")
@click.option(
    "--size", type=int, nargs=2, default=(200, 320), show_default=True, metavar="LOW HIGH", help="Range of the sides."
)
def synth(directory: Path, images: int, seed: int, size: tuple[int, int]) -> None:
    """Draw a small detection set into DIRECTORY, as COCO lays it out."""
    from dataforge.synth import write

    write(directory, images=images, seed=seed, size=size)
    click.echo(f"{images} pictures drawn in {directory}; next: dataforge ingest coco {directory} --out shards")


@main.command()
@click.argument("directory", required=False, type=click.Path(path_type=Path))
@click.option("--size", type=int, nargs=2, default=(320, 320), show_default=True, metavar="H W", help="Of the batches.")
@click.option("--batch-size", type=click.IntRange(1), default=32, show_default=True)
@click.option("--repeats", type=int, default=5, show_default=True, help="Passes over the data that are measured.")
@_json
def bench(directory: Path | None, size: tuple[int, int], batch_size: int, repeats: int, as_json: bool) -> None:
    """Images a second: reading, decoding, the loader. Without DIRECTORY, on a drawn set."""
    from dataforge import bench as stages

    with stages.shards_or_drawn(directory) as path:
        found = stages.rows(path, size=size, batch_size=batch_size, repeats=repeats)
    for row in found if as_json else ():
        click.echo(json.dumps(row, ensure_ascii=False))
    if not as_json:
        click.echo(stages.describe(found))


@main.command()
@click.option("--out", default="demo", show_default=True, type=click.Path(path_type=Path), help="Folder for all of it.")
def demo(out: Path) -> None:
    """The whole line, with no data needed: draw, ingest, train, evaluate, predict."""
    from dataforge.demo import run

    run(out)
