"""`--depth`: what becomes of images of more than 8 bits, kept in the index and through every command that copies it."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from dataforge.errors import ConfigError, ShardError
from dataforge.images.decode import decode, eight_bits
from dataforge.images.header import DEPTHS
from dataforge.shards.reader import Shards
from dataforge.transform.merge import merge
from tests.formats.named import run
from tests.formats.sets import box, coco

DIM = np.arange(48 * 64, dtype=np.uint16).reshape(48, 64) // 8 + 3  # 3..386, and one dead pixel
DIM[0, 0] = 65535


def png(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    PIL.Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return coco(tmp_path / "set", {"a.png": png(DIM)}, [box(10, [1, 1, 30, 30])])


@pytest.mark.parametrize("depth", DEPTHS)
def test_it_is_stated_and_used_wherever_the_images_go(tmp_path: Path, root: Path, depth: str) -> None:
    result = run("ingest", "coco", root, "--out", tmp_path / "out", "--depth", depth)
    assert f"scaled to 8 {DEPTHS[depth]} (--depth {depth})" in result.stdout, result.output
    assert ("depth" in Shards(tmp_path / "out").index) == (depth != "scale")
    expected = np.repeat(eight_bits(DIM, depth)[..., None], 3, -1)
    assert run("merge", tmp_path / "out", "--out", tmp_path / "merged").exit_code == 0
    assert run("split", tmp_path / "out", "--out", tmp_path / "split", "--val", 0).exit_code == 0
    for name in ("out", "merged", "split"):
        np.testing.assert_array_equal(Shards(tmp_path / name).pixels(0), expected)
    assert run("bake", tmp_path / "out", "--out", tmp_path / "raw", "--raw", "--size", 48, 64).exit_code == 0
    np.testing.assert_array_equal(Shards(tmp_path / "raw").pixels(0), expected)


def test_a_dead_pixel(root: Path) -> None:
    assert np.median(eight_bits(DIM)) <= 1  # near-black, as the report says that it may be
    assert abs(int(np.median(eight_bits(DIM, "percentile"))) - 127) <= 2


def test_high_byte_keeps_images_comparable() -> None:
    for pixels in (DIM, DIM[1:]):
        np.testing.assert_array_equal(eight_bits(pixels, "high-byte"), pixels >> 8)
    assert eight_bits(np.array([[1 << 20]], np.int32), "high-byte").tolist() == [[0]]


def test_integers_of_more_than_16_bits_are_not_black() -> None:
    assert eight_bits(np.array([[70_000, 35_000, -5]], np.int32)).tolist() == [[136, 68, 0]]


@pytest.mark.parametrize("value", [2.0**53, 1e300, np.finfo(np.float64).max])
def test_equal_samples_of_any_size_are_black(value: float) -> None:
    assert not eight_bits(np.full((2, 3), value), "percentile").any()
    assert eight_bits(np.array([[value / 2, value / 2, value]]), "percentile").tolist() == [[0, 0, 255]]


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    arrays(st.sampled_from([np.uint16, np.int32, np.float32]), array_shapes(min_dims=2, max_dims=2, max_side=6)),
    st.sampled_from([*DEPTHS]),
)
def test_order_is_kept(pixels: np.ndarray, depth: str) -> None:
    pixels = np.nan_to_num(pixels, posinf=0, neginf=0).clip(0)
    small = eight_bits(pixels, depth)
    order = np.argsort(pixels, axis=None, kind="stable")
    assert small.shape == pixels.shape and (np.diff(small.reshape(-1)[order].astype(int)) >= 0).all()


def test_sets_of_two_depths_are_not_joined(tmp_path: Path, root: Path) -> None:
    for depth in ("scale", "percentile"):
        run("ingest", "coco", root, "--out", tmp_path / depth, "--depth", depth)
    with pytest.raises(ConfigError, match="in different ways"):
        merge([Shards(tmp_path / "scale"), Shards(tmp_path / "percentile")])


def test_a_depth_of_a_newer_dataforge_is_refused(tmp_path: Path, root: Path) -> None:
    run("ingest", "coco", root, "--out", tmp_path / "out", "--depth", "percentile")
    index = json.loads((tmp_path / "out/index.json").read_text())
    del index["index_crc"]
    (tmp_path / "out/index.json").write_text(json.dumps(index | {"depth": "gamma"}))
    with pytest.raises(ShardError, match="depth is 'gamma'; this dataforge reads scale"):
        Shards(tmp_path / "out")


def test_eight_bit_images_are_untouched(tmp_path: Path) -> None:
    data = png(np.arange(48 * 64, dtype=np.uint8).reshape(48, 64))
    assert all((decode(data, depth=depth) == decode(data)).all() for depth in DEPTHS)
