"""Which images of a set are asked for: by boxes, names, findings and errors, computed from the table's columns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import msgspec
import numpy as np
from msgspec import Meta, Struct
from numpy.typing import NDArray

from dataforge.analysis.detections import BACKGROUND, CLASS, IGNORED, KINDS, Detections, Judged
from dataforge.analysis.stats import LARGE, SMALL
from dataforge.record import FLAGS
from dataforge.shards.table import Table
from dataforge.web.changes import Changes
from dataforge.web.openapi import LARGEST

MISSED = "missed"
Rows = NDArray[np.int64]
Mask = NDArray[np.bool_]
Count = Annotated[int, Meta(ge=0, le=LARGEST)]
Text = Annotated[str, Meta(max_length=500)]
SORTS = ("number", "key", "boxes", "pixels", "errors", "score", "changes")


class Query(Struct, frozen=True, forbid_unknown_fields=True):
    """What images are asked for; the parameters of a request.

    Attributes:
        classes, size, flag: what one box has to fulfil together; size as COCO's.
        least, most: how many such boxes an image has to have; at least 1 if they have to fulfil anything.
        text: a part of the key.
        lint: a code of finding.
        error: a kind of detection, or "missed"; only of the classes asked for.
        change: a change of an image or a box in a report of `dataforge diff`, or "any".
        cell: "true,detected" labels of the confusion matrix; C is the background.
        conf: the least score of detections.
        sort: by what; "-" in front: the greatest first.
    """

    classes: tuple[Annotated[int, Meta(ge=0, le=1 << 31)], ...] = msgspec.field(default=(), name="class")
    size: Literal["", "small", "medium", "large"] = ""
    flag: Literal["", "crowd", "difficult", "truncated"] = ""
    least: Count = 0
    most: Count = LARGEST
    split: Text = ""
    text: Text = ""
    lint: Text = ""
    change: Text = ""
    error: Literal["", "correct", "class", "place", "double", "background", "ignored", "missed"] = ""
    cell: Annotated[str, Meta(pattern=r"^([0-9]{1,6},[0-9]{1,6})?$")] = ""
    conf: Annotated[float, Meta(ge=0, le=1)] = 0.25
    sort: Annotated[str, Meta(pattern=rf"^-?({'|'.join(SORTS)})$")] = "number"


def query_schema() -> dict[str, Any]:
    """Return name -> JSON Schema of the parameters."""
    _, components = msgspec.json.schema_components([Query])
    properties: dict[str, Any] = components["Query"]["properties"]
    return properties


def read_query(values: Mapping[str, list[str]]) -> Query:
    """Make a query of a request's parameters.

    Raises:
        msgspec.ValidationError: a name is unknown, or a value is not as expected.
    """
    for name, given in values.items():
        if name != "class" and len(given) > 1:
            raise msgspec.ValidationError(f"{name} is given {len(given)} times")
    plain = {name: given if name == "class" else given[0] for name, given in values.items()}
    return msgspec.convert(plain, Query, strict=False)


@dataclass(frozen=True, eq=False)
class Selection:
    """The images that a query asks for.

    Attributes:
        rows: (n,) record numbers, in the order asked for.
        fits: (S,) mask of the boxes that fulfil what is asked of boxes.
    """

    rows: Rows
    fits: Mask


@dataclass(frozen=True, eq=False)
class Columns:
    """A set's columns, from which selections are computed.

    Attributes:
        classes: C, their number.
        splits: names; split: (N,) the index of each record's split.
        detections: None without predictions; changes: None without a report of them.
    """

    table: Table
    classes: int
    splits: tuple[str, ...]
    split: NDArray[np.int64]
    unions: Mapping[str, tuple[str, ...]]
    detections: Detections | None
    changes: Changes | None = None

    def select(self, query: Query, judged: Judged | None, listed: Rows | None) -> Selection:
        """Compute a selection.

        Args:
            judged: the detections at the query's score; None without any.
            listed: the records with the finding asked for; None if none is.
        """
        table = self.table
        fits = self._fits(query)
        count = np.bincount(table.image[fits], minlength=len(table))
        filtered = bool(query.classes or query.size or query.flag) and not (query.error or query.cell)
        least = max(query.least, 1) if filtered and query.most == LARGEST else query.least
        kept = (count >= least) & (count <= query.most)
        if query.split:
            names = self.unions.get(query.split, (query.split,))
            kept &= np.isin(self.split, [n for n, name in enumerate(self.splits) if name in names])
        if query.text:
            text = query.text.lower()
            kept &= np.fromiter((text in key.lower() for key in table.key), bool, len(table))
        if listed is not None:
            kept &= np.isin(np.arange(len(table)), listed)
        if query.change:
            kept &= np.isin(np.arange(len(table)), self.changes.records(query.change) if self.changes else [])
        score = np.zeros(len(table))
        if judged is not None and self.detections is not None:
            chosen, missed = self._errors(query, judged, fits)
            images = np.concatenate([self.detections.image[chosen], table.image[missed]])
            if query.error or query.cell:
                kept &= np.bincount(images, minlength=len(table)) > 0
            np.maximum.at(score, self.detections.image[chosen], self.detections.scores[chosen])
        elif query.error or query.cell:
            kept[:] = False
        rows = np.flatnonzero(kept)
        return Selection(rows[self._order(query, rows, count, judged, score)], fits)

    def errors(self, judged: Judged) -> NDArray[np.int64]:
        """Return (N,) the number of wrong detections and of missed boxes of each image."""
        assert self.detections is not None
        wrong = (judged.kind >= CLASS) & (judged.kind <= BACKGROUND)
        images = np.concatenate([self.detections.image[wrong], self.table.image[judged.missed]])
        return np.bincount(images, minlength=len(self.table))

    def _fits(self, query: Query) -> Mask:
        table = self.table
        fits = np.ones(len(table.boxes), bool)
        if query.classes:
            fits &= np.isin(table.labels, query.classes)
        if query.size:
            bounds = {"small": (-np.inf, SMALL), "medium": (SMALL, LARGE), "large": (LARGE, np.inf)}[query.size]
            areas = table.areas
            above = areas > bounds[0] if query.size == "large" else areas >= bounds[0]
            fits &= above & (areas < bounds[1] if query.size == "small" else areas <= bounds[1])
        if query.flag:
            fits &= table.flags & FLAGS[query.flag] > 0
        if query.change and self.changes:
            fits &= self.changes.boxes(query.change)
        return fits

    def _errors(self, query: Query, judged: Judged, fits: Mask) -> tuple[Mask, Mask]:
        """Return (K,) and (S,) masks of the detections and missed boxes that are asked for; without a kind, all."""
        assert self.detections is not None
        labels = self.detections.labels
        chosen, missed = judged.kind >= 0, judged.missed & fits
        if query.classes:
            chosen &= np.isin(labels, query.classes) | np.isin(judged.true, query.classes)
        if query.error:
            chosen &= judged.kind == (KINDS.index(query.error) if query.error != MISSED else -2)
            missed &= query.error == MISSED
        if query.cell:
            true, found = map(int, query.cell.split(","))
            chosen &= (judged.true == true) & (labels == found) & (judged.kind != IGNORED)
            missed &= (self.table.labels == true) & (found == self.classes)
        return chosen, missed

    def _order(self, query: Query, rows: Rows, count: Rows, judged: Judged | None, score: NDArray[np.float64]) -> Rows:
        name, table = query.sort.lstrip("-"), self.table
        values: NDArray[Any]
        if name == "key":
            values = np.argsort(np.argsort(table.key[rows], kind="stable"), kind="stable")
        elif name == "boxes":
            values = count[rows]
        elif name == "pixels":
            values = table.height[rows].astype(np.int64) * table.width[rows]
        elif name == "errors" and judged is not None:
            values = self.errors(judged)[rows]
        elif name == "score":
            values = score[rows]
        elif name == "changes" and self.changes is not None:
            values = self.changes.count[rows]
        else:
            values = rows
        return np.argsort(-values if query.sort.startswith("-") else values, kind="stable")
