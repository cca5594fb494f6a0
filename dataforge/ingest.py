"""From a format's records to shards: read, check, mend or refuse, write, and account for every one of them."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from dataforge.errors import FormatError, ImageError, ShardError
from dataforge.image import ImageInfo, probe, suffix_format
from dataforge.mend import clean, fit
from dataforge.record import Finding, Record, Source
from dataforge.shards import INDEX, REPORT
from dataforge.shards.writer import ShardWriter

EXAMPLES = 3  # findings of a kind that are shown; the report file holds all


@dataclass
class Summary:
    """What an ingest did.

    Attributes:
        images, boxes: those that were taken.
        refused_images: whole records that were left out; this is what `max_bad` limits.
        findings: how often, by (action, code); examples: the first few of each; first_refused: of the images.
        varied: the kinds whose findings give different reasons.
    """

    out: Path
    images: int = 0
    boxes: int = 0
    refused_images: int = 0
    findings: Counter[tuple[str, str]] = field(default_factory=Counter)
    examples: dict[tuple[str, str], list[Finding]] = field(default_factory=dict)
    varied: set[tuple[str, str]] = field(default_factory=set)
    first_refused: list[Finding] = field(default_factory=list)

    @property
    def report(self) -> Path:
        return self.out / REPORT

    def facts(self) -> dict[str, Any]:
        """As one JSON object."""
        found: dict[str, dict[str, int]] = {"refused": {}, "repaired": {}, "noted": {}}
        for (action, code), count in sorted(self.findings.items()):
            found[action][code] = count
        return {
            "out": str(self.out),
            "images": self.images,
            "boxes": self.boxes,
            "refused_images": self.refused_images,
            "findings": found,
            "report": str(self.report),
        }

    def text(self) -> str:
        """The findings, by action and kind, each with its first examples."""
        lines = []
        for action in ("refused", "repaired", "noted"):
            for kind in (kind for kind in self.findings if kind[0] == action):
                examples = self.examples[kind]
                count = f"{action} {kind[1]}: {self.findings[kind]}"
                if kind not in self.varied:
                    lines.append(line_safe(f"{count} ({examples[0].reason})"))
                    examples = [replace(finding, reason="") for finding in examples]
                else:
                    lines.append(count)
                lines += [f"  {line(finding)}" for finding in examples]
        lines.append(f"full list: {self.report}" if lines else "nothing was refused, repaired or noted")
        return "\n".join(lines)


class IngestError(FormatError):
    """Too much had to be refused, so nothing was published. `summary` says what."""

    def __init__(self, text: str, summary: Summary) -> None:
        super().__init__(text)
        self.summary = summary


def line(finding: Finding) -> str:
    """A finding in one line: file, key, value, reason."""
    plain = finding.file.endswith(finding.key) or Path(finding.file).stem == finding.key
    where = [finding.file] if plain else [finding.file, finding.key]
    return line_safe(": ".join(part for part in (*where, finding.value, finding.reason) if part))


def line_safe(text: str) -> str:
    """Text that any terminal takes: what is not Unicode in a file's name is shown as an escape."""
    return text.encode("utf-8", "backslashreplace").decode()


def ingest(
    source: Source,
    out: Path,
    *,
    max_bad: int = 0,
    decode_check: bool = False,
    store_name: str = "lmdb",
    source_name: str = "",
    progress: Callable[[int], None] | None = None,
) -> Summary:
    """Write a source as shards, and `out/ingest.jsonl`: one finding a line, the summary last.

    Nothing is published unless all went well: an error or an interruption leaves `out` with its report alone.

    Args:
        out: a folder that does not exist, is empty, or holds what an unfinished ingest left.
        max_bad: how many images may be refused; refused boxes do not count.
        decode_check: decode each image too, so that damage within its pixels is found; slow.
        source_name: the format's name, for the index.
        progress: called with the number of images dealt with, after each.

    Raises:
        IngestError: more images were refused than `max_bad`, or none is left.
        ShardError: `out` cannot be written, or is not free.
        FormatError: the source found something that it cannot go on from.
    """
    for name in source.unions:
        _check_split(name)
    for name in source.classes:
        if not _is_unicode(name):
            raise FormatError(f"class {line_safe(name)!r}: is not Unicode text")
    summary = Summary(out)
    seen: set[tuple[str, str]] = set()
    with ShardWriter(
        out, source.classes, source.class_ids, source.unions, store_name=store_name, source=source_name
    ) as writer:
        with _report(summary.report) as write:
            for item in source.records:
                made = [item] if isinstance(item, Finding) else take(item, seen, decode_check)
                for one in made:
                    if isinstance(one, Finding):
                        _count(one, summary)
                        write(asdict(one))
                        continue
                    record, blob, info = one
                    summary.images += 1
                    summary.boxes += len(record.boxes)
                    if summary.refused_images <= max_bad:  # else it goes on only to list all that is wrong
                        writer.add(record, blob, info)
                if progress:
                    progress(summary.images + summary.refused_images)
            write(summary.facts())
        if summary.refused_images > max_bad:
            raise _refusal(summary, f"refused images: {summary.refused_images}, --max-bad allows {max_bad}")
        if summary.images == 0:
            raise _refusal(summary, "no image is left")
        writer.publish()
    return summary


