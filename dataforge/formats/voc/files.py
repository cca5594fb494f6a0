"""Location of a VOC set's XML files and images: by the lists of ImageSets/Main, or by its folders alone."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path, PurePosixPath

from dataforge.errors import FormatError
from dataforge.files import circles, globbed, inside, parts_of, read_text, walk
from dataforge.formats.pictures import Index, is_picture, key_of, locate
from dataforge.formats.splits import split_word
from dataforge.record import Finding

EXPECTED = (
    "ImageSets/Main/*.txt or <split>.txt with Annotations/ and JPEGImages/; a folder of XML files beside a folder of "
    "pictures, there or in <split>/; or one folder with both"
)


class Files(Mapping[str, list[Path]]):
    """XML files or images below a folder, by id. Only their suffixes are kept: a `Path` takes ten times the memory.

    Args:
        suffixes: those of each id.
    """

    def __init__(self, folder: Path, suffixes: dict[str, tuple[str, ...]]) -> None:
        self._folder, self._suffixes = folder, suffixes
        self._start = str(folder / "x")[:-1]

    def __getitem__(self, i: str) -> list[Path]:
        return [self._folder / (i + suffix) for suffix in self._suffixes[i]]

    def __contains__(self, i: object) -> bool:
        return i in self._suffixes

    def __iter__(self) -> Iterator[str]:
        return iter(self._suffixes)

    def __len__(self) -> int:
        return len(self._suffixes)

    def names(self, i: str) -> list[str]:
        """Return the last parts of the paths of an id; none if there is no such id."""
        return [i.rpartition("/")[2] + suffix for suffix in self._suffixes.get(i, ())]

    def texts(self, i: str) -> list[str]:
        """Return the paths of an id as text; none if there is no such id."""
        return [self._start + i.replace("/", os.sep) + suffix for suffix in self._suffixes.get(i, ())]

    def in_order(self) -> Iterator[Path]:
        """Yield all paths, sorted by their parts."""
        names = (i + suffix for i, suffixes in self._suffixes.items() for suffix in suffixes)
        yield from (self._folder / name for name in sorted(names, key=parts_of))


@dataclass(frozen=True)
class SplitFiles:
    """A split's ids, and its files by id. An id is a path below its folder, without the suffix.

    `folder` is the image folder, to which an XML file's `<filename>` is relative.
    """

    ids: list[str]
    xml: Files
    pictures: Files
    folder: Path


def read_lists(root: Path, known: set[str], findings: list[Finding]) -> tuple[dict[str, list[str]], Path]:
    """Read the split files of ImageSets/Main, ImageSets or its one folder, else those of the root named for splits.

    Per-class files, with a second column of 1, -1 or 0, are used only if there are no others.

    Args:
        known: the ids of the XML files and images.

    Returns:
        split -> ids, and the folder of the lists; no splits if there is none.

    Raises:
        FormatError: ImageSets holds several folders of lists, or lists of classes alone that do not name their splits.
    """
    sets = root / "ImageSets"
    folder = next((place for place in (sets / "Main", sets) if globbed(place, "*.txt")), None)
    if folder is None:
        inner = sorted({path.parent for path in globbed(sets, "*/*.txt")})
        if len(inner) > 1:
            raise FormatError(
                f"{sets}: lists in {', '.join(path.name for path in inner)}, but not in Main; expected {EXPECTED}"
            )
        folder = inner[0] if inner else root
    lists: dict[str, list[str]] = {}
    per_class: dict[str, list[str]] = {}
    for path in globbed(folder, "*.txt"):
        if folder == root and split_word(path.stem) != path.stem:
            continue
        lines = [line.strip() for line in read_text(path).splitlines() if line.strip()]
        ids = [id_of(line, known) for line in lines]
        if lines and all(i not in known and is_per_class(i) for i in ids):
            per_class[path.stem] = [id_of(line.rsplit(maxsplit=1)[0].strip(), known) for line in lines]
        elif folder != root or not known.isdisjoint(ids):
            lists[path.stem] = list(dict.fromkeys(ids))
            for i, count in Counter(ids).items():
                if count > 1:
                    value = f"{i}: {count} times"
                    findings.append(Finding("noted", "listed-twice", str(path), "", value, "taken once", "set"))
    if not lists:
        for name, ids in per_class.items():
            split = split_word(name.rpartition("_")[2])
            if not split:
                raise FormatError(
                    f"{folder / name}.txt: a list of one class, and no list of a split; expected {EXPECTED}"
                )
            lists[split] = list(dict.fromkeys([*lists.get(split, ()), *ids]))
    return lists, folder


def is_per_class(line: str) -> bool:
    return len(line.split()) > 1 and line.split()[-1] in ("1", "-1", "0")


def id_of(line: str, known: set[str]) -> str:
    """Return the id that a line of a list names: as it is, or as a path or a pair of paths to its files."""
    for text in (line, *(() if is_per_class(line) else line.split()[:1])):
        parts = text.replace("\\", "/").split("/")
        for n in range(len(parts)):
            name = "/".join(parts[n:])
            stem = (
                str(PurePosixPath(name).with_suffix("")) if is_picture(name) or name.lower().endswith(".xml") else name
            )
            for i in (name, stem):
                if i in known:
                    return i
    return line


def files_of_lists(root: Path) -> SplitFiles | None:
    """Find the files that lists name; None if there is no one folder of XML files and of images."""
    annotations, pictures = root / "Annotations", root / "JPEGImages"
    if annotations.is_dir() and pictures.is_dir():
        return SplitFiles([], _by_id(annotations, True), _by_id(pictures, False), pictures)
    try:
        pairs = list(from_folders(root).values())
    except FormatError:
        return None
    return pairs[0] if len(pairs) == 1 else None


def from_folders(root: Path) -> dict[str, SplitFiles]:
    """Find splits without lists: a folder with XML files and images, or separate folders of them."""
    with_xml: list[Path] = []
    with_pictures: list[Path] = []
    for folder, folders, files in walk(root):
        folders[:] = sorted(sub for sub in folders if not circles(folder / sub))
        if any(file.lower().endswith(".xml") for file in files):
            with_xml.append(folder)
        if any(is_picture(file) for file in files):
            with_pictures.append(folder)
    if not with_xml or not with_pictures:
        lacking = "XML files" if not with_xml else "pictures"
        inner = next((sub.parent.parent for sub in root.glob("*/ImageSets/Main")), None)
        hint = f"; did you mean {inner}?" if inner else ""
        raise FormatError(f"{root}: no {lacking} found; expected {EXPECTED}{hint}")
    if len(with_xml) == 1:
        xml = _by_id(with_xml[0], True, deep=False)
        candidates = [_by_id(folder, False, deep=False) for folder in with_pictures]
        if with_xml[0] in with_pictures:
            n = with_pictures.index(with_xml[0])
        else:
            n = max(range(len(candidates)), key=lambda n: len(candidates[n].keys() & xml.keys()))
        name = with_xml[0].name if with_xml[0] != root and split_word(with_xml[0].name) == with_xml[0].name else "train"
        return {name: SplitFiles(sorted({*xml, *candidates[n]}), xml, candidates[n], with_pictures[n])}
    splits: dict[str, SplitFiles] = {}
    for folder in with_xml:
        partners = [folder] if folder in with_pictures else [p for p in with_pictures if p.name == folder.name]
        name = folder.name
        if len(partners) != 1 and folder.parent != root:  # <split>/Annotations beside <split>/JPEGImages
            partners, name = [p for p in with_pictures if p.parent == folder.parent], folder.parent.name
        if len(partners) != 1 or name in splits:
            names = ", ".join(str(path) for path in with_xml)
            raise FormatError(
                f"{root}: XML files in several folders ({names}), and no telling which pictures are whose"
            )
        xml, pictures = _by_id(folder, True, deep=False), _by_id(partners[0], False, deep=False)
        splits[name] = SplitFiles(sorted({*xml, *pictures}), xml, pictures, partners[0])
    return splits


def _by_id(folder: Path, xml: bool, deep: bool = True) -> Files:
    suffixes: dict[str, tuple[str, ...]] = {}
    shared: dict[tuple[str, ...], tuple[str, ...]] = {}
    for place, folders, names in walk(folder):
        folders[:] = [name for name in folders if deep and not (place / name).is_symlink()]
        below = "" if place == folder else place.relative_to(folder).as_posix() + "/"
        for name in names:
            if name.lower().endswith(".xml") if xml else is_picture(name):
                stem, suffix = os.path.splitext(name)  # noqa: PTH122
                several = tuple(sorted((*suffixes.get(below + stem, ()), suffix)))
                suffixes[below + stem] = shared.setdefault(several, several)
    return Files(folder, suffixes)


def picture_of(i: str, filename: str, files: SplitFiles, root: Path, allow_outside: bool, index: Index) -> Path | None:
    """Return the image with the id of the XML file; `<filename>` selects among several, or is used if there is none."""
    same = files.pictures.get(i, [])
    if len(same) == 1:
        return same[0]
    if same:
        name = PurePosixPath(filename.replace("\\", "/")).name
        return next((path for path in same if path.name == name), same[0])
    if inside(filename) or not filename:
        return named_picture(filename, files)
    pictures, _ = locate([filename], [files.folder], root, root, allow_outside=allow_outside, index=index)
    return pictures[filename][1] if filename in pictures else None


def named_picture(filename: str, files: SplitFiles) -> Path | None:
    """Return the image that `<filename>` names: by its path in the folder, or for an absolute path by its last part."""
    path = inside(filename)
    if path is None and ".." in filename:
        return None
    name = PurePosixPath(path or filename.replace("\\", "/").rpartition("/")[2])
    same = files.pictures.get(str(name.with_suffix("")), ()) if name.name else ()
    return next((picture for picture in same if picture.name == name.name), None)


def orphans(root: Path, splits: dict[str, SplitFiles], lists: Path, taken: set[Path]) -> list[Finding]:
    """Report XML files and images that no list contains, except images that listed XML files name (`taken`)."""
    any_split = next(iter(splits.values()))
    listed = {i for files in splits.values() for i in files.ids}
    findings = []
    for what, by_id in (("annotation", any_split.xml), ("image", any_split.pictures)):
        for i in sorted(by_id.keys() - listed):
            for path in by_id[i]:
                if path in taken:
                    continue
                key = key_of(path, root) if what == "image" else ""
                reason = f"is in no list of {lists.relative_to(root.parent).as_posix()}; left out"
                findings.append(Finding("noted", f"{what}-not-listed", str(path), key, i, reason, "set"))
    return findings


def overlaps(ids: dict[str, set[str]], origin: Path) -> list[Finding]:
    """Report the splits that share images.

    Args:
        ids: each split's images.
    """
    findings = []
    for one, other in combinations(ids, 2):
        common = len(ids[one] & ids[other])
        if common:
            value, reason = f"{one} and {other}: {common}", "images are in both splits; stored in both"
            findings.append(Finding("noted", "splits-overlap", str(origin), "", value, reason, "set"))
    return findings


def find_unions(ids: dict[str, set[str]]) -> dict[str, tuple[str, ...]]:
    """Find splits that are the exact union of disjoint other splits, such as trainval = train + val.

    Args:
        ids: each split's images.

    Returns:
        union -> its parts, in the order of `ids`. No part is itself a union.
    """
    unions: dict[str, tuple[str, ...]] = {}
    for name in sorted(ids, key=lambda name: len(ids[name])):
        smaller = [other for other in ids if other not in unions and ids[other] and ids[other] < ids[name]]
        largest_first = {other: ids[other] for other in sorted(smaller, key=lambda other: -len(ids[other]))}
        parts = _exact_cover(ids[name], largest_first) if ids[name] else None
        if parts:
            unions[name] = tuple(other for other in ids if other in parts)
    return unions


def _exact_cover(wanted: set[str], sets: dict[str, set[str]]) -> list[str] | None:
    """Return disjoint sets whose union is `wanted`, or None. Each step tries only sets with the first element."""
    if not wanted:
        return []
    first = min(wanted)
    for name, members in sets.items():
        if first in members and members <= wanted:
            others = _exact_cover(wanted - members, sets)
            if others is not None:
                return [name, *others]
    return None
