from __future__ import annotations

import io
import shutil
from collections import namedtuple

import numpy as np
import PIL.Image
import pytest

from dataforge.errors import ImageError
from dataforge.images import large
from dataforge.images.decode import decode
from dataforge.images.header import probe
from tests import tiny

SMOOTH = tiny.pixels(150, 90)


def png(mode: str, **options: object) -> bytes:
    """A PNG of some mode whose rows are filtered in different ways, which zlib needs several pieces for."""
    noisy = SMOOTH // 2 + np.random.default_rng(0).integers(0, 99, SMOOTH.shape, np.uint8)
    buffer = io.BytesIO()
    PIL.Image.fromarray(noisy).convert(mode).save(buffer, "PNG", **options)
    return buffer.getvalue()


IMAGES = {
    **tiny.images(),
    **{mode: png(mode) for mode in ("RGB", "L", "P", "1", "I;16")},
    "palette with a transparent colour": png("P", transparency=3),
    "grey with a transparent colour": png("L", transparency=70),
    "alpha": tiny.encode(np.dstack([SMOOTH, SMOOTH[..., :1]]), "PNG"),
    "grey and alpha": png("LA"),
    "rotated": tiny.encode(SMOOTH, "PNG", orientation=8),
}


@pytest.fixture(autouse=True)
def no_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(large, "IN_MEMORY", 0)
    monkeypatch.setattr(large, "STRIP", 3000)
    monkeypatch.setattr(large, "PIECE", 700)


@pytest.mark.parametrize("name", IMAGES)
def test_the_pixels_are_those_of_decode(name: str) -> None:
    data = IMAGES[name]
    np.testing.assert_array_equal(large.decode_large(data), decode(data, probe(data).orientation))


def test_pixels_of_jpegs_and_pngs_are_mapped() -> None:
    assert isinstance(large.decode_large(IMAGES["RGB"]), np.memmap)
    assert isinstance(large.decode_large(IMAGES["a.jpg"]), np.memmap)
    assert not isinstance(large.decode_large(IMAGES["d.webp"]), np.memmap)


@pytest.mark.parametrize("name", ["a.jpg", "RGB", "d.webp"])
@pytest.mark.parametrize("share", [0.0, 0.01, 0.5])
def test_damage_is_an_error(name: str, share: float) -> None:
    data = IMAGES[name]
    with pytest.raises(ImageError, match=r"cannot be|empty|not an image|ends"):
        large.decode_large(data[: int(len(data) * share)])


def test_metadata_that_cannot_be_read_matters_only_to_metadata(monkeypatch: pytest.MonkeyPatch) -> None:
    data = tiny.encode(SMOOTH, "JPEG")
    spoiled = data[:2] + b"\xff\xe1\x00\x10Exif\0\0no TIFF!" + data[2:]
    pixels = decode(data)
    np.testing.assert_array_equal(large.decode_large(spoiled), pixels)
    monkeypatch.setattr(large, "IN_MEMORY", 1 << 26)
    np.testing.assert_array_equal(large.decode_large(spoiled), pixels)
    segment = b"\xff\xe0\x00\x05JFI"
    np.testing.assert_array_equal(large.decode_large(data[:2] + segment + data[2:]), pixels)


def test_a_disk_without_room(monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10, 0, 10))
    with pytest.raises(ImageError, match=r"90x150 pixels need 0.0 GB in .*TMPDIR"):
        large.decode_large(IMAGES["RGB"])
