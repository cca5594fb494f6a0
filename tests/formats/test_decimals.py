from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from dataforge.formats.decimals import decimals

EDGES = arrays(np.float32, st.tuples(st.integers(0, 9), st.just(2)), elements=st.floats(0, 1e6, width=32))


@given(EDGES)
def test_edges_and_widths_come_back_bit_for_bit(pairs: np.ndarray) -> None:
    low, high = np.sort(pairs, 1).T
    left = decimals(low)
    np.testing.assert_array_equal(left.astype(np.float32), low)
    np.testing.assert_array_equal((left + decimals(high, left)).astype(np.float32), high)


@given(arrays(np.int64, 5, elements=st.integers(0, 10**7)), st.sampled_from([0.0, -1.0]), st.integers(0, 2))
def test_numbers_of_few_places_are_found_again(hundredths: np.ndarray, base: float, places: int) -> None:
    numbers = np.round(hundredths / 100, places)
    target = (base + numbers).astype(np.float32)
    found = decimals(target, base)
    np.testing.assert_array_equal((base + found).astype(np.float32), target)
    assert all(len(repr(a)) <= len(repr(b)) for a, b in zip(found.tolist(), numbers.tolist(), strict=True))
