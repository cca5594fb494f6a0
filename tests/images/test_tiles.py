from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from dataforge.images.tiles import MOST_OVERLAP, windows


@settings(max_examples=25, deadline=None)
@given(
    st.integers(1, 120),
    st.integers(1, 120),
    st.integers(1, 130),
    st.floats(0, MOST_OVERLAP),
    st.floats(0, MOST_OVERLAP),
)
def test_tiles_cover_each_pixel_and_overlap(height: int, width: int, side: int, overlap: float, more: float) -> None:
    tiles = windows(height, width, side, overlap)
    assert (tiles[:, 2] - tiles[:, 0] == min(side, width)).all()
    assert (tiles[:, 3] - tiles[:, 1] == min(side, height)).all()
    assert len(np.unique(tiles, axis=0)) == len(tiles)
    seen = np.zeros((height, width), bool)
    for x1, y1, x2, y2 in tiles.tolist():
        assert min(x1, y1) >= 0
        seen[y1:y2, x1:x2] = True
    assert seen.all() and tiles[:, 2].max() == width and tiles[:, 3].max() == height
    needed = min(np.ceil(overlap * side), side - 1)
    for axis in (0, 1):
        first = np.unique(tiles[:, axis])
        assert (np.diff(first) <= side - needed).all()
    assert len(windows(height, width, side, max(overlap, more))) >= len(tiles)
