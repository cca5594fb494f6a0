"""Images that look alike: what a hash withstands, and that groups are exactly the connected ones."""

from __future__ import annotations

import io
from pathlib import Path

import cv2
import numpy as np
import PIL.Image
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from dataforge.images.decode import decode
from dataforge.images.hashing import FLAT, hash_of, reduction
from dataforge.images.header import probe
from dataforge.record import Record
from dataforge.shards.reader import Shards
from dataforge.shards.writer import ShardWriter
from dataforge.transform.similar import MANY_BITS, MAX_DISTANCE, components, distance, groups, hashes, same_bytes
from tests import tiny


def picture(seed: int, height: int = 150, width: int = 210) -> np.ndarray:
    """(height, width, 3) coarse random colours, smoothly enlarged: as different as two photographs."""
    coarse = np.random.default_rng(seed).integers(40, 216, (7, 9, 3)).astype(np.uint8)
    return cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)  # type: ignore[return-value]


def jpeg(pixels: np.ndarray, quality: int = 92) -> bytes:
    buffer = io.BytesIO()
    PIL.Image.fromarray(pixels).save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


def read(data: bytes) -> np.uint64:
    """The hash as `hashes` gets it: shrunk while it is decoded."""
    info = probe(data)
    return np.uint64(hash_of(decode(data, 1, reduction(info.height, info.width))))


def changes(pixels: np.ndarray) -> dict[str, bytes]:
    height, width = pixels.shape[:2]
    half = cv2.resize(pixels, (width // 2, height // 2), interpolation=cv2.INTER_LINEAR)
    double = cv2.resize(pixels, (width * 2, height * 2), interpolation=cv2.INTER_CUBIC)
    return {
        "quality 60": jpeg(pixels, 60),
        "half": jpeg(half),
        "double": jpeg(double),
        "half, quality 60": jpeg(half, 60),
        "brighter": jpeg((pixels.astype(int) + 20).clip(0, 255).astype(np.uint8)),
        "contrast": jpeg((pixels * 1.08).clip(0, 255).astype(np.uint8)),
        "grey": jpeg(np.repeat(cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)[..., None], 3, 2)),
        "png": tiny.encode(pixels, "PNG"),
    }


def test_a_hash_withstands_what_does_not_change_the_picture() -> None:
    far = []
    for seed, (height, width) in enumerate(np.random.default_rng(0).integers(128, 700, (40, 2)).tolist()):
        pixels = picture(seed, height, width)
        before = read(jpeg(pixels))
        far += [int(distance(before, read(data))) for data in changes(pixels).values()]
    assert np.mean(np.array(far) <= MAX_DISTANCE) > 0.98


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10**6), height=st.integers(64, 500), width=st.integers(64, 500))
def test_no_change_makes_it_another_picture(seed: int, height: int, width: int) -> None:
    pixels = picture(seed, height, width)
    before = read(jpeg(pixels))
    assert before != FLAT
    found = {name: int(distance(before, read(data))) for name, data in changes(pixels).items()}
    assert max(found.values()) <= 2 * MAX_DISTANCE, found  # two different ones are further apart


def test_different_pictures_are_far_apart() -> None:
    found = np.array([read(jpeg(picture(seed))) for seed in range(200)])
    a, b = np.triu_indices(len(found), 1)
    assert distance(found[a], found[b]).min() > 2 * MAX_DISTANCE
    flipped = np.array([read(jpeg(picture(seed)[:, ::-1])) for seed in range(50)])
    assert distance(found[:50], flipped).min() > MAX_DISTANCE


def test_a_picture_without_structure_is_like_no_other() -> None:
    rng = np.random.default_rng(0)
    for grey in (0, 3, 128, 255):
        flat = np.full((90, 70, 3), grey, np.uint8)
        assert read(jpeg(flat)) == FLAT
        noisy = (flat + rng.normal(0, 2, flat.shape)).clip(0, 255).astype(np.uint8)
        assert read(jpeg(noisy)) == FLAT
    assert distance(np.uint64(FLAT), np.uint64(FLAT)) == 65
    blank = np.zeros(4, np.uint64)
    assert groups(blank).tolist() == [0, 1, 2, 3]
    assert groups(blank, 64).tolist() == [0, 1, 2, 3]
    assert groups(blank, exact=np.array([7, 8, 7, 9])).tolist() == [0, 1, 0, 2]


@pytest.mark.parametrize("axis", [0, 1])
def test_an_even_slope_has_a_steady_hash(axis: int) -> None:
    """All but a few of its frequencies are zero, and what rounding leaves of them must not get signs by chance."""
    slope = np.linspace(60, 190, 320 if axis else 240)
    pixels = np.broadcast_to(slope[None, :, None] if axis else slope[:, None, None], (240, 320, 3)).astype(np.uint8)
    before = read(jpeg(pixels))
    assert before != FLAT
    found = {name: int(distance(before, read(data))) for name, data in changes(pixels).items()}
    assert max(found.values()) <= 6 and np.median(list(found.values())) <= 2, found


@st.composite
def near_hashes(draw: st.DrawFn) -> np.ndarray:
    """Hashes of which many are a few bits from others, some equal, some `FLAT`."""
    centres = draw(hnp.arrays(np.uint64, st.integers(1, 4)))
    picks = draw(hnp.arrays(np.int64, st.integers(0, 25), elements=st.integers(0, len(centres) - 1)))
    found = centres[picks]
    for _ in range(draw(st.integers(0, 6))):
        found = found ^ (np.uint64(1) << draw(hnp.arrays(np.uint64, len(found), elements=st.integers(0, 63))))
    return np.where(draw(hnp.arrays(bool, len(found), elements=st.booleans())), found, centres[picks])


