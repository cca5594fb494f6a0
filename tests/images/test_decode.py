from __future__ import annotations

import io
import sys
from pathlib import Path

import numpy as np
import PIL.Image
import PIL.ImageOps
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dataforge.errors import ImageError
from dataforge.images.decode import decode, eight_bits, shrink
from dataforge.images.header import FORMATS, ImageInfo, probe, suffix_format
from tests import tiny

IMAGES = tiny.images()


def pillow(data: bytes) -> np.ndarray:
    """(height, width, 3) as Pillow shows it."""
    return np.asarray(PIL.ImageOps.exif_transpose(PIL.Image.open(io.BytesIO(data))).convert("RGB"))


def apart(a: np.ndarray, b: np.ndarray) -> int:
    return int(np.abs(a.astype(int) - b.astype(int)).max())


@pytest.mark.parametrize("key", IMAGES)
def test_every_kind_of_image(key: str) -> None:
    info = probe(IMAGES[key])
    pixels = decode(IMAGES[key], info.orientation)
    assert pixels.shape == (info.height, info.width, 3)
    assert pixels.dtype == np.uint8 and pixels.flags.c_contiguous and pixels.flags.writeable
    if key != "deep.png":  # Pillow clips 16 bits instead of scaling them
        assert apart(pixels, pillow(IMAGES[key])) <= 4
    np.testing.assert_array_equal(pixels, decode(memoryview(IMAGES[key]), info.orientation))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientations(orientation: int, kind: str) -> None:
    data = tiny.encode(tiny.pixels(40, 72, 3), kind, orientation=orientation)
    info = probe(data)
    assert info.format == kind and info.orientation == (1 if kind == "TIFF" else orientation)
    assert (info.height, info.width) == ((72, 40) if orientation >= 5 else (40, 72))
    assert apart(decode(data, info.orientation), pillow(data)) <= 3


def test_an_orientation_that_exif_does_not_know_is_ignored() -> None:
    data = tiny.encode(tiny.pixels(40, 72, 3), orientation=9)
    assert probe(data) == ImageInfo("JPEG", 40, 72, 1, "RGB")


@pytest.mark.parametrize("mode", ["CMYK", "L", "1", "LA", "RGBA", "P", "I;16", "I", "F", "YCbCr", "LAB"])
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "BMP", "GIF", "WEBP"])
def test_layouts_of_pixels(mode: str, kind: str) -> None:
    source = PIL.Image.fromarray(tiny.pixels(30, 45, 5))
    source = source.convert("L").convert("I").convert(mode) if mode == "I;16" else source.convert(mode)
    buffer = io.BytesIO()
    try:
        source.save(buffer, kind, **({"quality": 95} if kind in ("JPEG", "WEBP") else {}))
    except (OSError, ValueError):
        return  # no such file exists
    info = probe(buffer.getvalue())
    pixels = decode(buffer.getvalue(), info.orientation)
    assert pixels.shape == (30, 45, 3) and pixels.dtype == np.uint8
    if mode not in ("I;16", "I", "F"):
        assert apart(pixels, pillow(buffer.getvalue())) <= 3


def test_cmyk_is_as_pillow_converts_it() -> None:
    data = tiny.encode(tiny.pixels(52, 66, 3), mode="CMYK")
    assert probe(data).mode == "CMYK"
    np.testing.assert_array_equal(decode(data), pillow(data))
    assert apart(decode(data), tiny.pixels(52, 66, 3)) < 40  # and not its negative


def test_grey_is_three_equal_channels() -> None:
    pixels = decode(IMAGES["grey.jpg"])
    assert (pixels == pixels[..., :1]).all() and pixels.std() > 10


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_sixteen_bits_become_the_upper_eight(kind: str) -> None:
    grey = tiny.pixels(46, 81, 7)[..., 0]
    data = tiny.encode((grey.astype(np.uint16) << 8) + 200, kind)
    np.testing.assert_array_equal(decode(data), np.repeat(grey[..., None], 3, -1))


def test_transparency_is_laid_over_white() -> None:
    rgba = np.zeros((4, 6, 4), np.uint8)
    rgba[:, :3] = (10, 20, 30, 255)
    rgba[:, 3:] = (200, 0, 0, 0)
    pixels = decode(tiny.encode(rgba, "PNG"))
    assert (pixels[:, :3] == (10, 20, 30)).all() and (pixels[:, 3:] == 255).all()


