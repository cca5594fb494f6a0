"""The reader of shard folders."""

from __future__ import annotations

import zlib
from collections.abc import Iterable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dataforge.cloud.chunks import expect
from dataforge.cloud.path import RemotePath, located
from dataforge.errors import DataError, ImageError, ShardError
from dataforge.files import reading
from dataforge.record import among, resolve_split
from dataforge.shards import cache_origin
from dataforge.shards.blobs import Blobs
from dataforge.shards.index import INDEX, LINK, PIXELS, read_index
from dataforge.shards.judged import read_judged
from dataforge.shards.links import LinkedStore, StoredImage, parents_of
from dataforge.shards.selection import kept_boxes, kept_rows, labelled, selected
from dataforge.shards.table import Table, check_values, read_tables
from dataforge.shards.versions import version_of
from dataforge.sources.view import View
from dataforge.threads import cached_property

ALTERED = "the image's bytes are not those that were ingested (size or CRC-32 differs)"


class Shards:
    """A shard folder, or one split of it, or a view of either. It is pickled as its path, and threads may share it.

    Args:
        path: a folder written by `dataforge ingest`, or its URL (s3://, gs://, az://); or an overlay of a folder, or a
            version of that: DIR@v3, DIR@clean.
        split: read only this split (its name, or an unambiguous prefix of it); None reads all, in the order of the
            index.
        view: selection of classes, boxes and images; None selects all. Records and labels are numbered without those
            that it excludes.
        verify: compare each image with its CRC-32 when it is first read. False trusts the disk.
        trust: map the pixels of a raw cache. False reads them piece by piece, as all other files are: for folders of
            strangers and for failing disks, since a file that is cut or errs while it is read ends a process that has
            mapped it.

    Attributes:
        classes: names by label; class_ids: the source's number for each; frequencies, ancestors: as in `Source`.
        table: the `Table` of all records; `blob(i)`: the encoded image of record i.
        folder: the folder with the tables and images: `path`, except for an overlay.
        parents: the folders with the images of linked shards, which have none of their own; else empty.
        remote: True for shards at a URL; reads_ahead: for those on a disk that `prefetch` has the system read.
        splits: split -> the numbers of its records.
        codec: "keep" (the source's bytes), or that of a cache that `dataforge bake` makes: "jpeg", "raw" or "yuv420".
        channels: 3, or 1 for a cache of grey pixels.
        parent_is_there: whether the shards that a cache was baked from are; False if not a cache.
        source: `table` with sizes, boxes and areas in pixels of the source images; `table` if not a cache.

    Raises:
        ShardError: the folder cannot be opened, is a stale cache, or a parent is gone or has changed; ConfigError: no
            such split, or the view names no class of it.
    """

    def __init__(
        self,
        path: str | Path,
        split: str | None = None,
        view: View | None = None,
        verify: bool = True,
        trust: bool = True,
    ) -> None:
        self.path = located(path)
        self.view = view or View()
        self.verify = verify
        self.trust = trust
        self._checks_values = True  # of the table
        self._version = version_of(self.path)
        self.folder = self._version.folder if self._version else self.path
        self.index = self._version.index if self._version else read_index(self.path)
        self._baked: dict[str, Any] | None = self.index.get("baked")
        self.codec: str = self.index["codec"]
        self.parents = parents_of(self.folder, self.index)
        self.depth: str = self.index.get("depth", "scale")
        self.channels: int = self._baked["channels"] if self._baked else 3
        self.parent_is_there = self._baked is not None and cache_origin.parent_is_there(self.path, self._baked)
        known = tuple(self.index["classes"])
        self._label_of = self.view.label_of(known)
        self.classes: tuple[str, ...] = self.view.names(known)
        self.class_ids: tuple[int, ...] = self.view.numbers(known, self.index["class_ids"])
        frequencies: dict[str, str] = self.index.get("frequencies", {})
        self.frequencies = {name: frequencies[name] for name in self.classes if name in frequencies}
        self.ancestors: dict[str, list[str]] = among(
            self.index.get("ancestors", {}), {name: name for name in self.classes}
        )
        stored: dict[str, list[dict[str, Any]]] = self.index["splits"]
        # a split left without images by a view during ingest is not stored
        self._unions = {
            name: [part for part in parts if part in stored] for name, parts in self.index["unions"].items()
        }
        if split is None:
            self.split, parts = None, list(stored)
        else:
            self.split = resolve_split(split, [*stored, *self._unions])
            parts = self._unions.get(self.split, [self.split])
        self._shards = [shard for part in parts for shard in stored[part]]
        open_parents = partial(_open_parents, self.path, self.parents, trust)
        self._blobs = Blobs(self.folder, self._shards, self.index["store"], trust, open_parents)
        self.remote = isinstance(self.path, RemotePath)
        self.reads_ahead = not self.remote and self.codec not in PIXELS
        if isinstance(self.path, RemotePath):
            rows = [shard for shards in stored.values() for shard in shards]
            expect(self.path, sum(shard["bytes"] for shard in rows))
            assert self.content  # is read now, to be compared later
        bounds = np.cumsum([0, *(sum(shard["images"] for shard in stored[part]) for part in parts)])
        self._stored_splits = {
            part: slice(int(a), int(b)) for part, a, b in zip(parts, bounds[:-1], bounds[1:], strict=True)
        }

    def __reduce__(self) -> tuple[type[Shards], tuple[Path, str | None, View, bool, bool]]:
        return Shards, (self.path, self.split, self.view, self.verify, self.trust)

    def __len__(self) -> int:
        return int(self._blobs.starts[-1]) if self._rows is None else len(self._rows)

    def __repr__(self) -> str:
        view = f", view={self.view}" if self.view != View() else ""
        facts = f"images={len(self)}, classes={len(self.classes)}"
        return f"Shards({str(self.path)!r}, split={self.split!r}{view}, {facts})"

    @cached_property
    def splits(self) -> dict[str, NDArray[np.int64]]:
        splits = {}
        for part, stored in self._stored_splits.items():
            bounds = [stored.start, stored.stop]
            first, end = bounds if self._rows is None else np.searchsorted(self._rows, bounds).tolist()
            splits[part] = np.arange(first, end)
        for name, members in self._unions.items():
            if members and set(members) <= set(self._stored_splits):
                splits[name] = np.concatenate([splits[member] for member in members])
        return splits

    @cached_property
    def _stored(self) -> Table:
        """The table of all records of these splits, regardless of the view."""
        folders = [self.folder / shard["path"] for shard in self._shards]
        files = [folder / "table.arrow" for folder in folders]
        crcs = [shard["table_crc"] for shard in self._shards]
        polygons = [shard.get("polygons_crc") for shard in self._shards]
        table = read_tables(files, crcs, polygons)
        images = int(self._blobs.starts[-1])
        if len(table) != images:
            raise ShardError(f"{self.path}: tables hold {len(table)} records, {INDEX} says {images}")
        classes = len((self._version.base if self._version else self.index)["classes"])
        if self._checks_values:
            check_values(table, classes, self.folder)
        counts = [shard["images"] for shard in self._shards]
        crcs = [shard.get("judged_crc") for shard in self._shards]
        table = replace(table, judged=read_judged(folders, counts, crcs, classes))
        return table if self._version is None else self._version.table(table, self._stored_splits)

    @cached_property
    def _labelled(self) -> Table:
        return labelled(self._stored, self.view, self._label_of)

    @cached_property
    def _kept(self) -> NDArray[np.bool_] | None:
        """(S,) mask of the stored boxes that the view keeps; None for all."""
        table = self._labelled if self._stored_origin is None else self._stored_origin.home(self._labelled)
        return kept_boxes(self.view, table)

    @cached_property
    def _rows(self) -> NDArray[np.int64] | None:
        """The stored numbers of the records that the view keeps, ascending; None for all."""
        if not self.view.chooses_images:
            return None
        return kept_rows(self.view, self._stored, self._kept, self._stored_splits)

    @cached_property
    def table(self) -> Table:
        return selected(self._labelled, self._kept, self._rows)

    @cached_property
    def fingerprint(self) -> str:
        """8 hex digits that change with the content: the index has the tables' checksums, the tables the images'."""
        content = self.content
        return content if self.view == View() else f"{zlib.crc32(repr(self.view).encode(), int(content, 16)):08x}"

    @cached_property
    def content(self) -> str:
        """The fingerprint of all records, regardless of the view."""
        with reading(self.path / INDEX, ShardError):
            return cache_origin.content(self.path)

    def _number(self, i: int) -> int:
        """Return the stored number of record i."""
        return i if self._rows is None else int(self._rows[i])

    def place(self, i: int) -> str:
        """Return the location of record i for messages: its shard, its number in the shard and its key."""
        shard, number = self._blobs.place(self._number(i))
        return f"{self._blobs.path(shard)} record {number} ({self.table.key[i]})"

    def blob(self, i: int) -> memoryview:
        """Return the encoded image of record i.

        Raises:
            IndexError: i is not in 0..len-1.
            ShardError: the store is missing or damaged.
            DataError: the bytes differ from those that were written; the text names the record's shard, number and key.
        """
        if not 0 <= i < len(self):
            raise IndexError(f"record {i} of {len(self)}")
        number = self._number(i)
        blob = self._blobs.read(number)
        if self.verify and not self._verified[i]:
            if self.remote and zlib.crc32(blob) != self.table.crc[i]:
                blob = self._blobs.read_again(number)
            self._check(i, blob)
        return blob

    def stored_image(self, i: int) -> StoredImage:
        """Return the encoded image of record i, with the place where it is stored.

        Raises:
            as `blob`.
        """
        image = StoredImage(self.blob(i))
        shard, number = self._blobs.place(self._number(i))
        opened = self._blobs.store(shard)
        if isinstance(opened, LinkedStore):
            parent, image.number = opened.link(number)
            image.folder = self.parents[parent]
        else:
            image.folder, image.number = self._resolved, self._first[shard] + number
        return image

    @cached_property
    def _resolved(self) -> Path:
        return self.folder.resolve()

    @cached_property
    def _first(self) -> list[int]:
        """The number of the first record of each shard of these splits, among all splits."""
        first, start = {}, 0
        for row in (row for rows in self.index["splits"].values() for row in rows):
            first[row["path"]] = start
            start += row["images"]
        return [first[shard["path"]] for shard in self._shards]

    def prefetch(self, index: Iterable[int]) -> None:
        """Announce records that will be read soon, those that come first at the front. A thread fetches those at a URL,
        and has the system read others from the disk, except pixels that are mapped.
        """
        if self.remote or self.reads_ahead:
            self._blobs.prefetch(map(self._number, index))

    def check_unchanged(self) -> None:
        """Compare the index at a URL with what it was when it was opened.

        Raises:
            ShardError: it has changed, or cannot be read.
        """
        if self.remote:
            with reading(self.path / INDEX, ShardError):
                now = cache_origin.content(self.path)
            if now != self.content:
                raise ShardError(
                    f"{self.path}: has changed since it was opened (fingerprint {now}, expected {self.content})"
                )

    @cached_property
    def _verified(self) -> NDArray[np.bool_]:
        """(N,) mask of records that this process has compared with their CRC-32. Threads may compare one twice."""
        return np.zeros(len(self), bool)

    def _check(self, i: int, blob: memoryview) -> None:
        if zlib.crc32(blob) != self.table.crc[i]:
            raise DataError(f"{self.place(i)}: {ALTERED}")
        self._verified[i] = True

    def gather(self, index: NDArray[np.int64], out: NDArray[np.uint8]) -> None:
        """Copy the stored pixels of records that all have one shape; planes are converted to RGB. Only for caches of
        pixels.

        Args:
            index: (n,) record numbers.
            out: (n, height, width, channels), C-contiguous destination.

        Raises:
            ShardError: a store is missing or damaged. DataError: as `blob`.
        """
        assert self.codec in PIXELS, f"gather on codec {self.codec}"
        if self.codec != "raw":
            for row, i in zip(out, index.tolist(), strict=True):
                self.pixels(i, out=row)
            return
        if self.remote and self.verify:
            for i in index[~self._verified[index]].tolist():
                self.blob(i)  # reads wrong bytes again
        self._blobs.gather(index if self._rows is None else self._rows[index], out)
        for n in np.flatnonzero(~self._verified[index]).tolist() if self.verify else ():
            self._check(int(index[n]), out[n].data)

    @cached_property
    def _stored_origin(self) -> cache_origin.Origin | None:
        """The source images of all records of these splits, regardless of the view; None if not a cache."""
        if self._baked is None:
            return None
        origin = cache_origin.read(self.path, self._baked["origin_crc"])
        counts = {name: sum(shard["images"] for shard in shards) for name, shards in self.index["splits"].items()}
        if len(origin.height) != sum(counts.values()):
            file = self.path / cache_origin.ORIGIN
            raise ShardError(f"{file}: holds {len(origin.height)} records; expected {counts}")
        first = dict(zip(counts, np.cumsum([0, *counts.values()]).tolist(), strict=False))
        return origin.records(
            np.concatenate([np.arange(first[name], first[name] + counts[name]) for name in self._stored_splits])
        )

    @cached_property
    def _origin(self) -> cache_origin.Origin | None:
        origin = self._stored_origin
        return origin if origin is None or self._rows is None else origin.records(self._rows)

    def to_stored(self, index: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return (n, 3, 3) source to stored pixels of records (n,), in edge coordinates; identities if not a cache."""
        return np.tile(np.eye(3), (len(index), 1, 1)) if self._origin is None else self._origin.matrix[index]

    @cached_property
    def source(self) -> Table:
        return self.table if self._origin is None else self._origin.home(self.table)

    def pixels(self, i: int, reduce: int = 1, out: NDArray[np.uint8] | None = None) -> NDArray[np.uint8]:
        """Return the image of record i, decoded and upright: (height, width, 3) RGB.

        Args:
            reduce, out: as for `dataforge.images.decode.decode`: the reduction, and an optional destination.

        Raises:
            ShardError: the store is missing or damaged.
            DataError: the record is damaged; the text names its shard, number and key.
        """
        blob = self.blob(i)
        try:
            return self._decode(i, blob, reduce, out)
        except ImageError as error:
            raise DataError(f"{self.place(i)}: {error}") from None

    def _decode(
        self, i: int, blob: memoryview, reduce: int = 1, out: NDArray[np.uint8] | None = None
    ) -> NDArray[np.uint8]:
        from dataforge.images.decode import decode, unpack
        from dataforge.images.planes import from_planes

        if self.codec in PIXELS:
            size = (int(self.table.height[i]), int(self.table.width[i]))
            if self.codec == "yuv420":
                return from_planes(blob, size, reduce, out)
            return unpack(blob, (*size, self.channels), reduce, out)
        pixels = decode(blob, int(self.table.orientation[i]), reduce, out, self.depth)
        height, width = -(-self.table.height[i] // reduce), -(-self.table.width[i] // reduce)
        if pixels.shape[:2] != (height, width):
            raise ImageError(f"decodes to {pixels.shape[1]}x{pixels.shape[0]}, the table says {width}x{height}")
        return pixels

    def info(self) -> dict[str, Any]:
        """Return a summary of the contents, as `dataforge info --json` prints it."""
        from dataforge.shards.summary import summary

        return summary(self)


def _open_parents(path: Path, folders: Iterable[Path], trust: bool) -> list[Shards]:
    """Return the shards in `folders`, which hold the images of those at `path`."""
    parents = [Shards(folder, verify=False, trust=trust) for folder in folders]
    for parent in parents:
        if parent.index["store"] == LINK or parent.codec != "keep" or parent.folder != parent.path:
            raise ShardError(
                f"{path}: its images are said to be in {parent.path}, which holds no original images itself"
            )
    return parents
