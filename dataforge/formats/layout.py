"""What the formats share: folders, split names, paths that stay inside, text, JSON and XML files."""

from __future__ import annotations

import codecs
import gc
import json
import os
import shutil
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import TypeVar

import msgspec
import numpy as np

from dataforge.errors import ConfigError, FormatError, ImageError, unknown
from dataforge.image import SUFFIXES, probe
from dataforge.record import Boxes, Record

T = TypeVar("T")


def check_root(root: Path, expected: str) -> None:
    """See that a folder is there and holds something.

    Args:
        expected: the layouts that the format understands, for the message.

    Raises:
        FormatError: missing, a file, not readable, or empty.
    """
    try:
        empty = next(root.iterdir(), None) is None
    except OSError as error:
        reason = "does not exist" if isinstance(error, FileNotFoundError) else f"cannot be read: {error.strerror}"
        raise FormatError(f"{root}: {reason}; expected {expected}") from None
    if empty:
        raise FormatError(f"{root}: the folder is empty; expected {expected}")


def pick_splits(wanted: Sequence[str] | None, known: Iterable[str]) -> list[str]:
    """The splits to take, in the source's order: all of them, or those whose names or whose names' starts are wanted.

    Raises:
        ConfigError: a wanted name fits no split, or more than one.
    """
    known = list(known)
    if not wanted:
        return known
    picked = set()
    for name in wanted:
        fitting = [name] if name in known else [split for split in known if split.startswith(name)]
        if len(fitting) != 1:
            raise unknown("split", name, known)
        picked.add(fitting[0])
    return [split for split in known if split in picked]


def inside(name: str) -> str | None:
    """A relative path with forward slashes and no detours, or None where it is empty, absolute or leaves its folder."""
    path = os.path.normpath(name.replace("\\", "/"))
    if "\0" in name or path in (".", "..") or path.startswith(("../", "/")) or path[1:3] == ":/":
        return None
    return path


def is_picture(name: str) -> bool:
    """True when a file's suffix is an image's. Hidden files are not pictures: some systems leave `._a.jpg` about."""
    return name.lower().endswith(SUFFIXES) and not PurePosixPath(name).name.startswith(".")


def exists(path: Path) -> bool:
    """`Path.exists`, but False, not an error, for a name that the system refuses: names come from users' files."""
    return os.path.exists(path)  # noqa: PTH110


