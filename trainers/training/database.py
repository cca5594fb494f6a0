"""Train from an annotation database in one command: write shards next to it, once, and train on these."""

from __future__ import annotations

import os
import shutil
import zlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import numpy as np
from tqdm import tqdm

from dataforge.command import echo, natural
from dataforge.errors import ConfigError, ShardError, counted
from dataforge.formats import reader
from dataforge.formats.sniff import detect
from dataforge.ingest.run import ingest
from dataforge.record import Finding, Record, Source
from dataforge.shards.index import INDEX
from dataforge.shards.reader import Shards
from dataforge.transform.split import deal

FORMATS = ("flatbuffer", "sqlite")
SUFFIXES = (".db", ".sqlite", ".sqlite3")
SPLITS, SHARES = ("train", "val"), (0.9, 0.1)
_CHUNK = 1 << 20


def shards_of(db: Path, images: Path | None = None) -> tuple[Path, str]:
    """Return the shards of a database, `<db>.shards` next to it, and rewrite them if the database has changed.

    A folder's databases are its splits. A single file is split: a tenth of its images becomes "val", stratified by
    class as in `dataforge split`; "all" names both parts.

    Args:
        db: a FlatBuffer or SQLite file, or a folder of them.
        images: the folder of the images, if they are not in the database or next to it. Changes of the images alone
            are not detected.

    Returns:
        The shards' folder, and a one-line description of what was done.

    Raises:
        ConfigError: the format is not supported, `<db>.shards` was not written by this function, or it would have to
            be written under torchrun. FormatError: the database cannot be read, or an image is missing or damaged.
            ShardError: the shards cannot be written.
    """
    name, _ = detect(db)
    if name not in FORMATS:
        raise ConfigError(f"--db {db}: is {name}; expected {' or '.join(FORMATS)}, or --shards (`dataforge ingest`)")
    db = db.resolve()
    cache = db.with_name(db.name + ".shards")
    made_of = f"{name} {_fingerprint(db, images)}"
    changed = ""
    if (cache / INDEX).is_file():
        before = Shards(cache).index["source"]
        if before == made_of:
            return cache, f"{cache}: made from {db.name} before, which has not changed"
        if before.partition(" ")[0] not in FORMATS or " " not in before:
            raise ConfigError(f"{cache}: holds shards that --db did not make; move them, or train on them by --shards")
        changed = f" again, since {db.name} or --images has changed"
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ConfigError(f"--db {db}: has to be made into shards first; run it once without torchrun")
    source = _source(name, db, images)
    if changed:
        try:
            shutil.rmtree(cache)
        except OSError as error:
            raise ShardError(f"{cache}: cannot be removed: {error.strerror}") from None
    with tqdm(total=source.total or None, unit=" images", desc=db.name, leave=False, disable=None) as bar:

        def advance(count: int) -> None:
            bar.update(count - bar.n)

        done = ingest(source, cache, source_name=made_of, progress=advance)
    counts = ", ".join(f"{split} {len(rows)}" for split, rows in Shards(cache).splits.items())
    findings = f"; {sum(done.findings.values())} findings, see {done.report}" if done.findings else ""
    return cache, f"{cache}: made{changed} from {db.name}: images {counts}; {counted(done.boxes, 'box')}{findings}"


def _fingerprint(db: Path, images: Path | None) -> str:
    """Return 8 hex digits of a hash of the databases' names and content, and of the images' folder."""
    crc = zlib.crc32(str(images and images.resolve()).encode("utf-8", "surrogateescape"))
    for path in [db] if db.is_file() else sorted(path for path in db.iterdir() if path.suffix.lower() in SUFFIXES):
        crc = zlib.crc32(path.name.encode("utf-8", "surrogateescape"), crc)
        with open(path, "rb") as file:
            while chunk := file.read(_CHUNK):
                crc = zlib.crc32(chunk, crc)
    return f"{crc:08x}"


def _source(name: str, db: Path, images: Path | None) -> Source:
    """Return a database's records; those of a single file are assigned to `SPLITS`."""
    given = {} if images is None else {"images": images}
    source: Source = reader(name)(db, **given)
    if db.is_dir():
        return source
    labels = {item.key: item.labels for item in source.records if isinstance(item, Record)}
    keys, image = list(labels), np.repeat(np.arange(len(labels)), [len(each) for each in labels.values()])
    label = np.concatenate([np.zeros(0, np.int64), *labels.values()]).astype(np.int64)
    part = deal(np.arange(len(keys)), image, label, keys, SHARES)
    split_of = {key: SPLITS[k] for key, k in zip(keys, part.tolist(), strict=True)}
    source = reader(name)(db, **given)

    def records() -> Iterator[Record | Finding]:
        for item in source.records:
            yield replace(item, split=split_of[item.key]) if isinstance(item, Record) else item

    return replace(source, records=records(), unions={"all": SPLITS})


def with_database(command: click.Command) -> click.Command:
    """Add `--db`, `--images` and `--resize` to a trainer's command."""
    train: Any = command.callback

    def run_it(db: Path | None, images: Path | None, resize: tuple[int, int] | None, **flags: Any) -> Any:
        for flag, given, other in (("db", db, "shards"), ("resize", resize, "size")):
            if given and flags[other] is not None:
                raise ConfigError(f"--{flag} and --{other}: expected exactly one of them")
        if images and not db:
            raise ConfigError("--images goes with --db")
        if resize:
            flags["size"] = list(resize[::-1])
        if db:
            shards, message = shards_of(db, images)
            flags["shards"] = str(shards)
            echo(message)
            splits = Shards(shards).splits
            free = flags["val_split"] is None and not flags["toml"] and not flags["resume"]
            if free and not any(name.startswith("val") for name in splits):
                echo(f"no split of {db} is for validation ({', '.join(splits)}); trained without")
                flags["val_split"] = ""
        return train(**flags)

    command.callback = run_it
    path = click.Path(path_type=Path)
    command.params[:0] = [
        click.Option(["--db"], type=path, help="FlatBuffer or SQLite file (or folder of them), instead of --shards"),
        click.Option(["--images"], type=path, help="folder of its images, if not inside or beside it"),
        click.Option(["--resize"], type=natural(32), nargs=2, metavar="W H", help="the same as --size H,W"),
    ]
    return command
