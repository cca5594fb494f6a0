"""Location of the images that an annotation file names, by relative paths or by paths of another machine."""

from __future__ import annotations

import functools
import math
import os
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import product
from pathlib import Path, PurePosixPath
from urllib.parse import unquote

from dataforge.errors import ConfigError, FormatError, ImageError, counted
from dataforge.files import existing, exists, files_below, inside
from dataforge.formats.json_files import uncollected
from dataforge.images.header import SUFFIXES, probe
from dataforge.record import Finding, Record

Index = dict[str, list[PurePosixPath]]  # the images below a folder, by the last part of their paths
SHORT = {"JPEG": "jpg", "JPEG XL": "jxl", "JPEG2000": "jp2"}  # suffixes other than the format's name
NOT_BELOW = "expected a path below the image folder (others need --allow-outside); left out"


def resolve(name: str, folder: Path, allow_outside: bool = False) -> tuple[str, Path] | None:
    """Return the key and the file of an image that an annotation names, or None if the name is not allowed.

    A name outside the folder is allowed only with `allow_outside`. Its key omits the part that leaves the folder:
    `other/a.jpg` for `../other/a.jpg`, and for `/other/a.jpg`.
    """
    key = inside(name)
    if key is not None:
        return key, folder / key
    if not name or "\0" in name:
        return None
    plain = name.replace("\\", "/")
    path = folder / os.path.abspath(folder / plain)  # noqa: PTH100
    key = inside(os.path.relpath(path, folder))
    if key is None and allow_outside:
        key = inside(below_its_own(os.path.normpath(plain)))
    return (key, path) if key is not None else None


def below_its_own(path: str) -> str:
    """Return a path without its leading drive, slashes and `..`."""
    return re.sub(r"^([A-Za-z]:/)?(/|\.\./)*", "", path)


def key_of(path: Path | str, base: Path) -> str:
    """Return the path of an image from the folder of its set, without a part that leaves it."""
    folder, name = os.path.split(path)
    return _folder_of(folder, str(base)) + name


@functools.lru_cache(1024)
def _folder_of(folder: str, base: str) -> str:
    return below_its_own(Path(os.path.relpath(os.path.join(folder, "x"), base)).as_posix())[:-1]  # noqa: PTH118


def likeliest(folders: Sequence[Path], names: Sequence[str], allow_outside: bool = False) -> Path:
    """Return the folder that contains most of a `sample` of the names; the earliest one on a tie."""
    return max(folders, key=lambda folder: held(folder, names, allow_outside)) if len(folders) > 1 else folders[0]


def held(folder: Path, names: Sequence[str], allow_outside: bool = False) -> int:
    """Return how many of a `sample` of the names are files in a folder."""
    pictures = (resolve(name, folder, allow_outside) for name in sample(names))
    return sum(exists(picture[1]) for picture in pictures if picture)


def sample(names: Sequence[str]) -> Sequence[str]:
    """Return at most 50 names from all over a list: those at its start may be the ones that are missing."""
    return names[:: max(1, math.ceil(len(names) / 50))]


def nearest(
    folders: Sequence[Path], names: list[str], origin: Path, allow_outside: bool = False
) -> tuple[Path, list[str], list[Finding]]:
    """Return the `likeliest` folder, the names as paths in it, and the finding if these are not as the file says.

    Where it has none of the `sample`, the names' first folders are left out, if that finds some and keeps all names
    apart: Objects365's begin with `images/v1/`, those of LVIS's URLs with the folder of COCO's split.
    """
    best, kept = likeliest(folders, names, allow_outside), names
    found = held(best, names, allow_outside)
    for n in range(1, 1 + max((name.count("/") for name in sample(names) if not found), default=0)):
        shorter = [name.split("/", n)[-1] if "://" not in name and inside(name) else name for name in names]
        folder = likeliest(folders, shorter, allow_outside)
        count = held(folder, shorter, allow_outside)
        if count > found and len({*shorter}) == len({*names}):
            best, kept, found = folder, shorter, count
    left = Counter(name.removesuffix(short) for name, short in zip(names, kept, strict=True) if name != short)
    if not left:
        return best, kept, []
    dropped = ", ".join([*sorted(left)[:3], *["..."][: len(left) > 3]])
    reason = f"are not where the file says; looked for in {best} without the folders {dropped}"
    value = counted(left.total(), "image")
    return best, kept, [Finding("noted", "images-by-name", str(origin), "", value, reason, "set")]