def read_text(path: Path) -> str:
    """A UTF-8 text file, with or without a byte order mark.

    Raises:
        FormatError: it cannot be read, or is not UTF-8.
    """
    try:
        return path.read_text("utf-8-sig")
    except OSError as error:
        raise FormatError(f"{path}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise FormatError(f"{path}: not UTF-8 text: byte {error.object[error.start]:#04x} at {error.start}") from None


def as_boxes(numbers: object) -> Boxes:
    """(n, 4) float32 from any numbers; what float32 cannot hold becomes infinite, and ingest refuses it."""
    with np.errstate(all="ignore"):
        return np.asarray(numbers, np.float64).reshape(-1, 4).astype(np.float32)


def as_size(value: float | str | None) -> int:
    """A height or width as an annotation states it, in pixels; 0, which means unknown, where it is no such thing."""
    try:
        return max(int(float(value or 0)), 0)
    except (ValueError, OverflowError):
        return 0


def given(root: Path, path: Path | None, option: str) -> Path | None:
    """A path that the user gave, as it is or below the root.

    Raises:
        ConfigError: it is in neither place; `option` is what to name.
    """
    if path is None or exists(path):
        return path
    if exists(root / path):
        return root / path
    raise ConfigError(f"{option} {path}: does not exist")


def files_below(folder: Path, fits: Callable[[str], bool]) -> list[Path]:
    """The files below a folder whose names fit, sorted. Links are followed, but never in a circle."""
    found = []
    seen = set()
    for place, folders, names in os.walk(folder, followlinks=True):
        real = os.path.realpath(place)
        if real in seen or circles(Path(place)):
            folders.clear()
            continue
        seen.add(real)
        found += [Path(place, name) for name in names if fits(name)]
    return sorted(found)


def circles(folder: Path) -> bool:
    """True for a link to a folder that it lies in: what is below it is there already."""
    return folder.is_symlink() and (folder.parent.resolve() / "x").is_relative_to(os.path.realpath(folder))


def json_splits(root: Path) -> dict[str, list[Path]]:
    """JSON files by split: those in `<split>/`, or all of them as "train" where the root itself holds some."""

    def fits(name: str) -> bool:
        return name.lower().endswith(".json") and not name.startswith(".")

    if root.is_file():
        return {"train": [root]}
    if any(fits(path.name) for path in root.iterdir() if path.is_file()):
        return {"train": files_below(root, fits)}
    found: dict[str, list[Path]] = {}
    for folder in sorted(path for path in root.iterdir() if path.is_dir() and not circles(path)):
        files = files_below(folder, fits)
        if files:
            name = "train" if folder.name.lower() in ("annotations", "labels", "json") else folder.name
            found.setdefault(name, []).extend(files)
    return found


def read_json(path: Path, kind: type[T], expected: str) -> T:
    """A JSON file of a type that msgspec knows, with or without a byte order mark.

    Raises:
        FormatError: it cannot be read, is not JSON, or not of this type; `expected` says what was.
    """
    collecting = gc.isenabled()
    gc.disable()  # a million lists are made, none of them garbage; looking through them again and again takes a third
    try:
        data = path.read_bytes().removeprefix(codecs.BOM_UTF8)
        try:
            return msgspec.json.decode(data, type=kind)
        except msgspec.ValidationError:
            raise
        except msgspec.DecodeError:
            # the slow way takes the NaN that Python's json writes, and names the line and column of a mistake
            return msgspec.convert(json.loads(data), type=kind)
    except OSError as error:
        raise FormatError(f"{path}: cannot be read: {error.strerror}") from None
    except msgspec.ValidationError as error:
        raise FormatError(f"{path}: {error}; expected {expected}") from None
    except (ValueError, RecursionError) as error:
        raise FormatError(f"{path}: not JSON: {error}; expected {expected}") from None
    finally:
        if collecting:
            gc.enable()


def iterparse(path: Path) -> Iterator[tuple[str, ET.Element]]:
    """The ("start" | "end", element) events of an XML file, which is read piece by piece.

    Raises:
        FormatError: it cannot be read, is not XML, or has a document type, where an entity can expand to gigabytes.
    """
    parser: ET.XMLPullParser[ET.Element] = ET.XMLPullParser(("start", "end"))
    head: bytes | None = b""  # all until the first element: a document type can only stand there
    try:
        with open(path, "rb") as file:
            while data := file.read(1 << 16):
                if head is not None:
                    head += data
                    if b"<!DOCTYPE" in head.replace(b"\0", b""):  # NULs are UTF-16's
                        raise FormatError(f"{path}: declares a document type or an entity, which is not allowed here")
                parser.feed(data)
                for event in parser.read_events():
                    head = None
                    yield event  # type: ignore[misc]
        parser.close()
        yield from parser.read_events()  # type: ignore[misc]
    except OSError as error:
        raise FormatError(f"{path}: cannot be read: {error.strerror}") from None
    except (ET.ParseError, ValueError, LookupError) as error:
        raise FormatError(f"{path}: not XML: {error}") from None


def picture_folders(root: Path, split: str, origin: Path, images: Path | None) -> list[Path]:
    """Where a split's pictures may be, the likeliest first. `images` is what the user gave, if anything."""
    places = (
        (images / split, images)
        if images
        else (root / "images" / split, root / split, root / "images", origin.parent, root)
    )
    return [place for place in places if place.is_dir()]


def new_folder(root: Path) -> None:
    """Make the folder that a format writes into.

    Raises:
        FormatError: it is there and not empty, or cannot be made.
    """
    try:
        root.mkdir(parents=True, exist_ok=True)
        taken = next(root.iterdir(), None)
    except OSError as error:
        raise FormatError(f"{root}: cannot be written: {error.strerror}") from None
    if taken:
        raise FormatError(f"{root}: is not empty; expected a new folder")


def put_picture(record: Record, folder: Path) -> None:
    """Write a record's image, byte for byte, as `folder/key`.

    Raises:
        FormatError: the key leaves the folder, or the image cannot be read or written.
    """
    name = inside(record.key)
    if name is None:
        raise FormatError(f"{record.origin}: {record.key!r}: expected a key that is a path below a folder")
    try:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        if isinstance(record.image, Path):
            shutil.copyfile(record.image, folder / name)
        else:
            (folder / name).write_bytes(record.image)
    except (OSError, ValueError) as error:
        raise FormatError(f"{folder / name}: cannot be written: {getattr(error, 'strerror', '') or error}") from None


def put_text(path: Path, data: bytes) -> None:
    """Write an annotation file.

    Raises:
        FormatError: it cannot be written, or stands where a picture is.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "xb") as file:
            file.write(data)
    except OSError as error:
        raise FormatError(f"{path}: cannot be written: {error.strerror}") from None


def picture_name(record: Record) -> str:
    """A record's key, with a suffix where it has none that is a picture's: some formats find pictures by it."""
    if is_picture(record.key) or PurePosixPath(record.key).name.startswith("."):
        return record.key
    try:
        kind = probe(record.image.read_bytes() if isinstance(record.image, Path) else record.image).format
    except (OSError, ImageError) as error:
        raise FormatError(f"{record.origin}: {record.key!r}: cannot be read: {error}") from None
    return f"{record.key}.{'jpg' if kind == 'JPEG' else kind.lower()}"
