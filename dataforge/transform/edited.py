"""What an annotator starts from: photos, an annotated set or shards, and the records that edits make of them."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from dataforge.archives.path import ArchivePath, opened
from dataforge.errors import FormatError, ImageError
from dataforge.files import check_root, files_below, reading
from dataforge.formats import FORMATS, reader
from dataforge.formats.pictures import is_picture
from dataforge.images.header import ImageInfo, probe, probe_file
from dataforge.overlay.boxes import edited_record, polygons_left_out
from dataforge.overlay.journal import OverlayError
from dataforge.overlay.versions import Version, open_version
from dataforge.record import Finding, Record, Source, merged
from dataforge.registry import load
from dataforge.shards.as_source import check_originals, source_of
from dataforge.shards.index import INDEX
from dataforge.shards.reader import Shards
from dataforge.shards.table import row
from dataforge.sources.repair import repair

PHOTOS, SHARDS = "photos", "shards"


class Base(Protocol):
    """Images with their boxes before any edit. Nothing is ever written to it.

    Attributes:
        path: absolute; format: a name of `formats.FORMATS`, or "photos" or "shards".
        classes, class_ids, unions: as in `Source`.
        places: (split, key) of each image.
        left_out: why records of the source are not among them.
        depth: as in `Source`.
    """

    path: Path
    format: str
    classes: tuple[str, ...]
    class_ids: tuple[int, ...]
    unions: Mapping[str, tuple[str, ...]]
    places: list[tuple[str, str]]
    left_out: list[Finding]
    depth: str

    def record(self, n: int) -> Record:
        """Return image n, with its true size and its boxes inside it.

        Raises:
            DataforgeError: the image cannot be read.
        """

    def image(self, n: int) -> tuple[bytes, str]:
        """Return the encoded bytes of image n, and a text that changes with them.

        Raises:
            DataforgeError: they cannot be read.
        """

    def having(self, labels: Sequence[int]) -> list[int]:
        """Return the images that may have a box of these labels, in order."""

    def raw(self, n: int) -> Record:
        """Return image n as the source gives it, unchecked."""

    def header(self) -> dict[str, Any]:
        """Return what the journal notes of the base, to recognise it."""


@dataclass
class Files:
    """A `Base` of image files: a folder of photos, or an annotated set. Headers are read when they are needed."""

    depth = "scale"

    path: Path
    format: str
    classes: tuple[str, ...]
    class_ids: tuple[int, ...]
    unions: Mapping[str, tuple[str, ...]]
    records: list[Record]
    left_out: list[Finding]

    def __post_init__(self) -> None:
        self.places = [(record.split, record.key) for record in self.records]
        self._infos: list[ImageInfo | None] = [None] * len(self.records)

    def record(self, n: int) -> Record:
        if self._infos[n] is None:
            record = self.records[n]
            try:
                info = probe_file(record.image) if isinstance(record.image, Path) else probe(record.image)
            except (OSError, ValueError, ImageError) as error:
                raise ImageError(f"{record.file}: {getattr(error, 'strerror', None) or error}") from None
            self.records[n], _ = repair(record, info)
            self._infos[n] = info
        return self.records[n]

    def image(self, n: int) -> tuple[bytes, str]:
        self.record(n)  # only what is an image
        image = self.records[n].image
        if not isinstance(image, Path):
            return image, f"{zlib.crc32(image):08x}-{len(image):x}"
        with reading(image, ImageError):
            changed, data = image.stat().st_mtime_ns, image.read_bytes()
        return data, f"{changed:x}-{len(data):x}"

    def having(self, labels: Sequence[int]) -> list[int]:
        return [n for n, record in enumerate(self.records) if np.isin(record.labels, labels).any()]

    def raw(self, n: int) -> Record:
        return self.records[n]

    def header(self) -> dict[str, Any]:
        return {"path": str(self.path), "format": self.format, "classes": self.classes}


class Stored:
    """A `Base` of shards."""

    def __init__(self, shards: Shards) -> None:
        check_originals(shards)
        self.shards = shards
        self.path, self.format = shards.path.resolve(), SHARDS
        self.classes, self.class_ids = shards.classes, shards.class_ids
        self.unions: Mapping[str, tuple[str, ...]] = {
            name: tuple(parts) for name, parts in shards.index["unions"].items()
        }
        self._splits = [name for name in shards.splits if name not in self.unions]
        split_of = np.repeat(self._splits, [len(shards.splits[name]) for name in self._splits]).tolist()
        self.places = list(zip(split_of, shards.table.key.tolist(), strict=True))
        self.left_out: list[Finding] = []
        self.depth = shards.depth

    def record(self, n: int) -> Record:
        split, _ = self.places[n]
        return row(self.shards.table, n, split, origin=str(self.path))

    def image(self, n: int) -> tuple[bytes, str]:
        data = bytes(self.shards.blob(n))
        return data, f"{int(self.shards.table.crc[n]):08x}-{len(data):x}"

    def having(self, labels: Sequence[int]) -> list[int]:
        table = self.shards.table
        return np.unique(table.image[np.isin(table.labels, labels)]).tolist()

    raw = record

    def header(self) -> dict[str, Any]:
        facts = {"path": str(self.path), "format": self.format, "classes": self.classes}
        return {**facts, "fingerprint": self.shards.fingerprint}


def open_base(path: Path, format_name: str = "auto", **given: Any) -> Base:
    """Open what is to be annotated.

    Args:
        path: shards, an annotated set, or a folder of photos; the latter two also in an archive.
        format_name: "auto" to detect it, "shards", "photos", or the name of a format, or the user's own reader.
        given: options of the format's `read`.

    Raises:
        DataforgeError: it cannot be read, has no image, or fits several formats.
    """
    path = opened(path)
    if not path.is_file():
        check_root(path, "shards, a folder of annotated images, or one of photos")
    if format_name == "auto":
        format_name = _detect(path)
    base: Base
    if format_name == SHARDS:
        base = Stored(Shards(path))
    elif format_name == PHOTOS:
        base = _photos(path)
    else:
        base = _annotated(path, format_name, given)
    if not base.places:
        raise FormatError(f"{path}: has no image to annotate")
    return base


def overlay_of(path: Path) -> Path:
    """Return the default folder of the edits of a base: beside it, or beside the archive that it lies in."""
    if not isinstance(path, ArchivePath):
        return path.with_name(f"{path.name}.overlay")
    inner = path.relative_to(path.archive.prefix).parts
    return Path(".".join([path.archive.prefix, *inner, "overlay"]))


def _detect(path: Path) -> str:
    from dataforge.formats.sniff import detect

    if (path / INDEX).is_file():
        return SHARDS
    if any(load("format", name, FORMATS).sniff(path) for name in FORMATS):
        return detect(path)[0]
    return PHOTOS


def _photos(path: Path) -> Files:
    root = path.resolve()
    files = {file.relative_to(root).as_posix(): file for file in files_below(root, is_picture)}
    nothing = np.zeros((0, 4), np.float32), np.zeros(0, np.int32), np.zeros(0, np.uint8)
    records: list[Record | Finding] = [Record(key, "train", file, 0, 0, *nothing) for key, file in files.items()]
    return Files(root, PHOTOS, (), (), {}, *_sorted_out(iter(records)))


def _annotated(path: Path, format_name: str, given: Mapping[str, Any]) -> Files:
    source = reader(format_name)(path, **given)
    records, left_out = _sorted_out(source.records)
    return Files(path.resolve(), format_name, source.classes, source.class_ids, source.unions, records, left_out)


def _sorted_out(items: Iterator[Record | Finding]) -> tuple[list[Record], list[Finding]]:
    """Return the records that can be named, and why others cannot."""
    records: list[Record] = []
    left_out: list[Finding] = []
    seen: set[tuple[str, str]] = set()
    for item in items:
        if isinstance(item, Finding):
            left_out += [item] if item.action == "refused" and item.scope == "image" else []
            continue
        reason = ""
        if any("\ud800" <= mark <= "\udfff" for mark in item.key):
            reason = "the name is not Unicode text"
        elif (item.split, item.key) in seen:
            reason = "a second record of this image in its split"
        if reason:
            left_out.append(Finding("refused", "image-path", item.file, item.key, "", reason, "image"))
        else:
            seen.add((item.split, item.key))
            records.append(item if not isinstance(item.image, Path) else replace(item, image=item.image.absolute()))
    return records, left_out


def base_of(version: Version) -> Base:
    """Open what an overlay is of.

    Raises:
        DataforgeError: it cannot be read, or is no longer what it was.
    """
    base = open_base(Path(version.edits.path), version.header["format"])
    check_base(base, version.header, version.folder)
    return base


def check_base(base: Base, header: Mapping[str, Any], folder: Path) -> None:
    """Check that an overlay is of a base, wherever that lies now.

    Args:
        header: the first line of the overlay's journal.

    Raises:
        OverlayError: it is not.
    """
    for name, value in base.header().items():
        expected = list(value) if isinstance(value, tuple) else value
        if name != "path" and header.get(name) != expected:
            raise OverlayError(
                f"{folder}: is an overlay of {header['path']} with {name} {header.get(name)!r}; {base.path} has "
                f"{expected!r}"
            )


def edited_source(path: Path, untouched: bool = True) -> Source:
    """Return a version of an overlay as a source.

    Args:
        path: DIR, DIR@v3 or DIR@clean.
        untouched: also images without an edit.

    Raises:
        DataforgeError: there is no such version, or its base cannot be read.
    """
    version = open_version(path)
    base, edits = base_of(version), version.edits
    if version.header["format"] == SHARDS:
        source = source_of(Shards(path))
        numbers_of = {place: n for n, place in enumerate(base.places)}

        def stored() -> Iterator[Record | Finding]:
            for item in source.records:
                if not isinstance(item, Finding) and (item.split, item.key) in edits.images:
                    before = base.record(numbers_of[item.split, item.key])
                    yield from polygons_left_out(before, edits.boxes(before))
                elif not (untouched or isinstance(item, Finding)):
                    continue
                yield item

        return replace(source, records=stored(), total=source.total if untouched else len(edits.images))
    names, numbers = edits.classes(), edits.numbers(base.class_ids)
    dense = {label: n for n, label in enumerate(names)}
    label_of = np.array([dense[edits.label(n)] for n in range(len(edits.names))], np.int32)
    rows = [n for n, place in enumerate(base.places) if untouched or place in edits.images]

    def records() -> Iterator[Record | Finding]:
        yield from base.left_out
        for n in rows:
            try:
                record = base.record(n)
            except ImageError:
                yield base.raw(n)  # which ingest refuses
                continue
            boxes = edits.boxes(record)
            yield from polygons_left_out(record, boxes)
            record = edited_record(record, boxes)
            labels = np.array([dense[label] for label in record.labels.tolist()], np.int32)
            yield replace(record, labels=labels, judged=merged(record.judged, label_of))

    class_ids = tuple(numbers[label] for label in names) if base.class_ids else ()
    return Source(tuple(names.values()), records(), class_ids, base.unions, len(rows), depth=base.depth)
