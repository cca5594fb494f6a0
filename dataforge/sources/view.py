"""Selection of images and boxes of a set, with the same code at ingest and at load."""

from __future__ import annotations

import math
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from heapq import heappop, heappush
from itertools import chain
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from dataforge.errors import ConfigError, ImageError, counted, unknown
from dataforge.images.header import probe, probe_file
from dataforge.record import CROWD, DIFFICULT, Boxes, Finding, Record, Source, among, object_areas, relabelled
from dataforge.rng import uniform
from dataforge.sources.repair import repair
from dataforge.threads import cores, ordered

Policy = Literal["keep", "drop"]
REASONS = ("", "class", "crowd", "difficult", "area", "side")  # why a box is left out; index 0: it is kept


def _plain(value: object) -> list[str]:
    """Return the words of an option's value: "10 inf" of (10.0, inf)."""
    parts = value if isinstance(value, tuple | list) else [value]
    return [f"{part:.15g}" if isinstance(part, float) else str(part) for part in parts]


@dataclass(frozen=True, eq=False)
class View:
    """A selection of classes, boxes and images. The defaults filter nothing, so `View()` keeps everything.

    Attributes:
        classes: names; labels become 0, 1, ... in this order. Empty means all classes, with their own labels.
        area: (minimum, maximum) area in pixels of the source image, inclusive: the object's area if the source states
            it (COCO's masks), else that of its box, as in COCO's size bins.
        side: (minimum, maximum) length of a box's shorter side, in pixels of the source image, inclusive.
        crowd, difficult: whether boxes with that flag are kept.
        empty: whether images without boxes are kept, counting the boxes that the other filters leave.
        limit: the maximum number of images per split: the first ones that pass all other filters.
        sample: the fraction of images to draw at random, a float; or their number per split, an int: 1.0 draws all and
            1 draws one. A draw depends only on the images' keys and the seed, so a smaller sample is a subset of a
            larger one, and the other filters, which are applied to the drawn images, do not change it.
        sample_seed: the seed of the draw.

    Raises:
        ConfigError: a value is invalid; or, when applied to a set, the set does not have one of the classes.
    """

    classes: tuple[str, ...] = ()
    area: tuple[float, float] | None = None
    side: tuple[float, float] | None = None
    crowd: Policy = "keep"
    difficult: Policy = "keep"
    empty: Policy = "keep"
    limit: int | None = None
    sample: float | int = 1.0
    sample_seed: int = 0

    def __eq__(self, other: object) -> bool:
        return isinstance(other, View) and repr(self) == repr(other)  # `sample`: 1 is not 1.0

    def __hash__(self) -> int:
        return hash(repr(self))

    def options(self) -> list[str]:
        """Return the options of the commands that select the same; none for everything."""
        words = []
        for field in fields(self):
            value = getattr(self, field.name)
            if repr(value) != repr(field.default):
                words.append(f"--{field.name.replace('_', '-')}")
                words += [",".join(value)] if field.name == "classes" else _plain(value)
        return words

    def __post_init__(self) -> None:
        twice = [name for name, count in Counter(self.classes).items() if count > 1]
        if twice:
            raise ConfigError(f"classes: {', '.join(map(repr, twice))} more than once")
        for name in ("area", "side"):
            bounds = getattr(self, name)
            if bounds is not None and not (len(bounds) == 2 and 0 <= bounds[0] <= bounds[1]):
                given = " ".join(_plain(bounds))
                raise ConfigError(f"{name} is {given}; expected a minimum and a maximum, such as 100 and inf")
        for name in ("crowd", "difficult", "empty"):
            if getattr(self, name) not in ("keep", "drop"):
                raise ConfigError(f"{name} is {getattr(self, name)!r}; expected keep or drop")
        if self.limit is not None and self.limit < 1:
            raise ConfigError(f"limit is {self.limit}; expected at least 1 image")
        if not (self.sample >= 1 if self._counted else 0 < self.sample <= 1):
            raise ConfigError(
                f"sample is {self.sample}; expected a fraction above 0 and up to 1.0, or a whole number of images"
            )

    def label_of(self, known: Sequence[str]) -> NDArray[np.int32]:
        """Return (len(known),) the new label of each class of a set, -1 if it is left out."""
        for name in self.classes:
            if name not in known:
                raise unknown("class", name, known)
        number = {name: n for n, name in enumerate(self.classes or known)}
        return np.array([number.get(name, -1) for name in known], np.int32)

    def names(self, known: Sequence[str]) -> tuple[str, ...]:
        """Return the class names by new label."""
        return self.classes or tuple(known)

    def numbers(self, known: Sequence[str], class_ids: Sequence[int]) -> tuple[int, ...]:
        """Return the source's own number of each class, by new label."""
        if not self.classes or not class_ids:
            return tuple(class_ids)
        return tuple(class_ids[known.index(name)] for name in self.classes)

    def reasons(
        self, boxes: Boxes, labels: NDArray[np.int32], flags: NDArray[np.uint8], areas: NDArray[np.float32]
    ) -> NDArray[np.uint8] | None:
        """Return the reason why each box is left out, the first one in the order of `REASONS`.

        Args:
            boxes: (n, 4) pixels of the source image.
            labels: (n,) new labels, -1 for a class that is left out.
            flags, areas: (n,).

        Returns:
            (n,) indices into `REASONS`, or None if this view cannot leave out any box.
        """
        if not self.chooses_boxes:
            return None
        side = (boxes[:, 2:] - boxes[:, :2]).min(1, initial=np.inf)
        everything = (-math.inf, math.inf)  # boxes may still be inverted here; ingest repairs them
        area_range, side_range = self.area or everything, self.side or everything
        return np.select(
            [
                labels < 0,
                (flags & CROWD > 0) & (self.crowd == "drop"),
                (flags & DIFFICULT > 0) & (self.difficult == "drop"),
                (areas < area_range[0]) | (areas > area_range[1]),
                (side < side_range[0]) | (side > side_range[1]),
            ],
            [np.uint8(n) for n in range(1, len(REASONS))],
            np.uint8(0),
        )

    @property
    def chooses_boxes(self) -> bool:
        return bool(self.classes or self.area or self.side or "drop" in (self.crowd, self.difficult))

    @property
    def chooses_images(self) -> bool:
        return self.empty == "drop" or self.limit is not None or self.samples

    @property
    def samples(self) -> bool:
        """Whether images are drawn at random."""
        return self._counted or self.sample < 1

    @property
    def _counted(self) -> bool:
        return isinstance(self.sample, int)

    def _lots(self, keys: Iterable[str]) -> NDArray[np.float64]:
        """Return (n,) numbers in 0..1; the images with the lowest numbers are drawn."""
        numbers = np.array([zlib.crc32(key.encode("utf-8", "surrogateescape")) for key in keys], np.int64)
        return uniform(self.sample_seed, 0, numbers, "sample")[:, 0]

    def drawn(self, keys: Iterable[str]) -> NDArray[np.bool_]:
        """Return (n,) whether the sample contains each image.

        Args:
            keys: all keys of a split, if `sample` is a number of images.
        """
        lots = self._lots(keys)
        return (np.argsort(np.argsort(lots, kind="stable")) if self._counted else lots) < self.sample

    def _draw(self, items: Iterator[Record | Finding], left_out: Counter[str]) -> Iterator[Record | Finding]:
        """Draw the same sample from a stream, and count the records left out. Findings pass unchanged.

        If `sample` is a number of images, that many records of each split are held and yielded in order at the end.
        """
        held: dict[str, list[tuple[float, int, Record]]] = {}  # heaps: the first record is the next to be left out
        for n, item in enumerate(items):
            if isinstance(item, Finding):
                yield item
                continue
            lot = float(self._lots([item.key])[0])
            if self._counted:
                heap = held.setdefault(item.split, [])
                heappush(heap, (-lot, -n, item))
                if len(heap) > self.sample:
                    heappop(heap)
                    left_out["sample"] += 1
            elif lot < self.sample:
                yield item
            else:
                left_out["sample"] += 1
        for _, _, record in sorted(chain(*held.values()), key=lambda entry: -entry[1]):
            yield record

    def filter(self, source: Source) -> Source:
        """Return a source with the items that this view keeps. Findings at the end count those left out.

        Boxes are repaired as in ingest before they are measured, so that a view of a whole set equals a set that was
        ingested through the view. The image sizes required for this are read by threads; for most JPEGs only the
        header is read. Unreadable images are passed through, and ingest refuses them.

        Raises:
            ConfigError: the source has no such class.
        """
        label_of = self.label_of(source.classes)
        measures = bool(self.area or self.side or self.empty == "drop")

        def records() -> Iterator[Record | Finding]:
            boxes_out: Counter[tuple[str, str]] = Counter()
            images_out: Counter[str] = Counter()
            taken: Counter[str] = Counter()
            drawn = self._draw(source.records, images_out) if self.samples else source.records

            def beyond_limit(record: Record) -> bool:
                beyond = self.limit is not None and taken[record.split] >= self.limit
                images_out["limit"] += beyond
                return beyond

            def to_measure() -> Iterator[Record | Finding]:
                for item in drawn:
                    if isinstance(item, Finding) or not beyond_limit(item):
                        yield item

            measured = ordered(_repaired, to_measure(), cores()) if measures else ((item, []) for item in to_measure())
            for record, findings in measured:
                if isinstance(record, Finding) or findings is None:
                    yield record
                    continue
                if measures and beyond_limit(record):  # it was read before the limit was reached
                    continue
                yield from findings
                names = [source.classes[label] for label in record.labels] if self.classes else []
                judged = relabelled(record.judged, label_of)
                record = replace(record, labels=label_of[record.labels], judged=judged)
                why = self.reasons(record.boxes, record.labels, record.flags, object_areas(record))
                if why is not None and why.any():
                    boxes_out.update((REASONS[n], names[i] if n == 1 else "") for i, n in enumerate(why.tolist()) if n)
                    record = record.pick(why == 0)
                if self.empty == "drop" and not len(record.boxes):
                    images_out["empty"] += 1
                    continue
                taken[record.split] += 1
                yield record
            for (reason, name), count in sorted(boxes_out.items()):
                yield _left_out(reason, counted(count, "box"), name)
            for reason, count in sorted((+images_out).items()):
                yield _left_out(reason, counted(count, "image"))

        names = self.names(source.classes)
        return replace(
            source,
            classes=names,
            class_ids=self.numbers(source.classes, source.class_ids),
            records=records(),
            frequencies={name: source.frequencies[name] for name in names if name in source.frequencies},
            ancestors=among(source.ancestors, {name: name for name in names}),
            total=0 if self.chooses_images else source.total,
        )


def _repaired(item: Record | Finding) -> tuple[Record | Finding, list[Finding] | None]:
    """Return a record with its true size and repaired boxes, and the findings; None if the image cannot be read."""
    if isinstance(item, Finding):
        return item, None
    try:
        return repair(item, probe_file(item.image) if isinstance(item.image, Path) else probe(item.image))
    except (OSError, ValueError, ImageError):
        return item, None


def _left_out(reason: str, value: str, name: str = "") -> Finding:
    option = "--classes" if reason == "class" else f"--{reason}"
    return Finding("refused", f"view-{reason}", option, name, value, "left out, as asked", "set")
