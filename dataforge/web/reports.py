"""Reports that `dataforge diff`, `lint` and `stats` saved with `--json`, read to be shown over their sets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from dataforge.analysis.lint import run as lint
from dataforge.analysis.stats import class_rows, padding_rows, split_rows, spread_rows
from dataforge.errors import FormatError
from dataforge.formats import Severity
from dataforge.formats.json_files import read_json
from dataforge.record import Finding

EXPECTED = "what `dataforge diff`, `lint` or `stats` print with --json"
ANY = "any"  # change


class Place(Struct):
    split: str
    key: str
    boxes: int


class ReportedBox(Struct):
    box: tuple[float, float, float, float]
    flags: int
    name: str = msgspec.field(name="class")


class BoxChange(Struct):
    changes: list[str]
    old: ReportedBox | None = None
    new: ReportedBox | None = None


class ImageChange(Struct):
    changes: list[str]
    old: Place
    new: Place
    boxes: list[BoxChange]


class Classes(Struct):
    removed: list[str]
    added: list[str]
    renamed: list[tuple[str, str]]


class DiffReport(Struct):
    """`analysis.diff.Diff.facts`."""

    a: str
    b: str
    classes: Classes
    images: dict[str, int]
    boxes: dict[str, int]
    removed: list[Place]
    added: list[Place]
    changed: list[ImageChange]


class _Kind(Struct):
    code: str
    severity: Severity
    meaning: str
    count: int
    examples: list[dict[str, Any]]


class _Lint(Struct):
    images: int
    boxes: int
    findings: list[_Kind]


@dataclass(frozen=True)
class SavedReport:
    """A report.

    Attributes:
        kind: "diff", "lint" or "stats".
        about: a line on what it is of.
        tables: title, head, rows, and which field of the filter takes the first column's values ("" for none).
        content: what is laid over the set; None for "stats".
    """

    kind: str
    about: str
    tables: list[dict[str, Any]]
    content: DiffReport | lint.Report | None = None


def read_report(file: Path) -> SavedReport:
    """Read a report.

    Raises:
        FormatError: the file cannot be read, or is none of these reports.
    """
    facts = read_json(file, dict[str, Any], EXPECTED)
    if "changed" in facts:
        return _diff(read_json(file, DiffReport, EXPECTED))
    if "findings" in facts:
        return _lint(file, read_json(file, _Lint, EXPECTED))
    if "coco_areas" in facts:
        return _stats(file, facts)
    raise FormatError(f"{file}: has the keys {', '.join(facts) or 'none'}; expected {EXPECTED}")


def _diff(report: DiffReport) -> SavedReport:
    images = [
        [f"image {kind}" if kind in ("removed", "added") else kind, count] for kind, count in report.images.items()
    ]
    boxes = [[kind, count] for kind, count in report.boxes.items()]
    classes = [[kind, name] for kind in ("removed", "added") for name in getattr(report.classes, kind)]
    classes += [["renamed", f"{old} → {new}"] for old, new in report.classes.renamed]
    lone = [["removed", one.split, one.key, one.boxes] for one in report.removed]
    lone += [["added", one.split, one.key, one.boxes] for one in report.added]
    tables = [
        _table("Images", ("", "images"), images, "change"),
        _table("Boxes", ("", "boxes"), boxes, "change"),
        _table("Classes", ("", "class"), classes),
        _table("Images of one set alone", ("", "split", "name", "boxes"), lone),
    ]
    return SavedReport("diff", f"from {report.a} to {report.b}", [table for table in tables if table["rows"]], report)


def _lint(file: Path, given: _Lint) -> SavedReport:
    report = lint.Report(images=given.images, boxes=given.boxes)
    for kind in given.findings:
        try:
            examples = [Finding.from_facts(facts) for facts in kind.examples]
        except TypeError as error:
            raise FormatError(f"{file}: a finding of {kind.code}: {error}; expected {EXPECTED}") from None
        report.kinds[kind.code] = lint.Kind(kind.severity, kind.meaning, kind.count, examples)
    rows = [[code, kind.count, len(kind.examples), kind.severity, kind.meaning] for code, kind in report.sorted()]
    tables = [_table("Findings", ("code", "findings", "of these in the file", "severity", ""), rows, "lint")]
    return SavedReport("lint", f"{given.images:,} images, {given.boxes:,} boxes", tables, report)


def _stats(file: Path, facts: dict[str, Any]) -> SavedReport:
    parts = [("Splits", split_rows, "split"), ("Classes", class_rows, "class")]
    parts += [("Sizes and shapes", spread_rows, ""), ("Padding", padding_rows, "")]
    try:
        tables = [_table(title, *rows(facts), field) for title, rows, field in parts]
        about = f"{facts['images']:,} images, {facts['boxes']:,} boxes when it was written"
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise FormatError(f"{file}: {error!r}; expected {EXPECTED}") from None
    return SavedReport("stats", about, tables)


def _table(title: str, head: Sequence[str], rows: list[Any], field: str = "") -> dict[str, Any]:
    return {"title": title, "head": list(head), "rows": rows, "field": field}
