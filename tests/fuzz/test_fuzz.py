"""A few seconds of the campaign for each reader."""

from __future__ import annotations

import pytest

from tests.fuzz.__main__ import campaign
from tests.fuzz.files import FILES
from tests.fuzz.readers import READERS


@pytest.mark.parametrize("name", sorted(READERS.keys() - FILES.keys()))
def test_no_crash_no_hang_no_undrawn_error(name: str) -> None:
    outcomes, faults = campaign(name, seed=1, seconds=3)
    assert not faults
    assert outcomes["refused"] > 0
