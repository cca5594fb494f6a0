"""The ingest of records to shards: read, check, repair or refuse, write, and account for each record."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal
from zlib import crc32

import numpy as np

from dataforge import __version__
from dataforge.cloud.path import RemotePath, located
from dataforge.cloud.upload import staged
from dataforge.errors import ConfigError, FormatError, line_safe
from dataforge.ingest.cuts import Cuts, Place, image_size
from dataforge.ingest.journal import Journal, checksum, checksum_anywhere, file_sizes
from dataforge.ingest.limits import IngestError as IngestError
from dataforge.ingest.limits import Limits
from dataforge.ingest.report import Summary, open_report, refuses_image
from dataforge.ingest.take import Stored, check_key, check_split, is_unicode, take
from dataforge.record import Finding, Record, Source
from dataforge.shards.index import INDEX, JOURNAL, LINK, REPORT
from dataforge.shards.out_folder import claim
from dataforge.shards.stores.registry import store
from dataforge.shards.writer import SHARD_BYTES, ShardWriter
from dataforge.threads import cores, ordered

BATCH, BATCH_BYTES = 32, 1 << 20  # maximum that a thread takes at a time: fewer images if they are large


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
    part: tuple[int, int] | None = None,
) -> Summary:
    """Write a source as shards, and `out/ingest.jsonl`: one finding per line, the summary last.

    Shards are published only on success: an error or an interruption leaves in `out` the report and the input of
    `resume`: the closed shards and their journal.

    Args:
        out: a folder that does not exist, is empty, or contains the files of an unfinished ingest; or a URL like that.
            For a URL, each shard is made in a temporary folder, sent when it is closed, and removed there.
        max_bad: maximum number of refused images; refused boxes do not count.
        max_bad_boxes: maximum number of refused boxes; by default, at least one box must be left if any was refused
            and no view or class map chose among them.
        decode_check: also decode each image, to detect damaged pixel data; slow.
        source_name: the format's name, for the index.
        progress: called after each image with the number of images processed.
        jobs: number of threads that read and check images, by default one per available core; the files are the same.
        resume: keep the closed shards of an unfinished ingest, and continue after them. Every record in them must be
            unchanged; image contents are compared only by size and time.
        shard_bytes: a shard is closed once the source's images for it, also those refused, have this many bytes.
        made: how the set is made, as JSON: stored at the end of the report with this version and the date.
        part: (i, n) writes part i of n alone, from 1, for `parts.merge_parts`: its shards, as they are in the whole
            set, and `part.json` instead of the index. All annotations are read, and the images of these shards.

    Raises:
        IngestError: more images or boxes were refused than allowed, or none is left.
        ShardError: `out` cannot be written, or is not free, or the source has changed (`resume`).
        ConfigError: `out` is a URL of another kind, or to be resumed, or to hold a part.
        FormatError: the source met an error from which it cannot continue.
    """
    for name in source.unions:
        check_split(name)
    for name in source.classes:
        if not is_unicode(name):
            raise FormatError(f"class {line_safe(name)!r}: is not Unicode text")
    if store_name != LINK:
        store(store_name)  # an unknown one is an error before anything is written
    out = located(out)
    if resume and isinstance(out, RemotePath):
        raise ConfigError(f"{out}: --resume continues an ingest to a folder; one to a URL starts again")
    if part and isinstance(out, RemotePath):
        raise ConfigError(f"{out}: --part writes to a folder; `dataforge merge --parts` can publish to a URL")
    options = {"shard_bytes": shard_bytes, "decode_check": decode_check}
    begun = {
        "source": source_name,
        "store": store_name,
        **options,
        "depth": source.depth,
        "classes": source.classes,
        "class_ids": source.class_ids,
        "unions": dict(source.unions),
        "part": part,
    }
    summary, limits = Summary(out), Limits(max_bad, max_bad_boxes)
    stamp = {"dataforge": __version__, "date": datetime.now(tz=UTC).date().isoformat()} | dict(made or {})
    with (
        staged(out, INDEX, REPORT) as (folder, send),
        claim(folder, resume=resume) as lock,
        closing(Journal(folder, begun, resume=resume)) as journal,
        ShardWriter(
            folder,
            source.classes,
            source.class_ids,
            source.unions,
            store_name=store_name,
            source=source_name,
            depth=source.depth,
            frequencies=source.frequencies,
            ancestors=source.ancestors,
            closed=journal.shards,
            send=send,
            lock=lock,
        ) as writer,
    ):
        summary.boxes = sum(row["boxes"] for rows in journal.shards.values() for row in rows)
        stream = _Stream(source, journal, summary, Cuts(shard_bytes, part), part)
        with open_report(folder / REPORT) as write:
            for done in stream.items(decode_check, jobs or cores()):
                for finding in done.findings:
                    summary.count(finding)
                    write(finding.facts() | ({"item": done.item} if part else {}))
                _store(done, writer, journal, summary, max_bad)
                if progress:
                    progress(summary.images + summary.refused_images)
            journal.check_end()
            write(summary.facts() | {"made": stamp})
        limits.check(summary, whole=part is None)
        for row in writer.close():
            journal.close_shard(row)
        if part:
            facts = {"number": part, "options": options | asdict(limits), "made": stamp, "firsts": summary.firsts}
            sizes = {name: size for name, size in file_sizes(folder).items() if name != JOURNAL}
            writer.publish(facts | {"records": stream.records, "records_crc": stream.crc, "sizes": sizes})
        else:
            writer.publish()
    return summary


@dataclass(slots=True)
class _Done:
    """An item of the source, by its number. `stored` is set once its image has been read."""

    item: int
    state: Literal["found", "passed", "new"]  # a finding; a record in a closed shard; another record
    findings: list[Finding]
    record: Record | None = None
    split: str = ""
    checksum: int = 0
    stored: Stored | None = None
    place: Place | None = None


def _store(done: _Done, writer: ShardWriter, journal: Journal, summary: Summary, max_bad: int) -> None:
    """Account for an item, write its image, and close the shard that it fills."""
    if done.state == "new":
        journal.note(done.split, done.checksum, done.findings)
    accepted = done.stored is not None or (done.state == "passed" and not any(map(refuses_image, done.findings)))
    if accepted:
        summary.images += 1
        summary.firsts.setdefault(done.split, done.item)
        writer.open_split(done.split)
    if done.stored is not None:
        record = done.stored[0]
        summary.boxes += len(record.boxes)
        if summary.small is None and len(record.boxes):
            summary.small = record
    if done.place is None or summary.refused_images > max_bad:  # beyond `max_bad`, continue only to list all errors
        return
    if done.stored is not None:
        writer.add(*done.stored, number=done.place.shard)
    row = writer.end(done.split) if done.place.full else None
    if row:
        journal.close_shard(row)


class _Stream:
    """The items of a source on their way to the shards.

    Attributes:
        records, crc: of a part: the number of all records of the source, and the CRC-32 of their checksums.
    """

    def __init__(
        self, source: Source, journal: Journal, summary: Summary, cuts: Cuts, part: tuple[int, int] | None
    ) -> None:
        self._source, self._journal, self._summary = source, journal, summary
        self._cuts, self._part = cuts, part
        self.records = self.crc = 0

    def items(self, decode_check: bool, jobs: int) -> Iterator[_Done]:
        """Yield the items in order, with their images read in threads; of a part, only its own items."""
        if self._part:
            return _in_order(self._resumed(self._own(self._begin())), decode_check, self._source.depth, jobs)
        return self._placed(_in_order(self._resumed(self._begin()), decode_check, self._source.depth, jobs))

    def _begin(self) -> Iterator[_Done]:
        """Do the work that must follow the source's order, before images are read."""
        seen: set[tuple[str, str]] = set()
        for n, item in enumerate(self._source.records):
            if isinstance(item, Finding):
                yield _Done(n, "found", [item])
                continue
            self._summary.reach = max(self._summary.reach, float(np.fmax.reduce(item.boxes, axis=None, initial=0)))
            known = check_key(item, seen)
            yield _Done(n, "new", [known] if known else [], item, item.split)

    def _own(self, items: Iterable[_Done]) -> Iterator[_Done]:
        """Yield the records of this part's shards; the first part also has the findings between records."""
        assert self._part is not None
        for done in items:
            if done.record is None:
                if self._part[0] == 1:
                    yield done
                continue
            size = image_size(done.record)
            self.records += 1
            self.crc = crc32(checksum_anywhere(done.record, size).to_bytes(4, "little"), self.crc)
            done.place = self._cuts.place(done.split, size)
            if done.place.own:
                yield done

    def _resumed(self, items: Iterable[_Done]) -> Iterator[_Done]:
        """Yield the items; records that a closed shard accounts for get the findings of then."""
        for done in items:
            before = None if done.record is None else self._journal.passed(done.record)
            if before is not None:
                done.state, done.findings = "passed", before
            yield done

    def _placed(self, items: Iterable[_Done]) -> Iterator[_Done]:
        """Yield the items with their places, for which images that were read need not be looked for again."""
        for done in items:
            if done.record is not None:
                size = len(done.stored[1]) if done.stored else image_size(done.record)
                done.place = self._cuts.place(done.split, size)
            yield done


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
            if done.state == "new" and done.record is not None:
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
