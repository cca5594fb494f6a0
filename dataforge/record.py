"""The record of one annotated image, and the conventions of the whole project.

* A box is float32 `[x1, y1, x2, y2]` in absolute pixels and **edge** coordinates: x runs from 0 to the width, so a box
  over the whole image is `[0, 0, width, height]`. Sizes are `(height, width)`. Other conventions are confined to
  single lines where data is read or written, in variables named after the convention (`xywh`, `cxcywh_unit`).
* A label is a dense integer `0..C-1`; the class names are stored with the labels, and sets are joined by **name**.
  There is no background class.
* Only `label == -1` marks padding.
* An image keeps its source bytes. Its height, width and boxes are those **after** applying the EXIF orientation.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from dataforge.errors import ConfigError, unknown
from dataforge.polygons import Polygons

__all__ = ["CROWD", "DIFFICULT", "TRUNCATED", "Boxes", "Finding", "Polygons", "Record", "Source"]

CROWD, DIFFICULT, TRUNCATED = 1, 2, 4
FLAGS = {"crowd": CROWD, "difficult": DIFFICULT, "truncated": TRUNCATED}

Boxes = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Record:
    """One image with its boxes, as returned by a format's reader.

    Attributes:
        key: unique in its split; the image's path below the root, with forward slashes.
        split: the split's name.
        image: a path, or the encoded bytes.
        height, width: pixels, as stated by the annotation; 0 if unknown.
        boxes: (n, 4) float32, pixels, edge coordinates. They may be invalid: `dataforge.ingest` repairs or refuses.
        labels: (n,) int32, indices into `Source.classes`.
        flags: (n,) uint8, any of CROWD | DIFFICULT | TRUNCATED.
        areas: (n,) float32, the objects' areas in pixels if the source states them (COCO's mask areas), else None.
        id: the source's own number for the image, or -1.
        origin: the annotation file, for messages.
        polygons: of the n boxes, pixels, edge coordinates, not clipped to the image; None if no box has one.
        judged: (p, 2) int32, for an image in which only some classes were looked for (LVIS, Open Images): a label, and
            0 if no object of it is in the image, 1 if boxes of it may be missing. Of a class that is neither here nor
            in `labels`, nothing is known. None if all classes were looked for.
    """

    key: str
    split: str
    image: Path | bytes
    height: int
    width: int
    boxes: Boxes
    labels: NDArray[np.int32]
    flags: NDArray[np.uint8]
    areas: NDArray[np.float32] | None = None
    id: int = -1
    origin: str = ""
    polygons: Polygons | None = None
    judged: NDArray[np.int32] | None = None

    def pick(self, kept: NDArray[np.bool_]) -> Record:
        """Return the record with some of its boxes.

        Args:
            kept: (n,) mask of the boxes.
        """
        return replace(
            self,
            boxes=self.boxes[kept],
            labels=self.labels[kept],
            flags=self.flags[kept],
            areas=None if self.areas is None else self.areas[kept],
            polygons=None if self.polygons is None else self.polygons.take(np.flatnonzero(kept)),
        )

    @property
    def file(self) -> str:
        """Return the file that messages about the image name: its path, or `origin` if there are only bytes."""
        return str(self.image) if isinstance(self.image, Path) else self.origin


def box_areas(boxes: Boxes) -> NDArray[np.float32]:
    """Return the areas (n,) of boxes (n, 4), in pixels."""
    return np.prod(boxes[:, 2:] - boxes[:, :2], axis=1, dtype=np.float32)


def object_areas(record: Record) -> NDArray[np.float32]:
    """Return (n,) the areas that the source states, else those of the boxes, in pixels."""
    return box_areas(record.boxes) if record.areas is None else record.areas


def polygons_of(record: Record) -> Polygons:
    """Return the polygons of a record, also if no box has one."""
    return Polygons.none(len(record.boxes)) if record.polygons is None else record.polygons


@dataclass(frozen=True)
class Finding:
    """An irregularity in the input.

    Attributes:
        action: "refused" (left out), "repaired" (kept, changed) or "noted" (kept unchanged).
        code: a short name for the kind, such as "box-outside".
        file: the annotation or image file.
        key: only the record's key; for findings about a whole set, a class, a split, or "".
        value: the value found.
        reason: the expected value and the action taken.
        scope: "image" if it concerns a whole record, else "box" or "set".
        box: the 0-based number of the box in the annotation of its image.
        xyxy: the box in question, in pixels and edge coordinates; None if it could not be read or is not finite.
        split: the record's split.
        other: (split, key) of the other image, if the finding is about a pair.
    """

    action: Literal["refused", "repaired", "noted"]
    code: str
    file: str
    key: str
    value: str
    reason: str
    scope: Literal["image", "box", "set"] = "box"
    box: int | None = None
    xyxy: tuple[float, float, float, float] | None = None
    split: str | None = None
    other: tuple[str, str] | None = None

    def facts(self) -> dict[str, Any]:
        """Return the fields for JSON, without those that are None."""
        return {name: value for name, value in vars(self).items() if value is not None}

    @classmethod
    def from_facts(cls, facts: Mapping[str, Any]) -> Finding:
        """Create a finding from its `facts()`, read from JSON.

        Raises:
            TypeError: a field is unknown or missing.
        """
        fields: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in facts.items()}
        return cls(**fields)


@dataclass(frozen=True)
class Source:
    """A data set as returned by a format's `read`.

    Attributes:
        classes: names; a label is an index into them.
        records: the records and findings in one stream, so that they need not be kept in memory.
        class_ids: the source's own number for each class (COCO's sparse ids); empty means 0..C-1.
        unions: splits that are the exact union of others, such as `{"trainval": ("train", "val")}`; they are not
            stored twice.
        total: the expected number of records, for the progress bar; 0 if unknown.
        files: the files that were read besides those that records and findings name, such as lists of classes.
        depth: how samples of more than 8 bits become 8 when the images are decoded; see `DEPTHS` of `images.header`.
        frequencies: name of some of the classes -> "r" (rare), "c" (common) or "f" (frequent), as LVIS states them.
        ancestors: class name -> the classes for which its boxes count, too, as its ancestors in Open Images' hierarchy:
            they are among the boxes of those.
    """

    classes: tuple[str, ...]
    records: Iterator[Record | Finding]
    class_ids: tuple[int, ...] = ()
    unions: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    total: int = 0
    files: Collection[Path] = ()
    depth: str = "scale"
    frequencies: Mapping[str, str] = field(default_factory=dict)
    ancestors: Mapping[str, Sequence[str]] = field(default_factory=dict)


def among(ancestors: Mapping[str, Sequence[str]], names: Mapping[str, str]) -> dict[str, list[str]]:
    """Return `Source.ancestors` of some classes, with new names.

    Args:
        names: old -> new name; other classes are left out. Several may become one, below what is above all of them.
    """
    renamed: dict[str, list[str]] = {}
    for old, name in names.items():
        above = [*dict.fromkeys(names[one] for one in ancestors.get(old, ()) if one in names)]
        renamed[name] = [one for one in renamed.get(name, above) if one in above and one != name]
    return {name: above for name, above in renamed.items() if above}


def relabelled(judged: NDArray[np.int32] | None, label_of: NDArray[np.int32]) -> NDArray[np.int32] | None:
    """Return `Record.judged`, or a table's, with new labels; rows of labels that become -1 are left out.

    Args:
        label_of: (C,) the new label of each, -1 for none.
    """
    if judged is None:
        return None
    labels = np.append(label_of, -1)[judged[:, -2]].astype(np.int32)  # a table's -1 stays
    kept = (labels >= 0) | (judged[:, -2] < 0)
    return np.column_stack([judged[kept, :-2], labels[kept], judged[kept, -1]])


def merged(judged: NDArray[np.int32] | None, label_of: NDArray[np.int32]) -> NDArray[np.int32] | None:
    """Return `Record.judged` with new labels, of which several may be one: absent if all are, else partly looked for.

    Args:
        label_of: as for `relabelled`.
    """
    judged = relabelled(judged, label_of)
    if judged is None:
        return None
    members = np.bincount(label_of[label_of >= 0])
    absent = np.bincount(judged[judged[:, 1] == 0, 0], minlength=len(members))
    partial = np.bincount(judged[judged[:, 1] == 1, 0], minlength=len(members)) > 0
    labels = np.flatnonzero(partial | (absent > 0) | (members > 1))
    return np.column_stack([labels, absent[labels] < members[labels]]).astype(np.int32)


def as_boxes(numbers: object) -> Boxes:
    """Convert numbers to (n, 4) float32. Values outside the float32 range become infinite, and ingest refuses them."""
    with np.errstate(all="ignore"):
        return np.asarray(numbers, np.float64).reshape(-1, 4).astype(np.float32)


def resolve_split(name: str, splits: Sequence[str]) -> str:
    """Find a split by its name, or by a prefix of its name that ends before a non-letter.

    "train" finds COCO's "train2017" and "train_a", but not VOC's "trainval", which also contains the images of "val".

    Raises:
        ConfigError: no split matches, or more than one does.
    """
    if name in splits:
        return name
    fitting = [split for split in splits if name and split.startswith(name) and not split[len(name)].isalpha()]
    if len(fitting) > 1:
        raise ConfigError(f"split {name!r} is ambiguous: {', '.join(sorted(fitting))}")
    if not fitting:
        raise unknown("split", name, splits)
    return fitting[0]


def pick_splits(wanted: Sequence[str] | None, known: Iterable[str]) -> list[str]:
    """Select splits, in the source's order: all, or those that `resolve_split` finds by the wanted names.

    Raises:
        ConfigError: a wanted name matches no split, or more than one.
    """
    known = list(known)
    if not wanted:
        return known
    picked = {resolve_split(name, known) for name in wanted}
    return [split for split in known if split in picked]
