"""A shard folder as a `Source`, for exports, merges and splits."""

from __future__ import annotations

from collections.abc import Iterator

from dataforge.errors import ShardError
from dataforge.record import Record, Source, resolve_split
from dataforge.shards.index import PIXELS
from dataforge.shards.reader import Shards
from dataforge.shards.table import row


def source_of(shards: Shards, split: tuple[str, ...] | None = None, *, allow_cache: bool = False) -> Source:
    """Return a shard folder as a source: records are streamed, images are the stored bytes.

    Args:
        split: use only these splits, including unions; None uses all.
        allow_cache: accept a cache's JPEGs, which are not the original images, with boxes in their pixels.

    Raises:
        ConfigError: no such split. ShardError: it is a cache, and JPEG caches are not allowed or raw pixels are stored.
            DataError, during iteration over the records: an image is damaged.
    """
    check_originals(shards, allow_cache)
    chosen = chosen_splits(shards, split)
    table = shards.table

    def records() -> Iterator[Record]:
        for name in chosen:
            for i in shards.splits[name].tolist():
                yield row(table, i, name, shards.stored_image(i), str(shards.path))

    total = sum(len(shards.splits[name]) for name in chosen)
    unions = unions_of(shards, chosen)
    return Source(
        shards.classes,
        records(),
        shards.class_ids,
        unions,
        total,
        depth=shards.depth,
        frequencies=shards.frequencies,
        ancestors=shards.ancestors,
    )


def check_originals(shards: Shards, allow_cache: bool = False) -> None:
    """Raise ShardError where `source_of` would, so that a cache's pixels are not published as images unnoticed."""
    if shards.codec == "keep" or (shards.codec == "jpeg" and allow_cache):
        return
    what = (
        "holds raw pixels, no image files" if shards.codec in PIXELS else "is a cache: its images are not the originals"
    )
    raise ShardError(f"{shards.path}: {what}; take what it was baked from, {shards.index['baked']['parent']}")


def chosen_splits(shards: Shards, split: tuple[str, ...] | None) -> list[str]:
    """Return the selected stored splits, in the order of the index."""
    unions = shards.index["unions"]
    stored = [name for name in shards.splits if name not in unions]
    if not split:
        return stored
    names = [resolve_split(name, list(shards.splits)) for name in split]
    wanted = {part for name in names for part in unions.get(name, [name])}
    return [name for name in stored if name in wanted]


def unions_of(shards: Shards, chosen: list[str]) -> dict[str, tuple[str, ...]]:
    return {name: tuple(parts) for name, parts in shards.index["unions"].items() if set(parts) <= set(chosen)}
