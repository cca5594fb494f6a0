"""Results of an ingest: counts, summary text, and the report file with one line per finding."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from dataforge.errors import ShardError, line_safe
from dataforge.files import writing
from dataforge.record import Finding, Record
from dataforge.shards.index import REPORT

EXAMPLES = 3  # findings shown per kind; the report file contains all


@dataclass
class Summary:
    """Summary of an ingest.

    Attributes:
        images, boxes: numbers accepted.
        refused_images: number of records left out; limited by `max_bad`.
        refused_boxes: number of findings about boxes, or labels of no known image, that were left out; limited by
            `max_bad_boxes`.
        reach: the highest coordinate of all boxes as they were read; small: the first record with boxes.
        firsts: split -> the number of the first item of the source that was accepted in it.
        chosen: True if a view or a class map left out boxes or images.
        findings: counts by (action, code); examples: the first few of each; first_refused: of the refused images;
            first_boxes: of the refused boxes.
        varied: kinds whose findings have different reasons.
    """

    out: Path
    images: int = 0
    boxes: int = 0
    refused_images: int = 0
    refused_boxes: int = 0
    chosen: bool = False
    reach: float = 0.0
    small: Record | None = field(default=None, compare=False, repr=False)  # of this run: others may resume it
    findings: Counter[tuple[str, str]] = field(default_factory=Counter)
    examples: dict[tuple[str, str], list[Finding]] = field(default_factory=dict)
    varied: set[tuple[str, str]] = field(default_factory=set)
    first_refused: list[Finding] = field(default_factory=list)
    first_boxes: list[Finding] = field(default_factory=list)
    firsts: dict[str, int] = field(default_factory=dict)

    @property
    def report(self) -> Path:
        return self.out / REPORT

    def count(self, finding: Finding) -> None:
        kind = (finding.action, finding.code)
        self.findings[kind] += 1
        examples = self.examples.setdefault(kind, [])
        if len(examples) < EXAMPLES:
            examples.append(finding)
        if finding.reason != examples[0].reason:
            self.varied.add(kind)
        if refuses_image(finding):
            self.refused_images += 1
            if len(self.first_refused) < EXAMPLES:
                self.first_refused.append(finding)
        elif finding.action == "refused" and (finding.code.startswith("view-") or finding.code == "class-dropped"):
            self.chosen = True
        elif finding.action == "refused":
            self.refused_boxes += 1
            if len(self.first_boxes) < EXAMPLES:
                self.first_boxes.append(finding)

    def facts(self) -> dict[str, Any]:
        """Return the contents as one JSON object."""
        counts: dict[str, dict[str, int]] = {"refused": {}, "repaired": {}, "noted": {}}
        for (action, code), count in sorted(self.findings.items()):
            counts[action][code] = count
        return {
            "out": str(self.out),
            "images": self.images,
            "boxes": self.boxes,
            "refused_images": self.refused_images,
            "refused_boxes": self.refused_boxes,
            "findings": counts,
            "report": str(self.report),
        }

    def text(self) -> str:
        """Return the findings by action and kind, each with its first examples."""
        lines = []
        for action in ("refused", "repaired", "noted"):
            for kind in (kind for kind in self.findings if kind[0] == action):
                examples = self.examples[kind]
                if (
                    action == "noted" and not examples[0].file and examples[0].scope == "set"
                ):  # of the whole set: in full
                    lines += [f"note: {kind[1]}: {line(finding)}" for finding in examples]
                    continue
                count = f"{action} {kind[1]}: {self.findings[kind]}"
                if kind not in self.varied:
                    lines.append(line_safe(f"{count} ({examples[0].reason})"))
                    examples = [replace(finding, reason="") for finding in examples]
                else:
                    lines.append(count)
                lines += [f"  {line(finding)}" for finding in examples]
        lines.append(f"full list: {self.report}" if lines else "no findings")
        return "\n".join(lines)

    def refusal(self, what: str, *, of: Literal["images", "boxes", "all"] = "images") -> str:
        """Return the reason why nothing was published, with the first refused images or boxes, or all findings."""
        every = [finding for examples in self.examples.values() for finding in examples]
        first = {"images": self.first_refused, "boxes": self.first_boxes, "all": every[:EXAMPLES]}[of]
        listed = [f"  {line(finding)}" for finding in first]
        counts = {"images": self.refused_images, "boxes": self.refused_boxes, "all": self.findings.total()}
        more = counts[of] - len(listed)
        if more > 0:
            listed.append(f"  and {more} more")
        return "\n".join([f"{what}; nothing was published", *listed, f"full list: {self.report}"])


def line(finding: Finding) -> str:
    """Return a finding as one line: file, key (with split and box number where relevant), value, reason."""
    plain = finding.file.endswith(finding.key) or Path(finding.file).stem == finding.key
    key = "" if plain else finding.key
    if finding.other is not None:
        key = f"{finding.split}: {finding.key}"
    if finding.box is not None:
        key = f"{key} box {finding.box}".lstrip()
    return line_safe(": ".join(part for part in (finding.file, key, finding.value, finding.reason) if part))


def refuses_image(finding: Finding) -> bool:
    return finding.action == "refused" and finding.scope == "image"


@contextmanager
def open_report(path: Path) -> Iterator[Callable[[dict[str, Any]], None]]:
    """Yield a function that adds a line to the report. The file is complete on exit."""

    with writing(path, ShardError):
        file = open(path, "w", encoding="utf-8", errors="surrogateescape")  # noqa: SIM115

    def write(facts: dict[str, Any]) -> None:
        with writing(path, ShardError):
            file.write(json.dumps(facts, ensure_ascii=False) + "\n")

    try:
        yield write
    finally:
        with writing(path, ShardError):
            file.close()
