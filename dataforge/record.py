"""One annotated image, and the conventions that all of the project keeps.

* A box is float32 `[x1, y1, x2, y2]` in absolute pixels and **edge** coordinates: x runs from 0 to the width, so a box
  over the whole image is `[0, 0, width, height]`. Sizes are `(height, width)`. Every other convention lives for one
  line at a border, and the name of its variable says which it is (`xywh`, `cxcywh_unit`).
* A label is a dense integer `0..C-1`; the class names stand beside the labels, and sets are joined by **name**.
  There is no background class.
* Padding is `label == -1`, nothing else.
* An image keeps its source bytes. Its height, width and boxes are those **after** the EXIF orientation was applied.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from dataforge.errors import ConfigError, unknown

__all__ = ["CROWD", "DIFFICULT", "TRUNCATED", "Boxes", "Finding", "Record", "Source"]

CROWD, DIFFICULT, TRUNCATED = 1, 2, 4
FLAGS = {"crowd": CROWD, "difficult": DIFFICULT, "truncated": TRUNCATED}

Boxes = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Record:
    """One image with its boxes, as a format's reader gives it.

    Attributes:
        key: unique in its split; the image's path below the root, with forward slashes.
        split: the split's name.
        image: a path, or the encoded bytes.
        height, width: pixels, as the annotation states them; 0 where it does not.
        boxes: (n, 4) float32, pixels, edge coordinates. They may still be wrong: `dataforge.ingest` mends or refuses.
        labels: (n,) int32, indices into `Source.classes`.
        flags: (n,) uint8, any of CROWD | DIFFICULT | TRUNCATED.
        areas: (n,) float32, the objects' areas in pixels where the source states them (COCO's mask areas), else None.
        id: the source's own number for the image, or -1.
        origin: the annotation file, for messages.
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

    @property
    def file(self) -> str:
        """What a message about the image names: its path, or `origin` where there are only bytes."""
        return str(self.image) if isinstance(self.image, Path) else self.origin


def box_areas(boxes: Boxes) -> NDArray[np.float32]:
    """(n,) areas of boxes (n, 4), in pixels."""
    return np.prod(boxes[:, 2:] - boxes[:, :2], axis=1, dtype=np.float32)


def object_areas(record: Record) -> NDArray[np.float32]:
    """(n,) the areas that the source states, else those of the boxes, in pixels."""
    return box_areas(record.boxes) if record.areas is None else record.areas


@dataclass(frozen=True)
class Finding:
    """Something in the input that was not as it should be.

    Attributes:
        action: "refused" (left out), "repaired" (kept, changed) or "noted" (kept as it is).
        code: a short name for the kind, such as "box-outside".
        file: the annotation or image file.
        key: the record's key alone; of findings about a whole set, a class, a split, or "".
        value: what stands there.
        reason: what was expected, and what was done.
        scope: "image" when a whole record is concerned, else "box" or "set".
        box: the box's number in the annotation of its image, from 0.
        xyxy: the box in question, in pixels and edge coordinates; None where it could not be read or is not finite.
        split: the record's split.
        other: (split, key) of the other image, where the finding is about a pair.
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
        """The fields for JSON; those that are None are left out."""
        return {name: value for name, value in vars(self).items() if value is not None}

    @classmethod
    def from_facts(cls, facts: Mapping[str, Any]) -> Finding:
        """The finding whose `facts()` were written as JSON.

        Raises:
            TypeError: a field is unknown or missing.
        """
        fields: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in facts.items()}
        return cls(**fields)


@dataclass(frozen=True)
class Source:
    """What a format's `read` gives.

    Attributes:
        classes: names; a label is an index into them.
        records: the records and what was found on the way, in one stream, so that nothing has to be held.
        class_ids: the source's own number for each class (COCO's sparse ids); empty means 0..C-1.
        unions: splits that are exactly others put together, such as `{"trainval": ("train", "val")}`; they are not
            stored twice.
        total: how many records to expect, for the progress bar; 0 where unknown.
    """

    classes: tuple[str, ...]
    records: Iterator[Record | Finding]
    class_ids: tuple[int, ...] = ()
    unions: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    total: int = 0


def as_boxes(numbers: object) -> Boxes:
    """(n, 4) float32 from any numbers; what float32 cannot hold becomes infinite, and ingest refuses it."""
    with np.errstate(all="ignore"):
        return np.asarray(numbers, np.float64).reshape(-1, 4).astype(np.float32)


def resolve_split(name: str, splits: Sequence[str]) -> str:
    """A split by its name, or by the start of its name, up to a character that is no letter.

    "train" finds COCO's "train2017" and "train_a", but not VOC's "trainval", which also holds the images of "val".

    Raises:
        ConfigError: no split fits, or more than one does.
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
    """The splits to take, in the source's order: all of them, or those that `resolve_split` finds by the wanted names.

    Raises:
        ConfigError: a wanted name fits no split, or more than one.
    """
    known = list(known)
    if not wanted:
        return known
    picked = {resolve_split(name, known) for name in wanted}
    return [split for split in known if split in picked]
