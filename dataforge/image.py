"""What an image file's header says. No pixel is decoded here."""

from __future__ import annotations

import io
from dataclasses import dataclass

import PIL.Image
import PIL.TiffImagePlugin
import PIL.WebPImagePlugin

from dataforge.errors import ImageError

MAX_PIXELS = 1 << 28  # 268 megapixels: past that a file is taken for an attack or a mistake
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF", "PPM")
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".ppm", ".pgm")
_SUFFIX_OF = {"jpg": "JPEG", "jpeg": "JPEG", "tif": "TIFF", "tiff": "TIFF", "pgm": "PPM"}


@dataclass(frozen=True)
class ImageInfo:
    """Header facts.

    Attributes:
        format: "JPEG", "PNG", ... by content, not by the file's name.
        height, width: pixels, after the EXIF orientation.
        orientation: EXIF's 1..8; 1 where there is none.
        mode: Pillow's name of the pixel layout, "RGB", "L", "CMYK", "I;16", ...
    """

    format: str
    height: int
    width: int
    orientation: int
    mode: str


def probe(data: bytes | memoryview) -> ImageInfo:
    """Read an image's header, and see that its end is there.

    Raises:
        ImageError: empty, not an image, too many pixels, or cut short. The text is the reason alone, without the file.
    """
    if len(data) == 0:
        raise ImageError("the file is empty")
    try:
        with PIL.Image.open(io.BytesIO(data), formats=FORMATS) as image:
            width, height = image.size
            if width * height > MAX_PIXELS:
                raise ImageError(f"{width}x{height} pixels, more than the limit of {MAX_PIXELS}")
            kind, mode = str(image.format), image.mode
            orientation = image.getexif().get(0x0112, 1) if kind != "TIFF" else 1  # Pillow undoes a TIFF's itself
            if not _ends_well(data, kind):
                image.load()
    except ImageError:
        raise
    except PIL.UnidentifiedImageError:
        raise ImageError(f"not an image that is known here ({', '.join(FORMATS)})") from None
    except (OSError, SyntaxError, ValueError, EOFError, PIL.Image.DecompressionBombError) as error:
        raise ImageError(f"cannot be read: {error}") from None
    if orientation not in range(1, 9):
        orientation = 1
    if orientation >= 5:
        height, width = width, height
    return ImageInfo("JPEG" if kind == "MPO" else kind, height, width, orientation, mode)


def suffix_format(name: str) -> str:
    """The format that a file's name promises, "" where its suffix says nothing."""
    suffix = name.rpartition(".")[2].lower() if "." in name else ""
    return _SUFFIX_OF.get(suffix, suffix.upper() if "." + suffix in SUFFIXES else "")


def _ends_well(data: bytes | memoryview, kind: str) -> bool:
    """True when the format's end mark is where it should be; else only a full decode can tell."""
    tail = bytes(data[-64:])
    if kind == "JPEG":
        return tail.rstrip(b"\0\r\n").endswith(b"\xff\xd9")
    return kind == "PNG" and b"IEND" in tail
