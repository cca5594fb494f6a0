"""Checks of a source or a shard folder: every record with the checks of ingest, then the set as a whole."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from dataforge.analysis.lint.alike import digest, twins
from dataforge.analysis.lint.codes import SEVERITIES, severity_and_meaning
from dataforge.analysis.lint.whole import SplitCounts, of_set, to_train_on
from dataforge.errors import ImageError, ShardError, counted
from dataforge.formats import Severity
from dataforge.images.decode import decode
from dataforge.images.hashing import hash_of, reduction
from dataforge.ingest.take import check_key, take
from dataforge.record import Finding, Record, Source
from dataforge.shards.as_source import source_of
from dataforge.shards.index import REPORT
from dataforge.shards.reader import Shards
from dataforge.sources.checks import CODES as NOTED
from dataforge.threads import Spread, cores, ordered

EXAMPLES = 100  # findings per code that are kept; all are counted
SEEN_AGAIN = NOTED | {"image-suffix"}  # notes of ingest that checking the shards finds again
WITHOUT_LABEL = ("no-label", "no-annotation")


@dataclass
class Kind:
    """All findings of one code."""

    severity: Severity
    meaning: str
    count: int = 0
    examples: list[Finding] = field(default_factory=list)

    def facts(self) -> dict[str, Any]:
        """Return a dictionary ready for JSON."""
        return vars(self) | {"examples": [finding.facts() for finding in self.examples]}


@dataclass
class Report:
    """Counts and findings of a set. `kinds` is indexed by code, and keeps `examples` findings of each."""

    examples: int = EXAMPLES
    images: int = 0
    boxes: int = 0
    kinds: dict[str, Kind] = field(default_factory=dict)

    def add(self, finding: Finding) -> None:
        if finding.code not in self.kinds:
            self.kinds[finding.code] = Kind(*severity_and_meaning(finding))
        kind = self.kinds[finding.code]
        kind.count += 1
        if len(kind.examples) < self.examples:
            kind.examples.append(finding)

    def sorted(self) -> list[tuple[str, Kind]]:
        """Return (code, kind), sorted by severity, the worst first, then by frequency."""
        return sorted(self.kinds.items(), key=lambda it: (SEVERITIES.index(it[1].severity), -it[1].count, it[0]))

    def count(self, severity: Severity) -> int:
        return sum(kind.count for kind in self.kinds.values() if kind.severity == severity)

    def facts(self) -> dict[str, Any]:
        """Return a dictionary ready for JSON."""
        return {
            "images": self.images,
            "boxes": self.boxes,
            **{severity: self.count(severity) for severity in SEVERITIES},
            "findings": [{"code": code, **kind.facts()} for code, kind in self.sorted()],
        }


@dataclass(frozen=True, slots=True)
class _Image:
    key: str
    file: str
    split: str
    digest: int
    hash: int


def lint(
    source: Source,
    name: str,
    known: Iterable[Finding] = (),
    progress: Callable[[int], None] | None = None,
    examples: int = EXAMPLES,
    spread: Spread = ordered,
    jobs: int | None = None,
) -> Report:
    """Check a source. Images are read and decoded in threads, at reduced size where that is sufficient.

    Args:
        name: name of the set in findings about the whole set.
        known: findings from elsewhere to include.
        progress: called after each record with the number of records processed.
        examples: findings per code that are kept; all are counted.
        spread: runs the jobs; jobs: number of threads, by default one per available core.

    Raises:
        FormatError: the source cannot continue after an error.
    """
    report = Report(examples)
    splits: dict[str, SplitCounts] = {}
    images: list[_Image] = []
    empty: list[Finding] = []
    unlabelled: set[str] = set()
    done = outlined = 0

    def add(finding: Finding) -> None:
        report.add(finding)
        if finding.code in WITHOUT_LABEL:
            unlabelled.add(finding.key)

    for finding in known:
        add(finding)
    for examined in spread(_examine, _checked(source), jobs or cores()):
        for finding in examined.findings:
            add(finding)
        done += examined.records
        if progress and examined.records:
            progress(done)
        record = examined.record
        if record is None:
            continue
        splits.setdefault(record.split, SplitCounts(np.zeros(len(source.classes), np.int64))).add(record)
        report.boxes += len(record.boxes)
        outlined += 0 if record.polygons is None else int((record.polygons.counts > 0).sum())
        if examined.hashes is not None:
            images.append(_Image(record.key, record.file, record.split, *examined.hashes))
        if examined.empty:
            empty.append(_noted(record, "image-empty", "", "no box; kept"))
    report.images = sum(split.images for split in splits.values())
    for finding in empty:
        if finding.key not in unlabelled:
            report.add(finding)
    if outlined:
        reason = "kept beside the boxes, which detectors are trained on"
        report.add(Finding("noted", "box-polygon", name, "", counted(outlined, "box"), reason, "set"))
    if splits:
        first = to_train_on(splits)
        names = [first, *(split for split in splits if split != first)]
        for finding in (*_twins(images, names), *of_set(source.classes, splits, name)):
            report.add(finding)
    return report


def lint_shards(shards: Shards, progress: Callable[[int], None] | None = None, **how: Any) -> Report:
    """Check a shard folder, and include the findings of its ingest.

    Args:
        progress: as in `lint`; how: further arguments of it.

    Raises:
        ShardError: it is a cache, or an image or the report is damaged.
    """
    if shards.codec != "keep":
        parent = shards.index["baked"]["parent"]
        raise ShardError(f"{shards.path}: is a cache; lint the shards that it was baked from, {parent}")
    return lint(source_of(shards), str(shards.path), _at_ingest(shards.path / REPORT), progress, **how)


def _at_ingest(path: Path) -> Iterator[Finding]:
    """Yield the findings of an ingest, except those that checking the shards finds again."""
    try:
        with path.open(encoding="utf-8", errors="surrogateescape") as lines:
            for line in lines:
                facts = json.loads(line)
                if "code" in facts and facts["code"] not in SEEN_AGAIN:
                    yield Finding.from_facts(facts)
    except FileNotFoundError:
        return
    except (OSError, ValueError, TypeError) as error:
        raise ShardError(f"{path}: cannot be read: {error}") from None


Checked = tuple[Record | Finding, Finding | None]


@dataclass(frozen=True, slots=True)
class _Examined:
    """What is known of an item.

    Attributes:
        records: 1, or 0 for a finding; empty: whether its annotations have no box.
        record: as ingest would store it, without the image's bytes; None if it is refused, or no record.
        hashes: the digest and hash of its image, unless damaged.
    """

    findings: list[Finding]
    records: int = 0
    empty: bool = False
    record: Record | None = None
    hashes: tuple[int, int] | None = None


def _checked(source: Source) -> Iterator[Checked]:
    """Yield each item of the source, and the finding about its key, if any."""
    keys: set[tuple[str, str]] = set()
    for item in source.records:
        yield item, item if isinstance(item, Finding) else check_key(item, keys)


def _examine(checked: Checked) -> _Examined:
    item, finding = checked
    if isinstance(item, Finding):
        return _Examined([item])
    if finding is not None:
        return _Examined([finding], 1)
    findings, stored = take(item)
    if stored is None:
        return _Examined(findings, 1)
    record, blob, info = stored
    hashes = None
    try:
        pixels = decode(blob, info.orientation, reduction(info.height, info.width))
        hashes = digest(blob), hash_of(pixels)
    except ImageError as error:
        findings.append(_noted(record, "image-damaged", "", str(error)))
    if isinstance(record.image, bytes):
        record = replace(record, image=b"")
    return _Examined(findings, 1, not len(item.boxes), record, hashes)


def _noted(record: Record, code: str, value: str, reason: str) -> Finding:
    return Finding("noted", code, record.file, record.key, value, reason, "image", split=record.split)


def _twins(images: list[_Image], names: list[str]) -> Iterator[Finding]:
    yield from twins(
        [image.key for image in images],
        [image.file for image in images],
        np.array([names.index(image.split) for image in images], np.int64),
        names,
        np.array([image.digest for image in images], np.uint64),
        np.array([image.hash for image in images], np.uint64),
    )