def find(
    names: Sequence[str],
    folder: Path,
    below: Path,
    origin: Path,
    allow_outside: bool = False,
    index: Index | None = None,
) -> tuple[dict[str, tuple[str, Path]], dict[str, Finding], list[Finding]]:
    """Find images by names relative to one folder, and others as `locate`.

    Only names that are not ASCII are looked for: their accents may be composed otherwise.

    Returns:
        name -> (key, file); name -> the finding why it is refused; and findings about all of them.
    """
    keys = {name: None if "://" in name else inside(name) for name in names}
    pictures = {name: (key, folder / key) for name, key in keys.items() if key is not None}
    others = [name for name, key in keys.items() if name and key is None]
    for name in pictures:
        if not name.isascii():
            spelled = (resolve(form, folder) for form in _spellings(name))
            pictures[name] = next((picture for picture in spelled if picture and exists(picture[1])), pictures[name])
    if not others:
        return pictures, {}, []
    pictures |= {name: picture for name in others if (picture := resolve(name, folder, allow_outside))}
    located, findings = locate(others, [folder], below, origin, allow_outside=allow_outside, index=index)
    refused = {finding.key: finding for finding in findings if finding.scope == "image"}
    taken = {path for name, (_, path) in pictures.items() if name not in located}
    for name, (key, path) in located.items():
        if path in taken:
            reason = f"{key} below {below} has another such name too; left out"
            refused[name] = Finding("refused", "image-ambiguous", str(origin), name, "", reason, "image")
    pictures = {name: picture for name, picture in (pictures | located).items() if name not in refused}
    noted = [finding for finding in findings if finding.scope != "image" and not located.keys() <= refused.keys()]
    return pictures, refused, noted


@uncollected()
def locate(
    names: Iterable[str],
    folders: Sequence[Path],
    below: Path,
    origin: Path,
    *,
    anywhere: bool = False,
    allow_outside: bool = False,
    index: Index | None = None,
) -> tuple[dict[str, tuple[str, Path]], list[Finding]]:
    """Find the images that an annotation file names.

    A relative name is resolved in the folder of `folders` that contains most of the names, else in another of them,
    also if its accents are composed otherwise. An absolute name, usually from another machine, and a URL are searched
    by their last part below `below`; of several matches, the one that shares most of the path is used. `anywhere` also
    searches for missing relative names; without it, an image that is missing in one split cannot be taken from another.
    `allow_outside` uses names outside the folder as they are, if the file exists. `index` keeps the files below `below`
    for further calls.

    Returns:
        name -> (key, file), and the findings: a refused one for each name that is not in the mapping.
    """
    names = list(dict.fromkeys(names))
    first = likeliest([*folders, below], names, allow_outside)
    searched = [first, *(folder for folder in (*folders, below) if folder != first)]
    pictures: dict[str, tuple[str, Path]] = {}
    present = existing()
    for name in names:
        for folder, form in product(searched, _spellings(name)):
            picture = resolve(form, folder, allow_outside)
            if picture and present(picture[1]):
                pictures[name] = picture
                break
    known: Index = {} if index is None else index
    if len(pictures) < len(names) and not known:
        for path in files_below(below, is_picture):
            known.setdefault(path.name, []).append(PurePosixPath(path.relative_to(below).as_posix()))
    wrong: list[tuple[str, str, str]] = []
    guessed: dict[str, str] = {}
    for name in names:
        if name in pictures:
            continue
        plain = path_of(name)
        parts = plain.replace("\\", "/").split("/")
        if ".." in parts or "\0" in name or not parts[-1]:
            wrong.append(("image-path", name, NOT_BELOW))
            continue
        leads_out = inside(plain) is None
        same = known.get(parts[-1], ()) if anywhere or leads_out else ()
        shared = {one: _common_end(parts, one.parts) for one in same}
        best = [one for one, count in shared.items() if count == max(shared.values())]
        if not best:
            hint = "; --allow-outside takes it as it stands" if leads_out and not allow_outside else ""
            wrong.append(("image-missing", name, f"no such image below {below}{hint}; left out"))
        elif len(best) > 1:
            reason = f"may be {best[0]} or {best[1]} below {below}; left out"
            wrong.append(("image-ambiguous", name, reason))
        else:
            guessed[name] = str(best[0])
    direct = [path for _, path in pictures.values() if known and path.is_relative_to(below)]
    taken = Counter(guessed.values()) + Counter(str(path.relative_to(below)) for path in direct)
    for name, key in guessed.items():
        if taken[key] > 1:
            wrong.append(("image-ambiguous", name, f"{key} below {below} has another such name too; left out"))
        else:
            pictures[name] = (key, below / key)
    findings = [Finding("refused", code, str(origin), name, "", reason, "image") for code, name, reason in wrong]
    count = sum(taken[key] == 1 for key in guessed.values())
    if count:
        reason = f"are not where the file says; found by their names below {below}"
        findings.append(Finding("noted", "images-by-name", str(origin), "", counted(count, "image"), reason, "set"))
    return pictures, findings


