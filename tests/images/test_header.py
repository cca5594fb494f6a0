"""Headers of images: read without decoding, and of a file's first bytes where that is enough."""

from __future__ import annotations

from pathlib import Path

import PIL.Image
import pytest

from dataforge.errors import ImageError, TruncatedImageError
from dataforge.images.header import HEAD, ImageInfo, probe, read_size
from tests import tiny

IMAGES = tiny.images()


@pytest.mark.parametrize("key", IMAGES)
def test_the_size_of_a_file_is_that_of_its_header(tmp_path: Path, key: str) -> None:
    path = tmp_path / "x"
    path.write_bytes(IMAGES[key])
    info = probe(IMAGES[key])
    assert read_size(path) == (info.height, info.width)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("orientation", [1, 6])
def test_no_pixel_is_decoded(monkeypatch: pytest.MonkeyPatch, kind: str, orientation: int) -> None:
    data = tiny.encode(tiny.pixels(40, 72), kind, orientation=orientation)
    expected = probe(data)
    if kind != "PNG" or orientation == 1:  # Pillow looks for a PNG's EXIF behind its pixels

        def load(image: PIL.Image.Image) -> None:
            raise AssertionError("decoded")

        monkeypatch.setattr(PIL.Image.Image, "load", load)
        monkeypatch.setattr("PIL.ImageFile.ImageFile.load", load)
        monkeypatch.setattr("PIL.WebPImagePlugin.WebPImageFile.load", load)
    assert probe(data) == expected and expected.orientation == orientation


@pytest.mark.parametrize("profile", [b"", b"a profile of colours" * 150])
def test_of_a_plain_jpeg_only_the_start_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, profile: bytes
) -> None:
    path = tmp_path / "a.jpg"
    PIL.Image.fromarray(tiny.pixels(480, 640)).save(path, quality=95, icc_profile=profile)
    assert (profile[:50] in path.read_bytes()) and probe(path.read_bytes()) == ImageInfo("JPEG", 480, 640, 1, "RGB")
    assert path.stat().st_size > 2 * HEAD
    monkeypatch.setattr("dataforge.images.header.probe", None)  # of all bytes
    assert read_size(path) == (480, 640)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_what_lacks_its_end_is_told_from_what_is_damaged(kind: str) -> None:
    data = tiny.encode(tiny.pixels(40, 72), kind)
    for length in (20, 60, len(data) // 2, len(data) - 40):
        with pytest.raises(TruncatedImageError, match="cannot be read"):
            probe(data[:length])
    with pytest.raises(ImageError) as damaged:
        probe(data[:12] + bytes(len(data) - 76) + data[-64:])
    assert not isinstance(damaged.value, TruncatedImageError)


@pytest.mark.parametrize("data", [b"", b"\xff\xd8\xff", b"not an image at all", IMAGES["c.png"][:40]])
def test_a_file_without_a_header(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "x"
    path.write_bytes(data)
    with pytest.raises(ImageError):
        read_size(path)
