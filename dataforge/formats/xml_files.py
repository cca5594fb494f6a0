"""XML annotation files, read piece by piece and without entities."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Iterator
from pathlib import Path

from dataforge.errors import FormatError


def iterparse(path: Path) -> Iterator[tuple[str, ET.Element]]:
    """The ("start" | "end", element) events of an XML file, which is read piece by piece.

    Raises:
        FormatError: it cannot be read, is not XML, or has a document type, where an entity can expand to gigabytes.
    """
    parser: ET.XMLPullParser[ET.Element] = ET.XMLPullParser(("start", "end"))
    head: bytes | None = b""  # all until the first element: a document type can only stand there
    try:
        with open(path, "rb") as file:
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
    except OSError as error:
        raise FormatError(f"{path}: cannot be read: {error.strerror}") from None
    except (ET.ParseError, ValueError, LookupError) as error:
        raise FormatError(f"{path}: not XML: {error}") from None