def test_a_palette_with_transparency() -> None:
    image = PIL.Image.new("P", (6, 4), 0)
    image.putpalette([250, 0, 0, 0, 120, 0])
    image.paste(1, (0, 0, 3, 4))
    buffer = io.BytesIO()
    image.save(buffer, "PNG", transparency=0)
    pixels = decode(buffer.getvalue())
    assert (pixels[:, :3] == (0, 120, 0)).all() and (pixels[:, 3:] == 255).all()


@pytest.mark.parametrize("key", IMAGES)
@pytest.mark.parametrize("part", [0.15, 0.5, 0.9])
def test_a_cut_image_is_an_error_both_in_the_header_check_and_in_decoding(key: str, part: float) -> None:
    cut = IMAGES[key][: int(len(IMAGES[key]) * part)]
    with pytest.raises(ImageError):
        probe(cut)
    with pytest.raises(ImageError, match="cannot be decoded"):
        decode(cut)


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(sorted(IMAGES)), st.integers(0, 1 << 30), st.integers(1, 255), st.booleans())
@pytest.mark.filterwarnings("ignore")  # Pillow warns of some damage
def test_damage_gives_pixels_or_an_image_error(key: str, at: int, change: int, cut: bool) -> None:
    data = bytearray(IMAGES[key])
    data[at % len(data)] ^= change
    if cut:
        del data[at * 7 % len(data) :]
    for read in (probe, decode):
        try:
            read(bytes(data))
        except ImageError as error:
            assert str(error)


@pytest.mark.parametrize("data", [b"", b"\xff\xd8\xff", b"GIF89a", b"not an image at all", b"\0" * 100])
def test_what_is_no_image(data: bytes) -> None:
    with pytest.raises(ImageError):
        probe(data)
    with pytest.raises(ImageError, match="cannot be decoded"):
        decode(data)


def test_too_many_pixels_are_refused_unopened(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dataforge.images.header.MAX_PIXELS", 3000)
    with pytest.raises(ImageError, match="64x48 pixels, more than the limit of 3000"):
        probe(IMAGES["a.jpg"])


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("a.JPG", "JPEG"),
        ("a.b.jpeg", "JPEG"),
        ("x.tif", "TIFF"),
        ("x.png", "PNG"),
        ("x.jfif", "JPEG"),
        ("x.HEIC", "HEIC"),
        ("x.xml", ""),
        ("jpg", ""),
        ("", ""),
    ],
)
def test_what_a_suffix_promises(name: str, expected: str) -> None:
    assert suffix_format(name) == expected


