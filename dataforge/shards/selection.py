"""The records and boxes of tables that a view keeps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from dataforge.polygons import offsets_of
from dataforge.record import relabelled
from dataforge.shards.table import Table
from dataforge.sources.view import View


def labelled(table: Table, view: View, label_of: NDArray[np.int32]) -> Table:
    """Return the table with the view's labels.

    Args:
        label_of: the view's label of each stored one, -1 for classes outside it.
    """
    if not view.classes:
        return table
    return replace(table, labels=label_of[table.labels], judged=relabelled(table.judged, label_of))


def kept_boxes(view: View, table: Table) -> NDArray[np.bool_] | None:
    """Return the (S,) mask of the boxes that the view keeps; None for all.

    Args:
        table: `labelled`, in pixels of the source images.
    """
    why = view.reasons(table.boxes, table.labels, table.flags, table.areas)
    return None if why is None or not why.any() else why == 0


def kept_rows(
    view: View, table: Table, kept: NDArray[np.bool_] | None, splits: Mapping[str, slice]
) -> NDArray[np.int64] | None:
    """Return the numbers of the stored records that the view keeps, ascending; None for all.

    Args:
        kept: as of `kept_boxes`.
        splits: the records of each split, in their order.
    """
    stays = np.ones(len(table), bool)
    if view.samples:
        for part in splits.values():
            stays[part] = view.drawn(table.key[part])
    if view.empty == "drop":
        stays &= (np.diff(table.offsets) if kept is None else _counts(kept, table.offsets)) > 0
    parts = [np.nonzero(stays[part])[0][: view.limit] + part.start for part in splits.values()]
    rows = np.concatenate(parts) if parts else np.zeros(0, np.int64)
    return None if len(rows) == len(table) else rows


def selected(table: Table, kept: NDArray[np.bool_] | None, rows: NDArray[np.int64] | None) -> Table:
    """Return the part of a `labelled` table that is kept; arguments as of `kept_boxes` and `kept_rows`."""
    if kept is not None:
        offsets = offsets_of(_counts(kept, table.offsets))
        columns = {name: getattr(table, name)[kept] for name in ("boxes", "labels", "flags", "areas")}
        table = table.change(lambda polygons: polygons.take(np.flatnonzero(kept)), offsets=offsets, **columns)
    return table if rows is None else table.records(rows)


def _counts(kept: NDArray[np.bool_], offsets: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return (N,) the number of kept boxes per record, given (S,) boxes and (N + 1,) offsets."""
    return np.diff(offsets_of(kept)[offsets])