def _spellings(name: str) -> list[str]:
    """Return a name as it is, and with its accents composed and decomposed, as systems may have stored it."""
    return [name] if name.isascii() else [name, *(unicodedata.normalize(form, name) for form in ("NFC", "NFD"))]


def _common_end(path: Sequence[str], other: Sequence[str]) -> int:
    """Count the trailing parts that two paths share."""
    same = [part == other_part for part, other_part in zip(reversed(path), reversed(other), strict=False)]
    return [*same, False].index(False)


def path_of(url: str) -> str:
    """Return the path that an image's URL or Label Studio's local-files address stands for; other text as it is."""
    scheme, separator, rest = url.partition("://")
    path, _, query = (rest if separator else url).partition("?")
    if query.startswith("d=") and path.endswith("/data/local-files/"):
        return unquote(query[2:])
    if not separator:
        return url
    return "/" + (unquote(path) if scheme.startswith("http") else rest)


def is_picture(name: str) -> bool:
    """Return True if the suffix is that of an image. Hidden files do not count: some systems create `._a.jpg`."""
    return name.lower().endswith(SUFFIXES) and not name.rpartition("/")[2].startswith(".")


def picture_folders(root: Path, split: str, origin: Path, images: Path | None) -> list[Path]:
    """Return the candidate folders of a split's images, likeliest first. `images` is the user's folder, if given."""
    folders = (
        (images / split, images)
        if images
        else (root / "images" / split, root / split, root / split / "data", root / "images", origin.parent, root)
    )
    return [folder for folder in folders if folder.is_dir()]


def base_of(root: Path) -> Path:
    """Return the folder of a set: `root`, or if that is a file, its folder or the one that holds `annotations/`."""
    if not root.is_file():
        return root
    folder = root.absolute().parent
    return folder.parent if folder.name.lower() in ("annotations", "labels") else root.parent


def given(root: Path, path: Path | None, option: str) -> Path | None:
    """Return a path given by the user, as it is or below the root.

    Raises:
        ConfigError: neither exists; the message names `option`.
    """
    if path is None or exists(path):
        return path
    if exists(root / path):
        return root / path
    raise ConfigError(f"{option} {path}: does not exist")


def as_size(value: float | str | None) -> int:
    """Convert an annotated height or width to pixels; 0 (unknown) if it is not valid."""
    try:
        return max(int(float(value or 0)), 0)
    except (ValueError, OverflowError):
        return 0


def picture_name(record: Record) -> str:
    """Return a record's key, with an image suffix added if it has none: some formats find images by suffix."""
    if is_picture(record.key) or PurePosixPath(record.key).name.startswith("."):
        return record.key
    try:
        kind = probe(record.image.read_bytes() if isinstance(record.image, Path) else record.image).format
    except (OSError, ImageError) as error:
        raise FormatError(f"{record.origin}: {record.key!r}: cannot be read: {error}") from None
    return f"{record.key}.{SHORT.get(kind, kind.lower())}"


def put_picture(record: Record, folder: Path) -> None:
    """Write a record's image, byte for byte, as `folder/key`.

    Raises:
        FormatError: the key is outside the folder, or the image cannot be read or written.
    """
    name = inside(record.key)
    if name is None:
        raise FormatError(f"{record.origin}: {record.key!r}: expected a key that is a path below a folder")
    try:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        blob = record.image.read_bytes() if isinstance(record.image, Path) else record.image
        (folder / name).write_bytes(blob)
    except (OSError, ValueError) as error:
        raise FormatError(f"{folder / name}: cannot be written: {getattr(error, 'strerror', '') or error}") from None
