"""One record of a source: whether its name can be stored, and its image, checked and repaired."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from dataforge.errors import FormatError, ImageError, TruncatedImageError
from dataforge.images.header import ImageInfo, probe, suffix_format
from dataforge.record import Finding, Record
from dataforge.shards.index import INDEX, JOURNAL, PART, REPORT
from dataforge.sources.checks import look
from dataforge.sources.repair import repair

Stored = tuple[Record, bytes, ImageInfo]


def check_key(record: Record, seen: set[tuple[str, str]]) -> Finding | None:
    """Return the reason why a record's name cannot be stored; None if it can.

    Args:
        seen: the (split, key) of the previous records; this record's is added.

    Raises:
        FormatError: its split name cannot be used as a folder name.
    """
    check_split(record.split)
    if not is_unicode(record.key):
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


def is_unicode(text: str) -> bool:
    return not any("\ud800" <= mark <= "\udfff" for mark in text)


def check_split(name: str) -> None:
    if name in ("", ".", "..", INDEX, REPORT, JOURNAL, PART) or any(mark in name for mark in "/\\\0"):
        raise FormatError(f"split {name!r}: cannot be a folder's name; expected a name such as train")
