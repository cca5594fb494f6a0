"""The order by novelty: each image differs most from those before it; edited images count as seen."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from dataforge.images.decode import decode
from dataforge.images.hashing import hash_of
from dataforge.transform.edited import open_base
from dataforge.web import novelty
from dataforge.web.api import Queue
from dataforge.web.novelty import Novelty, bits, cosine, farthest_first
from dataforge.web.session import Session
from tests import tiny


@given(hashes=st.lists(st.integers(0, 2**64 - 1), max_size=12), seen=st.integers(0, 2), placed=st.integers(1, 12))
def test_each_differs_most_from_those_before_it(hashes: list[int], seen: int, placed: int) -> None:
    known = list(range(min(seen, len(hashes))))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(novelty, "PLACED", placed)
        order = farthest_first(bits(np.array(hashes, np.uint64)), len(hashes), known)
    assert sorted(order) == list(range(len(hashes))) and order[len(order) - len(known) :] == known
    before = set(known)
    for place, n in enumerate(order[: len(order) - len(known)]):
        nearest = {
            i: min(((hashes[i] ^ hashes[j]).bit_count() for j in before), default=65) for i in order if i not in before
        }
        if place < placed:
            assert nearest[n] == max(nearest.values())
        if place == placed:
            rest = [nearest[i] for i in order[place : len(order) - len(known)]]
            assert rest == sorted(rest, reverse=True)
        before.add(n)


def test_cosine_distance_and_images_that_cannot_be_read() -> None:
    embeddings = np.array([[0, 0], [1, 0], [5, 0.1], [0, 2], [1, 1]], np.float32)
    assert np.allclose(cosine(embeddings)(3)[1:], [1, 1 - 0.1 / np.hypot(5, 0.1), 0, 1 - 0.5**0.5], atol=1e-6)
    order = farthest_first(cosine(embeddings), 5, [])
    assert order == [0, 1, 3, 4, 2], "of the first nothing is known"
    assert farthest_first(cosine(embeddings), 5, [1])[-2:] == [0, 1]


def test_images_that_are_known_are_compared_once_and_until_it_is_stopped() -> None:
    hashes, calls = np.array([3, 3, 3, 8, 9], np.uint64), []

    def distance(n: int) -> NDArray[np.float32]:
        calls.append(n)
        return bits(hashes)(n)

    assert farthest_first(distance, 5, [0, 1, 2], lambda: True) == [] == calls
    assert sorted(farthest_first(distance, 5, [0, 1, 2])) == [0, 1, 2, 3, 4]
    assert calls[0] == 0 and set(calls[1:]) == {3, 4}, "one of the three copies"


def test_near_duplicates_come_last_by_a_model(shared_data: Path) -> None:
    """Real photos: copies that are moved, cropped or brighter have other hashes, but much the same features."""
    import torch

    from trainers.dense import Dense
    from trainers.models import pretrained
    from trainers.results.detection import detect_and_embed

    [weights] = (shared_data.parent / "weights/efficientnet_lite0").glob("*.pth")
    detector = Dense(1, sizes=[[32.0], [64.0], [128.0]], backbone="efficientnet_lite0").eval()
    pretrained.load(detector.backbone, str(weights))
    photos = [decode(file.read_bytes(), 1) for file in sorted((shared_data / "coco_mini").rglob("*.jpg"))[:4]]
    others = [
        decode(min((shared_data / name).rglob("*.jpg")).read_bytes(), 1) for name in ("bccd", "deeppcb_200")
    ]  # blood cells, and a circuit board
    copies = []
    for pixels in photos[:2]:
        across, down = pixels.shape[1] // 10, pixels.shape[0] // 10
        brighter = (pixels * 0.55 + 90).astype(np.uint8)
        copies += [np.roll(pixels, (down, across), (0, 1)), brighter, pixels[down:, :-across]]
    images = [*photos, *others, *copies]
    _, embeddings = detect_and_embed(detector, images, (256, 256), "letterbox", torch.device("cpu"), 0.5, 0.5)
    hashes = np.array([hash_of(pixels) for pixels in images], np.uint64)
    distances = cosine(embeddings), bits(hashes)
    shown = np.array([0, 1, 2, 3, 4, 5, 0, 0, 0, 1, 1, 1])
    by_model, by_hash = (shown[farthest_first(distance, len(shown), [])[:6]] for distance in distances)
    assert set(by_model) == {0, 1, 2, 3, 4, 5} != set(by_hash), "one of each before a copy"
    by_model, by_hash = (shown[farthest_first(distance, len(shown), [0, 1, 2, 3])[:2]] for distance in distances)
    assert set(by_model) == {4, 5} != set(by_hash), "the photos are done: another kind is new, copies are not"


def test_copies_come_last(tmp_path: Path) -> None:
    for n, seed in enumerate((0, 0, 0, 7, 8)):
        (tmp_path / "photos").mkdir(exist_ok=True)
        (tmp_path / f"photos/{n}.jpg").write_bytes(tiny.encode(tiny.pixels(70, 90, seed)))
    (tmp_path / "photos/5.jpg").write_bytes(b"no image")
    session = Session(open_base(tmp_path / "photos"), tmp_path / "overlay", ["cat"])
    compared = Novelty(session)
    end = time.monotonic() + 60
    while (facts := compared.queue())["pending"] and time.monotonic() < end:
        time.sleep(0.01)
    compared.close()
    session.close()
    order = [one["n"] for one in sorted(facts["images"], key=lambda one: -one["value"])]
    assert sorted(order) == list(range(6)) and set(order[-2:]) == {1, 2} and Queue(**facts).by == "hash"
