"""Reading image file headers, without decoding pixels."""

from __future__ import annotations

import io
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import PIL.features
import PIL.Image
import PIL.TiffImagePlugin
import PIL.WebPImagePlugin

from dataforge.errors import ImageError, TruncatedImageError
from dataforge.files import parse_start

MAX_PIXELS = 1 << 28  # 268 megapixels: a larger image is treated as an attack or a mistake
HEAD = 1 << 13  # bytes in which the header of a plain JPEG ends
TAIL = 64  # bytes that are searched for an image's end marker
_BUILT_IN = {"AVIF": "avif", "JPEG2000": "jpg_2000"}  # Pillow may be built without these
FORMATS = (
    *("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF", "PPM"),
    *(name for name, feature in _BUILT_IN.items() if PIL.features.check(feature)),
)
SUFFIX_OF = {
    **dict.fromkeys((".jpg", ".jpeg", ".jpe", ".jfif"), "JPEG"),
    **{".png": "PNG", ".webp": "WEBP", ".bmp": "BMP", ".gif": "GIF", ".avif": "AVIF"},
    **dict.fromkeys((".tif", ".tiff"), "TIFF"),
    **dict.fromkeys((".ppm", ".pgm"), "PPM"),
    **dict.fromkeys((".jp2", ".j2k"), "JPEG2000"),
    # pictures as well, which `probe` refuses with the name of their format: its decoders are under the LGPL
    **dict.fromkeys((".heic", ".heif"), "HEIC"),
    **{".jxl": "JPEG XL"},  # read with the extra `jxl`
}
SUFFIXES = tuple(SUFFIX_OF)
_MARKED = ((0, b"\xff\xd8\xff", "JPEG"), (0, b"\x89PNG", "PNG"), (8, b"WEBP", "WEBP"))  # formats that define their end
_HEIC = (b"ftypheic", b"ftypheix", b"ftypmif1", b"ftyphevc")


DEPTHS = {  # how samples of more than 8 bits become 8: see `dataforge.images.decode.eight_bits`
    "scale": "by the image's own maximum",
    "high-byte": "by their upper 8 bits",
    "percentile": "from the 1st to the 99th percentile of the image",
}


@dataclass(frozen=True)
class ImageInfo:
    """Properties read from an image header.

    Attributes:
        format: "JPEG", "PNG", ... by content, not by file name.
        height, width: pixels, after the EXIF orientation.
        orientation: EXIF orientation, 1..8; 1 if absent.
        mode: Pillow's name for the pixel layout, "RGB", "L", "CMYK", "I;16", ...
    """

    format: str
    height: int
    width: int
    orientation: int
    mode: str


def probe(data: bytes | memoryview) -> ImageInfo:
    """Read an image's header, and check that its end is present.

    Raises:
        TruncatedImageError: a JPEG, PNG or WebP that cannot be read and has no end marker.
        ImageError: empty, damaged, not an image, or too many pixels. The text contains only the reason, not the file.
    """
    if len(data) == 0:
        raise ImageError("the file is empty")
    plain = _plain_jpeg(data) if _ends_well(data, "JPEG") else None
    if plain:
        return plain
    try:
        with PIL.Image.open(io.BytesIO(data), formats=FORMATS) as image:
            width, height = image.size
            check_size(height, width)
            kind, mode = str(image.format), image.mode
            orientation = image.getexif().get(0x0112, 1) if _may_have_exif(data, kind) else 1
            if not _ends_well(data, kind):
                image.load()
    except ImageError:
        raise
    except (OSError, SyntaxError, ValueError, EOFError, PIL.Image.DecompressionBombError) as error:
        known = not isinstance(error, PIL.UnidentifiedImageError)
        if any(data[at : at + len(mark)] == mark and not _ends_well(data, kind) for at, mark, kind in _MARKED):
            raise TruncatedImageError(f"cannot be read: {error if known else 'it is cut short'}") from None
        if bytes(data[4:12]).startswith(_HEIC):
            raise ImageError("is HEIC, which is not read here; convert it to JPEG, PNG or WebP") from None
        if is_jxl(data):
            return _jxl_info(data)
        what = f"cannot be read: {error}" if known else f"not an image of a supported format ({', '.join(FORMATS)})"
        raise ImageError(what) from None
    if orientation not in range(1, 9):
        orientation = 1
    if orientation >= 5:
        height, width = width, height
    return ImageInfo("JPEG" if kind == "MPO" else kind, height, width, orientation, mode)


def check_size(height: int, width: int) -> None:
    """Raise an ImageError if an image of this size would take too much memory."""
    if width * height > MAX_PIXELS:
        raise ImageError(f"{width}x{height} pixels, more than the limit of {MAX_PIXELS}")


