"""The ingest of records to shards: read, check, repair or refuse, write, and account for each record."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import numpy as np

from dataforge import __version__
from dataforge.errors import FormatError, ImageError, TruncatedImageError
from dataforge.images.header import ImageInfo, probe, suffix_format
from dataforge.ingest.journal import Journal, checksum
from dataforge.ingest.report import Summary, line_safe, open_report, refuses_image
from dataforge.record import Finding, Record, Source
from dataforge.shards.index import INDEX, JOURNAL, REPORT
from dataforge.shards.writer import SHARD_BYTES, ShardWriter
from dataforge.sources.checks import look
from dataforge.sources.repair import repair
from dataforge.threads import cores, ordered

BATCH, BATCH_BYTES = 32, 1 << 20  # maximum that a thread takes at a time: fewer images if they are large
Stored = tuple[Record, bytes, ImageInfo]


class IngestError(FormatError):
    """Too many images or boxes were refused, so nothing was published. `summary` contains the details."""

    def __init__(self, text: str, summary: Summary) -> None:
        super().__init__(text)
        self.summary = summary


def ingest(
    source: Source,
    out: Path,
    *,
    max_bad: int = 0,
    max_bad_boxes: int | None = None,
    decode_check: bool = False,
    store_name: str = "lmdb",
    source_name: str = "",
    progress: Callable[[int], None] | None = None,
    jobs: int | None = None,
    resume: bool = False,
    shard_bytes: int = SHARD_BYTES,
    made: Mapping[str, Any] | None = None,
) -> Summary:
    """Write a source as shards, and `out/ingest.jsonl`: one finding per line, the summary last.

    Shards are published only on success: an error or an interruption leaves in `out` the report and the input of
    `resume`: the closed shards and their journal.

    Args:
        out: a folder that does not exist, is empty, or contains the files of an unfinished ingest.
        max_bad: maximum number of refused images; refused boxes do not count.
        max_bad_boxes: maximum number of refused boxes; by default, at least one box must be left if any was refused
            and no view or class map chose among them.
        decode_check: also decode each image, to detect damaged pixel data; slow.
        source_name: the format's name, for the index.
        progress: called after each image with the number of images processed.
        jobs: number of threads that read and check images, by default one per available core; the files are the same.
        resume: keep the closed shards of an unfinished ingest, and continue after them. Every record in them must be
            unchanged; image contents are compared only by size and time.
        shard_bytes: a shard is closed once it contains this many bytes of images.
        made: how the set is made, as JSON: stored at the end of the report with this version and the date.

    Raises:
        IngestError: more images or boxes were refused than allowed, or none is left.
        ShardError: `out` cannot be written, or is not free, or the source has changed (`resume`).
        FormatError: the source met an error from which it cannot continue.
    """
    for name in source.unions:
        _check_split(name)
    for name in source.classes:
        if not _is_unicode(name):
            raise FormatError(f"class {line_safe(name)!r}: is not Unicode text")
    summary = Summary(out)
    begun = {
        "source": source_name,
        "store": store_name,
        "shard_bytes": shard_bytes,
        "decode_check": decode_check,
        "depth": source.depth,
        "classes": source.classes,
        "class_ids": source.class_ids,
        "unions": dict(source.unions),
    }
    with (
        closing(Journal(out, begun, resume=resume)) as journal,
        ShardWriter(
            out,
            source.classes,
            source.class_ids,
            source.unions,
            store_name=store_name,
            shard_bytes=shard_bytes,
            source=source_name,
            depth=source.depth,
            frequencies=source.frequencies,
            closed=journal.shards,
        ) as writer,
    ):
        summary.boxes = sum(row["boxes"] for rows in journal.shards.values() for row in rows)
        with open_report(summary.report) as write:
            for done in _in_order(
                _begin(source.records, journal, summary), decode_check, source.depth, jobs or cores()
            ):
                for finding in done.findings:
                    summary.count(finding)
                    write(finding.facts())
                if done.state == "passed":
                    refused = any(map(refuses_image, done.findings))
                    summary.images += not refused
                    if not refused:
                        writer.open_split(done.split)
                elif done.state == "new":
                    journal.note(done.split, done.checksum, done.findings)
                if done.stored is not None:
                    summary.images += 1
                    summary.boxes += len(done.stored[0].boxes)
                    if summary.small is None and len(done.stored[0].boxes):
                        summary.small = done.stored[0]
                    # beyond `max_bad`, continue only to list all errors
                    row = writer.add(*done.stored) if summary.refused_images <= max_bad else None
                    if row:
                        journal.close_shard(row)
                if progress:
                    progress(summary.images + summary.refused_images)
            journal.check_end()
            stamp = {"dataforge": __version__, "date": datetime.now(tz=UTC).date().isoformat()}
            write(summary.facts() | {"made": stamp | dict(made or {})})
        if summary.refused_images > max_bad:
            what = f"refused images: {summary.refused_images}, --max-bad allows {max_bad}"
            raise IngestError(summary.refusal(what), summary)
        if summary.images == 0:
            raise IngestError(summary.refusal("no image is left"), summary)
        lost = summary.refused_boxes
        if max_bad_boxes is not None and lost > max_bad_boxes:
            what = f"refused boxes: {lost}, --max-bad-boxes allows {max_bad_boxes}"
            raise IngestError(summary.refusal(what, of_boxes=True), summary)
        if max_bad_boxes is None and lost and summary.boxes == 0 and not summary.chosen:
            what = f"no box is left of those annotated, {lost} were refused (--max-bad-boxes {lost} allows this)"
            raise IngestError(summary.refusal(what, of_boxes=True), summary)
        if summary.boxes and summary.reach <= 1 and summary.small is not None:
            raise IngestError(summary.refusal(_within_a_pixel(summary, summary.small)), summary)
        for row in writer.close():
            journal.close_shard(row)
        writer.publish()
    return summary


@dataclass(slots=True)
class _Done:
    """An item of the source. `record` is set until its image has been read."""

    state: Literal["found", "passed", "new"]  # a finding; a record in a closed shard; another record
    findings: list[Finding]
    split: str = ""
    record: Record | None = None
    checksum: int = 0
    stored: Stored | None = None


def _within_a_pixel(summary: Summary, record: Record) -> str:
    """Return the reason to refuse a set whose boxes are all smaller than a pixel, with both readings of one of them."""
    box = record.boxes[0].astype(float)
    scaled = box * [record.width, record.height, record.width, record.height]
    pixels, fractions = (", ".join(f"{number:.6g}" for number in numbers.tolist()) for numbers in (box, scaled))
    return (
        f"all {summary.boxes} boxes lie within the first pixel of their images, as fractions taken for pixels do: "
        f"{record.key}: xyxy [{pixels}], or [{fractions}] of {record.width}x{record.height} "
        "(coco and table take --unit unit)"
    )


def _begin(items: Iterable[Record | Finding], journal: Journal, summary: Summary) -> Iterator[_Done]:
    """Do the work that must follow the source's order, before images are read."""
    seen: set[tuple[str, str]] = set()
    for item in items:
        if isinstance(item, Finding):
            yield _Done("found", [item])
            continue
        summary.reach = max(summary.reach, float(np.fmax.reduce(item.boxes, axis=None, initial=0)))
        before = journal.passed(item)
        known = check_key(item, seen)
        if before is not None:
            yield _Done("passed", before, item.split)
        else:
            yield _Done("new", [known] if known else [], item.split, item)