def take(
    record: Record, seen: set[tuple[str, str]], decode_check: bool = False
) -> Iterator[Finding | tuple[Record, bytes, ImageInfo]]:
    """What is wrong with a record; and, unless it is refused, the record, image and header as they are stored.

    Args:
        seen: the (split, key) of the records before it; this one's is added.
    """
    _check_split(record.split)
    file = str(record.image) if isinstance(record.image, Path) else record.origin

    def refused(code: str, value: str, reason: str) -> Finding:
        return Finding("refused", code, file, record.key, value, reason, "image")

    if not _is_unicode(record.key):
        yield refused("image-path", "", "the name is not Unicode text")
        return
    if (record.split, record.key) in seen:
        yield refused("image-twice", record.split, f"a second record of this image in its split ({record.origin})")
        return
    seen.add((record.split, record.key))
    try:
        blob = record.image.read_bytes() if isinstance(record.image, Path) else record.image
        info = probe(blob)
        if decode_check:
            from dataforge.decode import decode

            decode(blob, info.orientation)
    except FileNotFoundError:
        yield refused("image-missing", "", f"no such file, but {record.origin} names it")
        return
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        yield refused("image-unreadable", "", f"cannot be read: {getattr(error, 'strerror', None) or error}")
        return
    except ImageError as error:
        yield refused("image-unreadable", "", str(error))
        return
    promised = suffix_format(record.key)
    if promised and promised != info.format:
        reason = f"is a {info.format} by its content; kept as it is"
        yield Finding("noted", "image-suffix", file, record.key, record.key.rpartition(".")[2], reason, "image")
    record, found = fit(record, info, file)
    yield from found
    record, found = clean(record)
    yield from found
    yield record, blob, info


def _is_unicode(text: str) -> bool:
    return not any("\ud800" <= mark <= "\udfff" for mark in text)


def _check_split(name: str) -> None:
    if name in ("", ".", "..", INDEX, REPORT) or any(mark in name for mark in "/\\\0"):
        raise FormatError(f"split {name!r}: cannot be a folder's name; expected a name such as train")


def _refusal(summary: Summary, what: str) -> IngestError:
    listed = [f"  {line(finding)}" for finding in summary.first_refused]
    more = summary.refused_images - len(listed)
    if more > 0:
        listed.append(f"  and {more} more")
    text = "\n".join([f"{what}; nothing was published", *listed, f"full list: {summary.report}"])
    return IngestError(text, summary)


def _count(finding: Finding, summary: Summary) -> None:
    kind = (finding.action, finding.code)
    summary.findings[kind] += 1
    examples = summary.examples.setdefault(kind, [])
    if len(examples) < EXAMPLES:
        examples.append(finding)
    if finding.reason != examples[0].reason:
        summary.varied.add(kind)
    if finding.action == "refused" and finding.scope == "image":
        summary.refused_images += 1
        if len(summary.first_refused) < EXAMPLES:
            summary.first_refused.append(finding)


@contextmanager
def _report(path: Path) -> Iterator[Callable[[dict[str, Any]], None]]:
    """A function that adds a line to the report. The file is whole when this ends."""

    def failed(error: OSError) -> ShardError:
        return ShardError(f"{path}: cannot be written: {error.strerror}")

    try:
        file = open(path, "w", encoding="utf-8", errors="surrogateescape")  # noqa: SIM115
    except OSError as error:
        raise failed(error) from None

    def write(facts: dict[str, Any]) -> None:
        try:
            file.write(json.dumps(facts, ensure_ascii=False) + "\n")
        except OSError as error:
            raise failed(error) from None

    try:
        yield write
    finally:
        try:
            file.close()
        except OSError as error:
            raise failed(error) from None