@settings(max_examples=300, deadline=None)
@given(near_hashes(), st.sampled_from([0, 1, 2, 3, 4, 6, MANY_BITS - 1, MANY_BITS, 20, 63, 64]), st.data())
def test_groups_are_the_connected_components(found: np.ndarray, most: int, data: st.DataObject) -> None:
    exact = data.draw(st.none() | hnp.arrays(np.int64, len(found), elements=st.integers(0, max(1, len(found) // 2))))
    linked = distance(found[:, None], found[None]) <= most
    if exact is not None:
        linked |= exact[:, None] == exact[None]
    reach = linked | np.eye(len(found), dtype=bool)
    for _ in range(len(found)):
        reach = reach @ reach
    expected = [int(np.argmax(row)) for row in reach]  # the first image of each one's group
    names = sorted(set(expected))
    got = groups(found, most, exact)
    assert got.dtype == np.int64 and got.tolist() == [names.index(first) for first in expected]


def test_many_hashes_take_little_time_and_memory() -> None:
    """118k, of which a third is 1 to 3 bits from another: an N x N matrix of them would be 14 GB."""
    rng = np.random.default_rng(0)
    found = rng.integers(1, 1 << 63, 118_000, dtype=np.uint64)
    found[80_000:] = found[:38_000]
    for _ in range(3):
        found[80_000:] ^= np.uint64(1) << rng.integers(0, 64, 38_000).astype(np.uint64)
    got = groups(found)
    assert (got[80_000:] == got[:38_000]).all() and got.max() == 79_999


def shards_of(out: Path, images: dict[str, bytes], split_of: dict[str, str] | None = None) -> Shards:
    with ShardWriter(out, tiny.CLASSES) as writer:
        for key, data in images.items():
            info = probe(data)
            nothing = np.zeros(0, np.float32)
            writer.add(
                Record(
                    key,
                    (split_of or {}).get(key, "train"),
                    data,
                    info.height,
                    info.width,
                    nothing.reshape(0, 4),
                    nothing.astype(np.int32),
                    nothing.astype(np.uint8),
                ),
                data,
                info,
            )
        writer.publish()
    return Shards(out)


def test_hashes_of_shards(tmp_path: Path) -> None:
    """The orientation is undone, so a turned copy with its EXIF mark looks like the upright one."""
    pixels = picture(5)
    images = {
        "a.jpg": jpeg(pixels),
        "turned.jpg": tiny.encode(np.ascontiguousarray(np.rot90(pixels)), orientation=6),
        "other.jpg": jpeg(picture(6)),
        "black.png": tiny.encode(np.zeros((50, 60, 3), np.uint8), "PNG"),
    }
    shards = shards_of(tmp_path / "shards", images)
    found = hashes(shards)
    order = [shards.table.key.tolist().index(key) for key in images]
    assert found.dtype == np.uint64 and groups(found[order]).tolist() == [0, 0, 1, 2]
    assert found[order[3]] == FLAT
    told: list[int] = []
    assert hashes(shards, np.array(order[1:3]), 1, told.append).tolist() == found[order[1:3]].tolist()
    assert told == [1, 2]
    assert hashes(shards, np.zeros(0, np.int64)).shape == (0,)


def test_the_same_bytes_are_told_by_checksum_and_size(tmp_path: Path) -> None:
    one, other = jpeg(picture(1)), jpeg(picture(2))
    shards = shards_of(tmp_path / "shards", {"a.jpg": one, "b.jpg": other, "c.jpg": one}, {"c.jpg": "val"})
    got = dict(zip(shards.table.key.tolist(), same_bytes(shards.table).tolist(), strict=True))
    assert got["a.jpg"] == got["c.jpg"] != got["b.jpg"]


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 12), st.data())
def test_components_are_numbered_as_they_come(count: int, data: st.DataObject) -> None:
    node = st.integers(0, count - 1)
    edges = np.array(data.draw(st.lists(st.tuples(node, node), max_size=15)), np.int64).reshape(-1, 2)
    group = list(range(count))
    for a, b in edges.tolist():
        group = [group[a] if one == group[b] else one for one in group]
    names = list(dict.fromkeys(group))
    assert components(count, edges).tolist() == [names.index(one) for one in group]


def test_real_sets(shared_data: Path) -> None:
    """Photographs of coco_mini are all different, and bear that 1 % is cut off each edge; two of bccd are the same."""
    coco = sorted((shared_data / "coco_mini").rglob("*.jpg"))
    assert len(coco) == 159
    found = np.array([read(file.read_bytes()) for file in coco])
    assert groups(found).max() == 158 and (found != FLAT).all()
    cut = []
    for file, before in zip(coco, found, strict=True):
        pixels = decode(file.read_bytes())
        down, right = (round(side / 100) for side in pixels.shape[:2])
        cut.append(int(distance(before, read(jpeg(pixels[down:-down, right:-right])))))
    assert np.mean(np.array(cut) <= MAX_DISTANCE) > 0.9
    blood = sorted((shared_data / "bccd").rglob("*.jpg"))[:40]
    got = groups(np.array([read(file.read_bytes()) for file in blood]))
    together = [[blood[i].name for i in np.flatnonzero(got == one)] for one in np.flatnonzero(np.bincount(got) > 1)]
    assert together == [["BloodImage_00037.jpg", "BloodImage_00038.jpg"]]