def _in_order(items: Iterator[_Done], decode_check: bool, depth: str, jobs: int) -> Iterator[_Done]:
    """Yield the items in order, with their images read in threads.

    A thread takes several at a time, since handing over costs as much as a small image; fewer if they are large, so
    that the number of waiting bytes does not grow with them.
    """
    limit = 1

    def batches() -> Iterator[list[_Done]]:
        batch: list[_Done] = []
        try:
            for item in items:
                batch.append(item)
                if len(batch) >= limit:
                    yield batch
                    batch = []
        except Exception:  # earlier items are processed first, as if items came one by one
            if batch:
                yield batch
            raise
        if batch:
            yield batch

    def read(batch: list[_Done]) -> list[_Done]:
        nonlocal limit
        for done in batch:
            if done.record is not None:
                done.checksum = checksum(done.record)
                if not done.findings:
                    done.findings, done.stored = take(done.record, decode_check, depth)
        held = sum(len(done.stored[1]) for done in batch if done.stored)
        limit = max(1, min(BATCH, BATCH_BYTES * len(batch) // max(held, 1)))
        return batch

    if jobs == 1:
        for batch in batches():
            yield from read(batch)
        return
    # the caller writes meanwhile and counts as a thread; but decoding releases the GIL, and writing takes little time
    for batch in ordered(read, batches(), jobs if decode_check else jobs - 1):
        yield from batch


def check_key(record: Record, seen: set[tuple[str, str]]) -> Finding | None:
    """Return the reason why a record's name cannot be stored; None if it can.

    Args:
        seen: the (split, key) of the previous records; this record's is added.

    Raises:
        FormatError: its split name cannot be used as a folder name.
    """
    _check_split(record.split)
    if not _is_unicode(record.key):
        return _refused(record, "image-path", "", "the name is not Unicode text")
    if (record.split, record.key) in seen:
        reason = f"a second record of this image in its split ({record.origin})"
        return _refused(record, "image-twice", record.split, reason)
    seen.add((record.split, record.key))
    return None


def take(record: Record, decode_check: bool = False, depth: str = "scale") -> tuple[list[Finding], Stored | None]:
    """Read a record's image; return the findings on both, and the data to store unless it is refused.

    Args:
        decode_check: also decode the image.
        depth: as in `Source`, for the finding about images of more than 8 bits.
    """
    findings: list[Finding] = []
    stored = None
    for made in _read(record, decode_check, depth):
        if isinstance(made, Finding):
            findings.append(made)
        else:
            stored = made
    return findings, stored


def _read(record: Record, decode_check: bool, depth: str) -> Iterator[Finding | Stored]:
    try:
        blob = record.image.read_bytes() if isinstance(record.image, Path) else record.image
        info = probe(blob)
        if decode_check:
            from dataforge.images.decode import decode

            decode(blob, info.orientation)
    except FileNotFoundError:
        yield _refused(record, "image-missing", "", f"no such file, but {record.origin} names it")
        return
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        reason = f"cannot be read: {getattr(error, 'strerror', None) or error}"
        yield _refused(record, "image-unreadable", "", reason)
        return
    except ImageError as error:
        code = "image-truncated" if isinstance(error, TruncatedImageError) else "image-unreadable"
        yield _refused(record, code, "", str(error))
        return
    promised = suffix_format(record.key)
    if promised and promised != info.format:
        reason = f"is a {info.format} by its content; kept as it is"
        suffix = record.key.rpartition(".")[2]
        yield Finding("noted", "image-suffix", record.file, record.key, suffix, reason, "image", split=record.split)
    record, findings = repair(record, info)
    yield from findings
    yield from look(record, info, depth)
    yield record, blob, info


def _refused(record: Record, code: str, value: str, reason: str) -> Finding:
    return Finding("refused", code, record.file, record.key, value, reason, "image", split=record.split)


def _is_unicode(text: str) -> bool:
    return not any("\ud800" <= mark <= "\udfff" for mark in text)


def _check_split(name: str) -> None:
    if name in ("", ".", "..", INDEX, REPORT, JOURNAL) or any(mark in name for mark in "/\\\0"):
        raise FormatError(f"split {name!r}: cannot be a folder's name; expected a name such as train")
