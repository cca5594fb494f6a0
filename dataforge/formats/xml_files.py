"""XML annotation files, read incrementally and without entities."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from pathlib import Path

from dataforge.errors import FormatError
from dataforge.files import reading

_ILLEGAL = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def is_legal(text: str) -> bool:
    """Return True if XML 1.0 allows all characters of a text."""
    return not _ILLEGAL.search(text)


def check_legal(text: str, path: Path) -> str:
    """Return the text unchanged.

    Raises:
        FormatError: it contains a character that XML does not allow.
    """
    if not is_legal(text):
        raise FormatError(f"{path}: {text!r}: has a character that XML cannot hold")
    return text


def iterparse(path: Path) -> Iterator[tuple[str, ET.Element]]:
    """Yield the ("start" | "end", element) events of an XML file, which is read incrementally.

    Raises:
        FormatError: it cannot be read, is not XML, or has a document type, whose entities can expand to gigabytes.
    """
    parser: ET.XMLPullParser[ET.Element] = ET.XMLPullParser(("start", "end"))
    head: bytes | None = b""  # everything up to the first element: a document type can only occur there
    try:
        with reading(path), path.open("rb") as file:
            while data := file.read(1 << 16):
                if head is not None:
                    head += data
                    if b"<!DOCTYPE" in head.replace(b"\0", b""):  # NULs are UTF-16's
                        raise FormatError(f"{path}: declares a document type or an entity, which is not allowed here")
                parser.feed(data)
                for event in parser.read_events():
                    head = None
                    yield event  # type: ignore[misc]
        parser.close()
        yield from parser.read_events()  # type: ignore[misc]
    except (ET.ParseError, ValueError, LookupError) as error:
        raise FormatError(f"{path}: not XML: {error}") from None
