"""Planes of luma and halved chroma."""

from __future__ import annotations

import numpy as np
import pytest

from dataforge.errors import ImageError
from dataforge.images.decode import shrink
from dataforge.images.planes import from_planes, to_planes
from tests import tiny


def test_every_colour_of_a_chroma_sample_comes_back_within_one_level() -> None:
    levels = np.r_[0:256:5, 254].astype(np.uint8)
    colours = np.stack(np.meshgrid(levels, levels, levels), -1).reshape(len(levels), -1, 3)
    pixels = colours.repeat(2, 0).repeat(2, 1)
    made = from_planes(to_planes(pixels).data.cast("B"), pixels.shape[:2])
    assert np.abs(made.astype(int) - pixels).max() == 1


def test_a_sample_is_the_mean_of_its_pixels_and_no_other_pixel_matters() -> None:
    pixels = tiny.pixels(46, 82)
    means = pixels.reshape(23, 2, 41, 2, 3).mean((1, 3)).repeat(2, 0).repeat(2, 1)
    made = from_planes(to_planes(pixels).data.cast("B"), (46, 82)).astype(float)
    # luma keeps each pixel's own brightness: what differs from it is the same in the four pixels of a sample
    grey = np.array([0.299, 0.587, 0.114])
    colour = means - (means @ grey)[..., None]
    assert np.abs(made - (pixels @ grey)[..., None] - colour).max() < 3.5


def test_the_destination_is_used_and_reduction_averages() -> None:
    pixels = tiny.pixels(30, 44, 2)
    data, canvas = to_planes(pixels).data.cast("B"), np.zeros((40, 60, 3), np.uint8)
    whole, inner = from_planes(data, (30, 44)), canvas[4:34, 8:52]
    assert from_planes(data, (30, 44), out=inner) is inner
    np.testing.assert_array_equal(canvas[4:34, 8:52], whole)
    assert not canvas[:4].any() and not canvas[34:].any()
    np.testing.assert_array_equal(from_planes(data, (30, 44), 4, inner), shrink(whole, (4, 4)))


@pytest.mark.parametrize("size", [(30, 46), (31, 44), (15, 88)])
def test_bytes_that_do_not_match_the_size(size: tuple[int, int]) -> None:
    with pytest.raises(ImageError, match="1980 bytes are no planes of"):
        from_planes(bytes(1980), size)
