"""Decode images that are larger than memory, into a temporary file that is mapped."""

from __future__ import annotations

import io
import os
import shutil
import struct
import tempfile
import zlib
from collections.abc import Iterator

import numpy as np
import PIL.Image
import PIL.ImageFile
import PIL.JpegImagePlugin
import PIL.PngImagePlugin
import simplejpeg
from numpy.typing import NDArray

from dataforge.errors import ImageError
from dataforge.images.decode import decode, turned
from dataforge.images.header import probe

IN_MEMORY = 1 << 26  # pixels up to which an image is decoded in memory
STRIP = 1 << 22  # bytes of a PNG's pixels that are decoded at a time
PIECE = 1 << 20  # bytes of its file that are inflated at a time
CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # of a PNG's colour types


def decode_large(data: bytes) -> NDArray[np.uint8]:
    """Decode an image to upright RGB; JPEGs and PNGs of more than `IN_MEMORY` pixels into a file in `TMPDIR`.

    That file takes 3 bytes a pixel and is removed when the array is. In memory, such an image takes the bytes of its
    file; a progressive JPEG also 2 bytes for each sample. Interlaced PNGs, PNGs that do not have 8 bits a sample, CMYK
    JPEGs and other formats are decoded in memory, and refused beyond the limits of `decode`.

    Returns:
        (height, width, 3), not contiguous if a large image is rotated by EXIF.

    Raises:
        ImageError: the bytes are damaged or cut short, or `TMPDIR` has no room for the pixels.
    """
    plugins: dict[bytes, type[PIL.ImageFile.ImageFile]] = {
        b"\xff\xd8\xff": PIL.JpegImagePlugin.JpegImageFile,
        b"\x89PN": PIL.PngImagePlugin.PngImageFile,
    }
    plugin = plugins.get(data[:3])
    if plugin is None or not _is_large(data):
        return decode(data, probe(data).orientation)
    try:
        with plugin(io.BytesIO(data)) as image:  # `PIL.Image.open` refuses large ones
            size, mode, exif = (image.height, image.width), image.mode, image.info.get("exif", b"")
        jpeg = plugin is PIL.JpegImagePlugin.JpegImageFile
        if mode in ("L", "RGB") if jpeg else data[24] == 8 and not data[28]:
            out = _mapped((*size, 3))
            if jpeg:
                simplejpeg.decode_jpeg(data, "RGB", buffer=out)
            else:
                _decode_png(data, out)
            return turned(out, _orientation(exif))
    except (ValueError, OSError, SyntaxError, EOFError, zlib.error, struct.error) as error:
        raise ImageError(f"cannot be decoded: {error}") from None
    return decode(data, probe(data).orientation)


def _is_large(data: bytes) -> bool:
    """Return whether a JPEG or PNG has more than `IN_MEMORY` pixels, as far as its header can be read."""
    try:
        if data[:3] == b"\x89PN":
            width, height = struct.unpack_from(">II", data, 16)
        else:
            height, width = simplejpeg.decode_jpeg_header(data)[:2]
    except (ValueError, struct.error):
        return False
    return bool(height * width > IN_MEMORY)


def _orientation(data: bytes) -> int:
    """Return the orientation that EXIF data states, 1 if it is damaged."""
    exif = PIL.Image.Exif()
    try:
        exif.load(data)
        orientation = exif.get(0x0112, 1)
    except Exception:  # Pillow's errors are of many types
        return 1
    return orientation if orientation in range(1, 9) else 1


def _mapped(shape: tuple[int, int, int]) -> NDArray[np.uint8]:
    """Return an array in a temporary file, for which room is reserved."""
    needed, free = int(np.prod(shape)), shutil.disk_usage(tempfile.gettempdir()).free
    if needed > free:
        raise ImageError(
            f"{shape[1]}x{shape[0]} pixels need {needed / 1e9:.1f} GB in {tempfile.gettempdir()}, {free / 1e9:.1f} GB "
            "are free; set TMPDIR to a folder on a larger disk"
        )
    with tempfile.TemporaryFile() as file:
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(file.fileno(), 0, needed)
        return np.memmap(file, np.uint8, "w+", shape=shape)


def _decode_png(data: bytes, out: NDArray[np.uint8]) -> None:
    """Decode a PNG of 8 bits a sample, without interlace, in strips.

    A strip becomes a PNG of its own: the last row above it, unfiltered, and its rows as they are filtered (W3C PNG,
    section 9). So Pillow decodes them.
    """
    height, width = out.shape[:2]
    colour = data[25]
    stride = width * CHANNELS[colour] + 1
    rows = max(1, STRIP // stride)
    palette = b"".join(_chunk(kind, bytes(body)) for kind, body in _chunks(data) if kind in (b"PLTE", b"tRNS"))
    stream = _Inflated(data)
    above = bytes(stride - 1)
    for y in range(0, height, rows):
        count = min(rows, height - y)
        header = struct.pack(">II", width, count + 1) + data[24:29]
        pixels = zlib.compress(b"\0" + above + stream.read(count * stride), 0)
        strip = data[:8] + _chunk(b"IHDR", header) + palette + _chunk(b"IDAT", pixels) + _chunk(b"IEND", b"")
        out[y : y + count] = decode(strip)[1:]
        if colour == 2 and not palette:
            above = out[y + count - 1].tobytes()
        else:
            with PIL.Image.open(io.BytesIO(strip)) as image:
                above = np.asarray(image)[-1].tobytes()


class _Inflated:
    """The inflated pixel data of a PNG, read piece by piece."""

    def __init__(self, data: bytes) -> None:
        bodies = (body for kind, body in _chunks(data) if kind == b"IDAT")
        self._pieces = (body[at : at + PIECE] for body in bodies for at in range(0, len(body), PIECE))
        self._stream, self._rest = zlib.decompressobj(), memoryview(b"")

    def read(self, count: int) -> bytes:
        parts, missing = [], count
        while missing:
            self._rest = self._rest or next(self._pieces, self._rest)
            parts.append(self._stream.decompress(self._rest, missing))
            if not self._rest and not parts[-1]:
                raise EOFError("the pixel data ends early")
            self._rest, missing = memoryview(self._stream.unconsumed_tail), missing - len(parts[-1])
        return b"".join(parts)


def _chunks(data: bytes) -> Iterator[tuple[bytes, memoryview]]:
    at, view = 8, memoryview(data)
    while at < len(data):
        length, kind = struct.unpack_from(">I4s", data, at)
        yield kind, view[at + 8 : at + 8 + length]
        at += length + 12


def _chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
