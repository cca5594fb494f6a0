"""The order by novelty: each image differs most from those before it; edited images count as seen."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from dataforge.transform.edited import open_base
from dataforge.web.api import Queue
from dataforge.web.novelty import Novelty, farthest_first
from dataforge.web.session import Session
from tests import tiny


@given(hashes=st.lists(st.integers(0, 2**64 - 1), max_size=12), seen=st.integers(0, 2))
def test_each_differs_most_from_those_before_it(hashes: list[int], seen: int) -> None:
    known = list(range(min(seen, len(hashes))))
    order = farthest_first(np.array(hashes, np.uint64), known)
    assert sorted(order) == list(range(len(hashes))) and order[len(order) - len(known) :] == known
    before = set(known)
    for n in order[: len(order) - len(known)]:
        nearest = {
            i: min(((hashes[i] ^ hashes[j]).bit_count() for j in before), default=65) for i in order if i not in before
        }
        assert nearest[n] == max(nearest.values())
        before.add(n)


def test_copies_come_last(tmp_path: Path) -> None:
    for n, seed in enumerate((0, 0, 0, 7, 8)):
        (tmp_path / "photos").mkdir(exist_ok=True)
        (tmp_path / f"photos/{n}.jpg").write_bytes(tiny.encode(tiny.pixels(70, 90, seed)))
    (tmp_path / "photos/5.jpg").write_bytes(b"no image")
    session = Session(open_base(tmp_path / "photos"), tmp_path / "overlay", ["cat"])
    novelty = Novelty(session)
    end = time.monotonic() + 60
    while (facts := novelty.queue())["pending"] and time.monotonic() < end:
        time.sleep(0.01)
    novelty.close()
    session.close()
    order = [one["n"] for one in sorted(facts["images"], key=lambda one: -one["value"])]
    assert sorted(order) == list(range(6)) and set(order[-2:]) == {1, 2} and Queue(**facts)
