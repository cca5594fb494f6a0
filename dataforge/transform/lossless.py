"""JPEGs written anew from their own DCT coefficients: the same pixels to the last bit, and faster to decode."""

from __future__ import annotations

import struct
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from dataforge.errors import ConfigError, ImageError, ShardError
from dataforge.files import writing
from dataforge.images.decode import decode

_COLOUR = {0xE0: b"JFIF\0", 0xEE: b"Adobe"}  # the markers that tell decoders what the components mean


def check() -> None:
    """Raise ConfigError if JPEGs cannot be written anew on this machine."""
    try:
        import jpegio  # noqa: F401
    except ImportError:
        raise ConfigError("--lossless needs pyjpegio: pip install 'dataforge-detection[lossless]'") from None


def rewrite(data: bytes | memoryview, orientation: int) -> bytes | memoryview:
    """Return a JPEG as a baseline JPEG with Huffman tables of its own and without metadata.

    Only an orientation is kept as EXIF, since the pixels are not rotated. Other formats, and JPEGs whose pixels would
    not be the same, are returned as they are: both are decoded and compared.

    Args:
        data: an image file; orientation: EXIF's, 1 to 8.

    Raises:
        ImageError: the JPEG is damaged. ShardError: the folder for temporary files has no room.
    """
    if bytes(data[:3]) != b"\xff\xd8\xff":
        return data
    pixels = decode(data)
    try:
        made = _rewrite(data, orientation)
        return made if np.array_equal(decode(made), pixels) else data
    except (RuntimeError, ImageError):  # libjpeg's errors are RuntimeErrors
        return data


def _rewrite(data: bytes | memoryview, orientation: int) -> bytes:
    import jpegio

    with tempfile.TemporaryDirectory(prefix="dataforge-") as folder:  # jpegio reads and writes nothing but files
        path = Path(folder) / "image.jpg"
        with writing(path, ShardError):
            path.write_bytes(data)
        image: Any = jpegio.read(str(path))
        image.progressive_mode = image.arith_code = image.restart_interval = 0
        image.optimize_coding = 1
        for n, component in enumerate(image.comp_info):
            component.dc_tbl_no = component.ac_tbl_no = n % 3 > 0  # of a progressive JPEG, all may be 0
        image.markers = [m for m in image.markers if m["type"] in _COLOUR and m["data"].startswith(_COLOUR[m["type"]])]
        if orientation != 1:
            image.markers.append({"type": 0xE1, "data": _exif(orientation)})
        image.write(str(path))
        return path.read_bytes()


def _exif(orientation: int) -> bytes:
    """Return the contents of an EXIF marker (EXIF 2.32, tag 0x0112)."""
    return b"Exif\0\0" + struct.pack(">2sHIHHHIHHI", b"MM", 42, 8, 1, 0x0112, 3, 1, orientation, 0, 0)
