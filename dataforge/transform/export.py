"""Export of shards to annotation files. Information that a format cannot represent is counted and reported."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from dataforge.errors import ConfigError, FormatError, counted
from dataforge.files import lock_file, writing
from dataforge.formats import PARTS, holds, writer
from dataforge.polygons import ranges
from dataforge.record import CROWD, DIFFICULT, TRUNCATED, Record, box_areas
from dataforge.shards.as_source import chosen_splits, source_of, unions_of
from dataforge.shards.reader import Shards


@dataclass(frozen=True)
class Exported:
    """Result of an export. `lost`: number of items that the format cannot represent, by the name of the part."""

    out: Path
    format: str
    images: int
    boxes: int
    lost: dict[str, int]

    def text(self) -> str:
        """Return one line, plus one for each kind of lost information."""
        lines = [f"{counted(self.images, 'image')}, {counted(self.boxes, 'box')} written to {self.out} ({self.format})"]
        lines += [f"{PARTS[part]}: {count} cannot be held by {self.format}" for part, count in self.lost.items()]
        return "\n".join(lines)


def export(
    shards: Shards,
    format_name: str,
    out: Path,
    *,
    split: tuple[str, ...] | None = None,
    allow_cache: bool = False,
    progress: Callable[[int], None] | None = None,
) -> Exported:
    """Write shards in an annotation format. The folder appears when it is complete.

    Until then its files are in `.NAME.unfinished` beside it, which an error or an interruption removes, and the next
    export to the same folder after a kill. Its files are not flushed to disk one by one, which takes as long again:
    after a power failure, export again.

    Args:
        out: a folder that does not exist, or is empty.
        allow_cache: write the JPEGs of a cache, which are not the original images.
        progress: called after each image with the number of images written.

    Raises:
        FormatError: `out` is not free or cannot be written, or another process exports to it, or the format cannot
            represent a name.
        ConfigError: the format or a split is unknown, or `out` is inside the shards.
        ShardError: the shards are a cache that is not allowed, or a store is damaged. DataError: an image is damaged.
    """
    write = writer(format_name)
    source = source_of(shards, split, allow_cache=allow_cache)
    lost = _lost(shards, chosen_splits(shards, split), holds(format_name))
    if shards.path.resolve() in (out.resolve(), *out.resolve().parents):
        raise ConfigError(f"{out}: lies within the shards; choose another --out")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise FormatError(f"{out}: is not empty; expected a new folder")
    images = boxes = 0

    def counted() -> Iterator[Record]:
        nonlocal images, boxes
        for record in source.records:
            assert isinstance(record, Record)
            yield record
            images, boxes = images + 1, boxes + len(record.boxes)
            if progress:
                progress(images)

    with _published(out) as part:
        write(replace(source, records=counted()), part)
    return Exported(out, format_name, images, boxes, lost)


@contextmanager
def _published(out: Path) -> Iterator[Path]:
    """Yield a new folder beside `out`, and give it that name at the end of the block."""
    real = out.resolve()
    unfinished = real.with_name(f".{real.name}.unfinished")
    part = unfinished / "part"
    with writing(out):
        unfinished.mkdir(parents=True, exist_ok=True)
        lock = os.open(unfinished / "lock", os.O_RDWR | os.O_CREAT)
    try:
        try:
            lock_file(lock)
        except BlockingIOError:
            raise FormatError(f"{out}: another process exports to it") from None
        try:
            with writing(out):
                shutil.rmtree(part, ignore_errors=True)  # of an export that was killed
                yield part
                if real.is_dir():
                    real.rmdir()
                os.replace(part, real)
        except FormatError as error:
            raise FormatError(str(error).replace(str(part), str(out))) from None
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)
    finally:
        os.close(lock)


def _lost(shards: Shards, chosen: list[str], held: frozenset[str]) -> dict[str, int]:
    rows = np.concatenate([shards.splits[name] for name in chosen]) if chosen else np.zeros(0, np.int64)
    objects = shards.table.take(rows)
    polygons = shards.table.polygons.take(ranges(shards.table.offsets, rows)[0])
    rings, sizes = polygons.counts, np.stack([shards.table.height[rows], shards.table.width[rows]])
    fits = polygons.fit(objects.boxes, *np.repeat(sizes, np.diff(objects.offsets), axis=1))
    counts = {
        "crowd": (objects.flags & CROWD > 0).sum(),
        "difficult": (objects.flags & DIFFICULT > 0).sum(),
        "truncated": (objects.flags & TRUNCATED > 0).sum(),
        "polygons": ((rings == 1) & fits).sum(),
        "multipolygons": ((rings > 1) & fits).sum(),
        "loose_polygons": ((rings > 0) & ~fits).sum(),
        "areas": (objects.areas != box_areas(objects.boxes)).sum(),
        "ids": (shards.table.id[rows] >= 0).sum(),
        "splits": len(chosen) if len(chosen) > 1 else 0,
        "unions": len(unions_of(shards, chosen)),
        "classes": len(shards.classes) - len(np.unique(objects.labels)),
        "judged": len(rows) if shards.table.judged is not None else 0,
        "class_ids": sum(i != n for n, i in enumerate(shards.class_ids)),
    }
    return {part: int(count) for part, count in counts.items() if count and part not in held}