@pytest.mark.parametrize("reduce", [2, 4, 8])
@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("size", [(48, 64), (47, 65), (41, 23)])
def test_a_smaller_decode_is_the_average_of_blocks(reduce: int, orientation: int, size: tuple[int, int]) -> None:
    data = tiny.encode(tiny.pixels(*size, 3), orientation=orientation)
    small = decode(data, orientation, reduce)
    full = decode(data, orientation)
    assert small.shape == (-(-full.shape[0] // reduce), -(-full.shape[1] // reduce), 3) and small.flags.c_contiguous
    rows, columns = full.shape[0] // reduce, full.shape[1] // reduce  # whole blocks: what sticks out may differ
    assert apart(small[:rows, :columns], shrink(full, (reduce, reduce))[:rows, :columns]) <= 5


@pytest.mark.parametrize("key", IMAGES)
def test_every_kind_of_image_can_be_smaller(key: str) -> None:
    orientation = probe(IMAGES[key]).orientation
    small, full = decode(IMAGES[key], orientation, 2), decode(IMAGES[key], orientation)
    rows, columns = full.shape[0] // 2, full.shape[1] // 2
    assert small.shape == (-(-full.shape[0] // 2), -(-full.shape[1] // 2), 3)
    assert apart(small[:rows, :columns], shrink(full, (2, 2))[:rows, :columns]) <= 5


def test_photographs_lose_nothing_by_the_smaller_decode(shared_data: Path) -> None:
    folders = ("coco_mini", "bccd", "deeppcb_200", "fod_a_2k")
    files = [file for folder in folders for file in sorted((shared_data / folder).rglob("*.jpg"))[:8]]
    assert len(files) == 32
    for file in files:
        full = decode(file.read_bytes())
        for reduce in (2, 4, 8):
            error = decode(file.read_bytes(), 1, reduce).astype(float) - shrink(full, (reduce, reduce))
            assert 10 * np.log10(255**2 / max((error**2).mean(), 1e-9)) > 43, (file, reduce)


@pytest.mark.parametrize("orientation", [1, 3])
def test_pixels_go_where_they_may(orientation: int) -> None:
    data = tiny.encode(tiny.pixels(40, 72, 3), orientation=orientation)
    expected = decode(data, orientation, 2)
    place = np.full((3, 20, 36, 3), 7, np.uint8)
    found = decode(data, orientation, 2, place[1])
    np.testing.assert_array_equal(found, expected)
    assert (place[0] == 7).all() and (place[2] == 7).all()
    assert (found is place[1] or np.shares_memory(found, place)) == (orientation == 1)
    for other in (np.zeros((20, 37, 3), np.uint8), np.zeros((20, 40, 3), np.uint8)[:, 2:38]):
        np.testing.assert_array_equal(decode(data, orientation, 2, other), expected)
        assert not other.any()


@pytest.mark.parametrize("top", [255, 1000, 1023, 4095, 16383, 65535])
def test_16_bits_are_never_nearly_black(top: int) -> None:
    ramp = np.linspace(0, top, 64 * 48).astype(np.uint16).reshape(48, 64)
    for form in ("PNG", "TIFF"):
        file = io.BytesIO()
        PIL.Image.fromarray(ramp).save(file, form)
        pixels = decode(file.getvalue())
        assert (
            pixels.min() == 0 and pixels.max() >= 240 and (np.diff(pixels[..., 0].reshape(-1).astype(int)) >= 0).all()
        )


@pytest.mark.parametrize(("top", "expected"), [(0, 0), (1, 255), (0.5, 128), (200, 200), (255, 255), (40000, 255)])
def test_floating_point_pixels(top: float, expected: int) -> None:
    values = np.linspace(0, top, 64 * 48, dtype=np.float32).reshape(48, 64)
    file = io.BytesIO()
    PIL.Image.fromarray(values).save(file, "TIFF")
    assert decode(file.getvalue()).max() == expected
    odd = np.array([[np.nan, -5, np.inf, -np.inf, top]], np.float32)
    assert eight_bits(odd).tolist() == [[0, 0, 0, 0, expected]]


def test_negative_integers_are_black() -> None:
    assert eight_bits(np.array([[-70000, 0, 300, 1023]], np.int32)).tolist() == [[0, 0, 75, 255]]


@pytest.mark.parametrize("form", ["AVIF", "JPEG2000"])
def test_formats_that_pillow_may_read(form: str) -> None:
    if form not in FORMATS:
        pytest.skip(f"Pillow was built without {form}")
    file = io.BytesIO()
    PIL.Image.fromarray(tiny.pixels(48, 64)).save(file, form)
    assert probe(file.getvalue()).format == form and decode(file.getvalue()).shape == (48, 64, 3)


def test_a_format_that_is_not_read_is_named() -> None:
    with pytest.raises(ImageError, match="is HEIC, which is not read here; convert it"):
        probe(b"\0\0\0\x18ftypheic" + bytes(100))


@pytest.mark.parametrize("head", [b"\xff\x0a", b"\0\0\0\x0cJXL "])
def test_jpeg_xl_names_the_extra(monkeypatch: pytest.MonkeyPatch, head: bytes) -> None:
    monkeypatch.setitem(sys.modules, "pylibjxl", None)
    for read in (probe, decode):
        with pytest.raises(ImageError, match=r"is JPEG XL, .* pip install 'dataforge-detection\[jxl\]'"):
            read(head + bytes(100))


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_jpeg_xl(channels: int) -> None:
    pylibjxl = pytest.importorskip("pylibjxl")
    pixels = np.ascontiguousarray(np.repeat(tiny.pixels(48, 64)[..., :1], channels, -1))
    if channels == 4:
        pixels[..., 3] = 255
    data = pylibjxl.encode(pixels, lossless=True)
    mode = {1: "L", 3: "RGB", 4: "RGBA"}[channels]
    assert probe(data) == ImageInfo("JPEG XL", 48, 64, 1, mode) and suffix_format("a.jxl") == "JPEG XL"
    np.testing.assert_array_equal(decode(data), np.repeat(pixels[..., :1], 3, -1))
    for length in (12, len(data) // 2, len(data) - 9):
        with pytest.raises(ImageError, match="JPEG XL"):
            probe(data[:length])