def is_jxl(data: bytes | memoryview) -> bool:
    return bytes(data[:8]).startswith((b"\xff\x0a", b"\0\0\0\x0cJXL "))


def decode_jxl(data: bytes | memoryview) -> Any:
    """Decode a JPEG XL image, upright: (H, W) or (H, W, channels) uint8. libjxl scales other samples by their range.

    Raises:
        ImageError: pylibjxl (extra `jxl`) is not installed, or the data is damaged or cut short.
    """
    try:
        import pylibjxl
    except ImportError:
        raise ImageError("is JPEG XL, which needs pylibjxl: pip install 'dataforge-detection[jxl]'") from None
    try:
        facts = pylibjxl.probe(bytes(data))
        check_size(facts["height"], facts["width"])
        return pylibjxl.decode(bytes(data))
    except (RuntimeError, ValueError, MemoryError) as error:
        raise ImageError(f"cannot be read as JPEG XL: {error}") from None


def _jxl_info(data: bytes | memoryview) -> ImageInfo:
    height, width, *rest = decode_jxl(data).shape  # only a full decode tells whether its end is there
    return ImageInfo("JPEG XL", height, width, 1, {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}[rest[0] if rest else 1])


def probe_file(path: Path) -> ImageInfo:
    """Read the header of a file, as `probe` does; for most JPEGs only the start and the end are read.

    Raises:
        ImageError: as `probe`. OSError, ValueError: as `open`.
    """
    with path.open("rb") as file:
        head = file.read(HEAD)
        plain = _plain_jpeg(head)
        if plain:
            file.seek(max(0, file.seek(0, os.SEEK_END) - TAIL))
            if _ends_well(file.read(), "JPEG"):
                return plain
            file.seek(len(head))
        return probe(head + file.read())


def read_size(path: Path) -> tuple[int, int]:
    """Return height and width of an image file, after the EXIF orientation; for most JPEGs only the start is read.

    Raises:
        ImageError: as `probe`, except that the end may not be checked. OSError, ValueError: as `open`.
    """
    info = parse_start(path, HEAD, _plain_jpeg, probe)
    return info.height, info.width


def suffix_format(name: str) -> str:
    """Return the format that a file name's suffix indicates, "" if it indicates none."""
    return SUFFIX_OF.get("." + name.rpartition(".")[2].lower(), "") if "." in name else ""


def _plain_jpeg(data: bytes | memoryview) -> ImageInfo | None:
    """Read the header of a plain JPEG, three times as fast as Pillow, whose Python code is the bottleneck of `ingest`.

    Only for 8-bit grey or colour without Exif, Adobe's marker, or any other unusual feature; returns None otherwise,
    and Pillow decides. Markers are those of ITU T.81, table B.1.
    """
    if data[:3] != b"\xff\xd8\xff":
        return None
    place, size, components = 2, (0, 0), 0
    while place + 4 <= len(data) and data[place] == 0xFF:
        marker, length = data[place + 1], data[place + 2] << 8 | data[place + 3]
        start, place = place + 4, place + 2 + length
        if marker == 0xDA:  # start of the pixel data
            fine = components and size[0] and size[1] and size[0] * size[1] <= MAX_PIXELS and place < len(data)
            return ImageInfo("JPEG", *size, 1, "RGB" if components == 3 else "L") if fine else None
        if marker in (0xC0, 0xC1, 0xC2):
            if components or length not in (11, 17) or data[start] != 8 or data[start + 5] * 3 + 8 != length:
                return None
            size = (data[start + 1] << 8 | data[start + 2], data[start + 3] << 8 | data[start + 4])
            components = data[start + 5]
        elif marker == 0xDB:
            if (length - 2) % 65 or max(data[start:place:65], default=0) > 15:  # the precision of its tables
                return None
        elif marker not in (0xC4, 0xDD, 0xE0, 0xE2, 0xED, 0xFE) or length < 2:  # E2: ICC, ED: Photoshop
            return None
    return None


def _may_have_exif(data: bytes | memoryview, kind: str) -> bool:
    """Return False if no orientation need be read: Pillow applies a TIFF's itself, and decodes a PNG to find one."""
    if kind == "PNG":
        whole = bytes(data)
        return b"eXIf" in whole or b"Raw profile type exif" in whole
    return kind != "TIFF"


def _ends_well(data: bytes | memoryview, kind: str) -> bool:
    """Return True if the format's end marker is in place; otherwise only a full decode can tell."""
    tail = bytes(data[-TAIL:])
    if kind == "JPEG":
        return tail.rstrip(b"\0\r\n").endswith(b"\xff\xd9")
    if kind == "WEBP":  # RIFF contains its length
        return int.from_bytes(data[4:8], "little") + 8 <= len(data)
    return kind == "PNG" and b"IEND" in tail
