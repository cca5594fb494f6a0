"""A set that is viewed: its columns, pictures of its images, and a model's detections beside its boxes."""

from __future__ import annotations

import threading
from functools import cache, lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dataforge.analysis.detections import KINDS, Detections, Judged, confusion, judge
from dataforge.analysis.lint import run as lint
from dataforge.analysis.stats import class_rows, split_rows, spread_rows, statistics
from dataforge.augment.executors import cpu
from dataforge.augment.layout import lay_out
from dataforge.augment.operations.registry import Recipe
from dataforge.images.draw import draw
from dataforge.shards.as_source import check_originals
from dataforge.shards.reader import Shards
from dataforge.web.changes import Changes
from dataforge.web.findings import Findings
from dataforge.web.reports import DiffReport, SavedReport
from dataforge.web.selection import MISSED, Columns, Query, Selection
from dataforge.web.session import thumbnail

PICTURES = 4096  # thumbnails that are kept, of about 10 KB each


class Gallery:
    """Shards, and what the page shows of them. Threads may share it.

    Args:
        detections: of a model, if there are any.
        recipe: for previews of augmentation; None for none.
        report: what a command said of the shards.

    Raises:
        ShardError: the shards are a cache, whose images are not the originals.
        ConfigError: the report is of other shards.
    """

    def __init__(
        self,
        shards: Shards,
        detections: Detections | None = None,
        recipe: Recipe | None = None,
        report: SavedReport | None = None,
    ) -> None:
        check_originals(shards)
        self.shards, self.table, self.recipe, self.report = shards, shards.table, recipe, report
        unions = {name: tuple(parts) for name, parts in shards.index["unions"].items()}
        splits = tuple(name for name in shards.splits if name not in unions)
        split = np.repeat(np.arange(len(splits)), [len(shards.splits[name]) for name in splits])

        @cache  # made only if a report or a check needs it
        def numbers() -> dict[tuple[str, str], int]:
            return {(splits[part], key): n for n, (part, key) in enumerate(zip(split, self.table.key, strict=True))}

        content = report and report.content
        self.changes = Changes(content, shards, numbers()) if isinstance(content, DiffReport) else None
        self.columns = Columns(self.table, len(shards.classes), splits, split, unions, detections, self.changes)
        self.findings = Findings(shards, numbers, content if isinstance(content, lint.Report) else None)
        self._lock = threading.Lock()
        self._judged = lru_cache(4)(self._judge)
        self._selected = lru_cache(16)(self._select)
        self._charts = lru_cache(8)(self._draw_charts)
        self.thumbnail = lru_cache(PICTURES)(self._thumbnail)

    def place(self, n: int) -> tuple[str, str]:
        """Return split and key of record n."""
        return self.columns.splits[self.columns.split[n]], self.table.key[n]

    def judged(self, conf: float) -> Judged | None:
        """Return what the detections are, at a minimum score; None without any."""
        with self._lock:  # threads that ask at once do the work once
            return self._judged(conf)

    def select(self, query: Query) -> Selection:
        if query.lint:
            self.findings.start()
        with self._lock:
            return self._selected(query, bool(query.lint) and self.findings.finished)

    def _judge(self, conf: float) -> Judged | None:
        detections = self.columns.detections
        return None if detections is None else judge(detections, self.shards, conf)

    def _select(self, query: Query, checked: bool) -> Selection:
        listed = self.findings.rows(query.lint) if query.lint else None
        return self.columns.select(query, self._judged(query.conf), listed)

    def row(self, n: int, fits: NDArray[np.bool_], conf: float) -> dict[str, Any]:
        """Return what a tile of the grid shows of record n.

        Returns:
            boxes: x1, y1, x2, y2, label, flags, and whether it fulfils what was asked for; found: x1, y1, x2, y2,
            label, score, and an index into `detections.KINDS`; others: `OtherBox`es.
        """
        table = self.table
        split, key = self.place(n)
        part = slice(int(table.offsets[n]), int(table.offsets[n + 1]))
        boxes = [
            (*box, label, flag, fit)
            for box, label, flag, fit in zip(
                np.round(table.boxes[part].astype(float), 2).tolist(),
                table.labels[part].tolist(),
                table.flags[part].tolist(),
                fits[part].tolist(),
                strict=True,
            )
        ]
        facts = {"n": n, "key": key, "split": split, "width": int(table.width[n]), "height": int(table.height[n])}
        others = self.changes.others.get(n, []) if self.changes else []
        return facts | {"boxes": boxes, "found": self._found(n, conf), "others": others}

    def _found(self, n: int, conf: float) -> list[tuple[Any, ...]]:
        detections, judged = self.columns.detections, self.judged(conf)
        if detections is None or judged is None:
            return []
        first, last = np.searchsorted(detections.image, [n, n + 1]).tolist()
        rows = [i for i in range(first, last) if judged.kind[i] >= 0]
        return [
            (
                *np.round(detections.boxes[i], 2).tolist(),
                int(detections.labels[i]),
                float(detections.scores[i]),
                int(judged.kind[i]),
            )
            for i in rows
        ]

    def image(self, n: int, query: Query) -> dict[str, Any]:
        """Return all about record n, and its neighbours in a selection."""
        table, judged, selection = self.table, self.judged(query.conf), self.select(query)
        part = slice(int(table.offsets[n]), int(table.offsets[n + 1]))
        missed = judged.missed[part].tolist() if judged else [False] * (part.stop - part.start)
        at = np.flatnonzero(selection.rows == n)
        position = int(at[0]) if len(at) else -1
        polygons = table.polygons.part(part.start, part.stop).lists() if table.polygons else []
        findings: list[dict[str, Any]] = [
            {"code": finding.code, "text": f"{finding.value} {finding.reason}".strip(), "box": finding.xyxy}
            for finding in self.findings.of(n)
        ]
        changes = [""] * (part.stop - part.start)
        if self.changes:
            findings += [{"code": kind, "text": text, "box": None} for kind, text in self.changes.notes.get(n, ())]
            changes = [", ".join(self.changes.words.get(row, ())) for row in range(part.start, part.stop)]
        facts = {
            "id": int(table.id[n]),
            "bytes": int(table.size[n]),
            "areas": table.areas[part].astype(float).tolist(),
            "polygons": [
                [np.round(ring.reshape(-1).astype(float), 2).tolist() for ring in rings] for rings in polygons
            ],
            "missed": missed,
            "changes": changes,
            "findings": findings,
            "position": position,
            "total": len(selection.rows),
            "before": int(selection.rows[position - 1]) if position > 0 else None,
            "after": int(selection.rows[position + 1]) if 0 <= position < len(selection.rows) - 1 else None,
        }
        return self.row(n, selection.fits, query.conf) | facts

    def _thumbnail(self, n: int, size: int) -> bytes:
        """Return record n as JPEG, at most `size` pixels on its longer side.

        Raises:
            DataError: it is damaged.
        """
        longest = max(int(self.table.height[n]), int(self.table.width[n]), 1)
        reduce = next((by for by in (8, 4, 2) if longest / by >= size), 1)
        return thumbnail(self.shards.pixels(n, reduce), min(size, longest))

    def augmented(self, n: int, size: int, seed: int) -> bytes:
        """Return record n as the recipe changes it, `size` x `size` pixels, with boxes drawn, as JPEG."""
        layout = lay_out(self.recipe or (), np.array([n]), self.table, (size, size), seed=seed)
        pixels = np.empty((size, size, 3), np.uint8)
        cpu.picture(layout, 0, self.shards.pixels, pixels)
        return thumbnail(draw(pixels, layout.boxes, layout.labels, self.shards.classes), size)

    def statistics(self, query: Query) -> dict[str, Any]:
        """Return the tables of a selection's statistics."""
        facts = self._statistics(query)
        heads = {"splits": split_rows(facts), "classes": class_rows(facts), "spreads": spread_rows(facts)}
        tables = {name: {"head": list(head), "rows": rows} for name, (head, rows) in heads.items()}
        return {"images": facts["images"], "boxes": facts["boxes"], "areas": facts["coco_areas"], **tables}

    def charts(self, query: Query) -> dict[str, tuple[str, bytes]]:
        """Return file name -> (caption, PNG)."""
        with self._lock:  # the charts set matplotlib's options for the whole process while they are drawn
            return self._charts(query, query.lint != "" and self.findings.finished)

    def _draw_charts(self, query: Query, checked: bool) -> dict[str, tuple[str, bytes]]:
        from dataforge.analysis.charts import draw as draw_charts  # imports matplotlib's axes: 0.5 s

        return draw_charts(self._statistics(query, self._selected(query, checked)))

    def _statistics(self, query: Query, selection: Selection | None = None) -> dict[str, Any]:
        rows = np.sort((selection or self.select(query)).rows)
        bounds = np.searchsorted(self.columns.split[rows], np.arange(len(self.columns.splits) + 1))
        parts = {name: np.arange(bounds[i], bounds[i + 1]) for i, name in enumerate(self.columns.splits)}
        return statistics(self.table.records(rows), self.shards.classes, parts)

    def errors(self, query: Query) -> dict[str, Any]:
        """Return the cells of the confusion matrix that are not 0, and how many detections are of each kind."""
        detections, judged = self.columns.detections, self.judged(query.conf)
        if detections is None or judged is None:
            return {"cells": [], "kinds": []}
        counts = confusion(detections, judged, self.shards)
        cells = [{"true": i, "found": j, "count": int(counts[i, j])} for i, j in np.argwhere(counts).tolist()]
        of_kind = np.bincount(judged.kind[judged.kind >= 0], minlength=len(KINDS)).tolist()
        counted = [*zip(KINDS, of_kind, strict=True), (MISSED, int(judged.missed.sum()))]
        return {"cells": cells, "kinds": [{"kind": kind, "count": count} for kind, count in counted]}
