"""`dataforge bake`: the same records in a form that costs less to read, and nothing lost on the way."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from hypothesis import given
from hypothesis import strategies as st
from tensordict import TensorDict

import dataforge.transform.bake
from dataforge.cli.main import main
from dataforge.errors import ConfigError, DataError, ShardError
from dataforge.images.header import probe
from dataforge.images.planes import from_planes, to_planes
from dataforge.record import Record
from dataforge.shards.index import INDEX, REPORT
from dataforge.shards.reader import Shards
from dataforge.shards.verify import verify
from dataforge.shards.writer import ShardWriter
from dataforge.sources.view import View
from dataforge.transform.bake import Form, bake
from dataforge.transform.tune import Read, tune
from tests import tiny
from tests.shards.test_writer import files

FORMS = {
    "jpeg": Form(),
    "side": Form(side=40),
    "grey side": Form(side=31, gray=True, quality=80),
    "size": Form(shapes=((64, 96),)),
    "stretched": Form(shapes=((50, 70), (70, 50)), fit="stretch"),
    "raw": Form(shapes=((64, 48), (48, 64), (32, 96)), raw=True),  # two of one length
    "grey raw": Form(shapes=((64, 128),), gray=True, raw=True),
    "raw stretched": Form(shapes=((33, 47),), fit="stretch", raw=True),
    "yuv420": Form(shapes=((64, 48), (48, 64), (32, 96)), raw=True, yuv420=True),
}


def run(*arguments: object) -> Result:
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exc_info
    return result


def refused(*arguments: object) -> str:
    result = run(*arguments)
    assert result.exit_code == 2 and result.stderr.startswith("error: "), result.output
    return result.stderr


@pytest.fixture(scope="module", params=FORMS)
def baked(request: pytest.FixtureRequest, tiny_shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Shards:
    out = tmp_path_factory.mktemp("bake") / "cache"
    bake(Shards(tiny_shards), out, FORMS[request.param], jobs=2)
    return Shards(out)


def test_records_boxes_and_splits_are_the_parents(baked: Shards, tiny_shards: Path) -> None:
    parent = Shards(tiny_shards)
    mine, its = baked.table, parent.table
    assert list(mine.key) == list(its.key) and (baked.classes, baked.class_ids) == (parent.classes, parent.class_ids)
    for name in ("id", "offsets", "labels", "flags"):
        np.testing.assert_array_equal(getattr(mine, name), getattr(its, name))
    assert {name: rows.tolist() for name, rows in baked.splits.items()} == {
        name: rows.tolist() for name, rows in parent.splits.items()
    }
    assert (mine.orientation == 1).all() and not list(verify(baked))
    matrix = baked.to_stored(mine.image)
    moved = np.einsum("sij,skj->ski", matrix[:, :2, :2], its.boxes.reshape(-1, 2, 2)) + matrix[:, None, :2, 2]
    np.testing.assert_allclose(mine.boxes, moved.reshape(-1, 4), atol=1e-4)
    np.testing.assert_allclose(mine.areas, its.areas * np.linalg.det(matrix), rtol=1e-3)


def test_everything_goes_home_to_source_pixels(baked: Shards, tiny_shards: Path) -> None:
    mine, its = baked.source, Shards(tiny_shards).table
    np.testing.assert_array_equal(mine.height, its.height)
    np.testing.assert_array_equal(mine.width, its.width)
    np.testing.assert_allclose(mine.boxes, its.boxes, atol=1e-4)
    np.testing.assert_allclose(mine.areas, its.areas, rtol=1e-4)
    corners = np.stack([np.zeros_like(its.height), np.zeros_like(its.height), its.width, its.height], 1)
    matrix = baked.to_stored(np.arange(len(its)))
    ends = corners.reshape(-1, 2, 2) * matrix[:, None, [0, 1], [0, 1]] + matrix[:, None, :2, 2]
    limit = np.stack([baked.table.width, baked.table.height], 1)
    assert (ends >= -1e-9).all() and (ends <= limit[:, None] + 1e-9).all()


def test_pixels_are_the_parents_moved_by_the_matrix(baked: Shards, tiny_shards: Path) -> None:
    """Each stored pixel against the parent's colour there; the pictures are smooth, so that little else differs."""
    parent, grey = Shards(tiny_shards), baked.channels == 1
    for i in range(10):
        source, stored = parent.pixels(i).astype(float), baked.pixels(i).astype(float)
        if grey:
            source = source @ [[0.299] * 3, [0.587] * 3, [0.114] * 3]
        home = np.linalg.inv(baked.to_stored(np.array([i]))[0])
        y, x = np.mgrid[0 : stored.shape[0], 0 : stored.shape[1]] + 0.5
        sx, sy = home[0, 0] * x + home[0, 2], home[1, 1] * y + home[1, 2]
        inside = (sx > 2) & (sy > 2) & (sx < source.shape[1] - 2) & (sy < source.shape[0] - 2)
        expected = source[sy[inside].astype(int), sx[inside].astype(int)]
        assert np.abs(stored[inside] - expected).mean() < 7, baked.table.key[i]
        outside = (sx < -1) | (sy < -1) | (sx > source.shape[1] + 1) | (sy > source.shape[0] + 1)
        if baked.codec in ("raw", "yuv420") and outside.any():
            edges = 0 if baked.codec == "raw" else 0.2  # a chroma sample may lie across the edge
            assert (np.abs(stored[outside] - 114).max(-1) > 1).mean() <= edges


def painted(out: Path, sizes: Sequence[tuple[int, int]]) -> Path:
    """Black pictures, each with one white rectangle and its box."""
    with ShardWriter(out, ("box",)) as writer:
        for n, (height, width) in enumerate(sizes):
            rng = np.random.default_rng(n)
            low = rng.integers(0, [width // 2, height // 2])
            high = low + rng.integers([width // 5, height // 5], [width // 2, height // 2])
            (x1, y1), (x2, y2) = low.tolist(), high.tolist()
            pixels = np.zeros((height, width, 3), np.uint8)
            pixels[y1:y2, x1:x2] = 255
            box = np.array([[x1, y1, x2, y2]], np.float32)
            data = tiny.encode(pixels, "PNG")
            record = Record(f"{n}.png", "train", data, height, width, box, np.zeros(1, np.int32), np.zeros(1, np.uint8))
            writer.add(record, data, probe(data))
        writer.publish()
    return out


@pytest.mark.parametrize("name", FORMS)
def test_boxes_lie_on_painted_rectangles(tmp_path: Path, name: str) -> None:
    painted(tmp_path / "s", [(97, 151), (151, 97), (240, 320), (64, 200), (333, 201), (500, 47)])
    bake(Shards(tmp_path / "s"), tmp_path / "cache", FORMS[name])
    cache = Shards(tmp_path / "cache")
    for i in range(len(cache)):
        # a pixel is as white as its share of the rectangle; 114 is what letterboxing fills with
        light = cache.pixels(i)[..., 1].astype(float)
        matrix = cache.to_stored(np.array([i]))[0]
        left, top = int(np.ceil(matrix[0, 2])), int(np.ceil(matrix[1, 2]))
        light = light[top : light.shape[0] - top, left : light.shape[1] - left] / 255
        ys, xs = np.nonzero(light > 0.5)
        found = np.array([xs.min() + left, ys.min() + top, xs.max() + 1 + left, ys.max() + 1 + top])
        assert np.abs(found - cache.table.boxes[i]).max() <= 1, (i, found, cache.table.boxes[i])


@given(
    st.tuples(st.integers(1, 5000), st.integers(1, 5000)),
    st.lists(st.tuples(*[st.floats(0, 1, width=32)] * 4), min_size=1, max_size=8),
    st.sampled_from([Form(side=7), Form(shapes=((31, 65),)), Form(shapes=((3, 640),), fit="stretch")]),
)
def test_no_box_is_lost_to_rounding(size: tuple[int, int], units: list[tuple[float, ...]], form: Form) -> None:
    from dataforge.shards.table import Table

    height, width = size
    unit = np.sort(np.array(units, np.float32).reshape(-1, 2, 2), axis=1)
    boxes = (unit * np.array([width, height], np.float32)).reshape(-1, 4)
    boxes = boxes[(boxes[:, 2:] > boxes[:, :2]).all(1)]
    n, one = len(boxes), np.ones(1, np.int64)
    areas = np.prod(boxes[:, 2:] - boxes[:, :2], axis=1, dtype=np.float32)
    facts: dict[str, Any] = {"id": one, "orientation": one, "size": one, "crc": one, "_key": None}
    objects = {"boxes": boxes, "labels": np.zeros(n, np.int32), "flags": np.zeros(n, np.uint8), "areas": areas}
    table = Table(height=one * height, width=one * width, offsets=np.array([0, n]), **objects, **facts)
    sizes, matrix = form.place(table.height, table.width)
    moved = dataforge.transform.bake._move(table, matrix, sizes)
    assert len(moved.boxes) == n and moved.boxes.dtype == np.float32
    assert (moved.boxes >= 0).all() and (moved.boxes <= np.tile(sizes[0, ::-1], 2)).all()
    assert (moved.boxes[:, 2:] > moved.boxes[:, :2]).all()


@pytest.mark.parametrize(("fit", "yuv420"), [("letterbox", False), ("stretch", False), ("stretch", True)])
def test_a_raw_batch_is_the_batch_of_its_parent(tiny_shards: Path, tmp_path: Path, fit: str, yuv420: bool) -> None:
    """What the loader warps out of the parent is what `gather` finds."""
    from dataforge.augment.executors.cpu import warp
    from dataforge.augment.operations.geometry import fit_matrix

    shapes = ((64, 48), (48, 64))
    bake(Shards(tiny_shards), tmp_path / "cache", Form(shapes=shapes, fit=fit, raw=True, yuv420=yuv420))
    parent, cache = Shards(tiny_shards), Shards(tmp_path / "cache")
    for shape in shapes:
        index = np.nonzero((cache.table.height == shape[0]) & (cache.table.width == shape[1]))[0][::-1]
        out = np.zeros((len(index), *shape, 3), np.uint8)
        cache.gather(index, out)  # from two shards
        for k, i in enumerate(index.tolist()):
            matrix = fit_matrix(int(parent.table.height[i]), int(parent.table.width[i]), shape, fit)
            expected = warp(parent.pixels(i), matrix, shape)
            expected = from_planes(to_planes(expected).data.cast("B"), shape) if yuv420 else expected
            np.testing.assert_array_equal(out[k], expected)
            np.testing.assert_array_equal(out[k], cache.pixels(i))
            np.testing.assert_allclose(cache.to_stored(np.array([i]))[0], matrix)


def test_tensordict_alone_reads_what_the_loader_gives(tiny_shards: Path, tmp_path: Path) -> None:
    from dataforge.loading.loader import Loader

    shapes = ((64, 48), (48, 64))  # of one length
    bake(Shards(tiny_shards), tmp_path / "cache", Form(shapes=shapes, raw=True))
    cache, seen = Shards(tmp_path / "cache", "train"), []
    stored = TensorDict.load_memmap(tmp_path / "cache/train/00000")
    assert set(stored.keys()) == {"64x48x3", "48x64x3"}
    for batch in Loader(cache, batch_size=4, buckets=shapes):
        height, width = batch.images.shape[2:]
        part = stored[f"{height}x{width}x3"]
        rows = torch.searchsorted(part["record"], batch.index)
        assert torch.equal(part["record"][rows], batch.index)
        assert torch.equal(part["pixels"][rows].permute(0, 3, 1, 2), batch.images)
        objects = cache.table.take(part["record"][rows].numpy())
        assert torch.equal(torch.from_numpy(objects.labels).long(), batch.flat()[1])
        torch.testing.assert_close(torch.from_numpy(objects.boxes), batch.flat()[0], atol=1e-4, rtol=0)
        seen += batch.index.tolist()
    assert sorted(seen) == list(range(len(cache)))


def test_a_raw_cache_in_the_earlier_layout_is_refused(tiny_shards: Path, tmp_path: Path) -> None:
    from dataforge.loading.loader import Loader

    bake(Shards(tiny_shards), tmp_path / "cache", Form(shapes=((32, 32),), raw=True))
    folder = tmp_path / "cache/train/00000"
    (folder / "32x32x3/pixels.memmap").rename(folder / "3072.rows")
    shutil.rmtree(folder / "32x32x3")
    (folder / "meta.json").unlink()
    np.save(folder / "lengths.npy", np.full(len(Shards(tmp_path / "cache", "train")), 3072))
    for augment in (None, "flip"):
        with pytest.raises(ShardError, match="remove the cache and bake it again"):
            next(iter(Loader(tmp_path / "cache", size=(32, 32), augment=augment)))


@pytest.mark.parametrize("name", ["side", "raw", "stretched", "yuv420"])
def test_the_loader_maps_from_source_pixels_and_truth_is_in_them(tiny_shards: Path, tmp_path: Path, name: str) -> None:
    from dataforge.loading.loader import Loader
    from trainers.results.truth import truth_of_shards

    bake(Shards(tiny_shards), tmp_path / "cache", FORMS[name])
    cache, parent = Shards(tmp_path / "cache", "val"), Shards(tiny_shards, "val")
    for batch in Loader(cache, "val", 4, (96, 80), "flip", threads=1):
        for k, i in enumerate(batch.index.tolist()):
            rows = slice(int(parent.table.offsets[i]), int(parent.table.offsets[i + 1]))
            points = parent.table.boxes[rows].reshape(-1, 2, 2).astype(float)
            moved = points @ batch.affine[k, :2, :2].numpy().T + batch.affine[k, :2, 2].numpy()
            expected = np.concatenate([moved.min(1), moved.max(1)], 1)
            np.testing.assert_allclose(batch.boxes[k, : len(expected)].numpy(), expected, atol=1e-3)
    mine, its = truth_of_shards(cache), truth_of_shards(parent)
    np.testing.assert_allclose(mine.boxes, its.boxes, atol=1e-4)
    np.testing.assert_allclose(mine.areas, its.areas, rtol=1e-4)
    np.testing.assert_array_equal(mine.image_ids, its.image_ids)


def test_a_gather_of_one_split_by_many_threads(tiny_shards: Path, tmp_path: Path) -> None:
    bake(Shards(tiny_shards), tmp_path / "cache", Form(shapes=((32, 32),), gray=True, raw=True))
    cache = Shards(tmp_path / "cache", "val", View(classes=("dog",), empty="drop"))
    assert 0 < len(cache) < 10 and cache.channels == 1
    index = np.random.default_rng(0).integers(0, len(cache), 64)
    out = np.zeros((64, 32, 32, 1), np.uint8)
    parts = [threading.Thread(target=cache.gather, args=(index[a : a + 8], out[a : a + 8])) for a in range(0, 64, 8)]
    for part in parts:
        part.start()
    for part in parts:
        part.join()
    for k, i in enumerate(index.tolist()):
        np.testing.assert_array_equal(out[k], cache.pixels(i)[..., :1])


def test_jpegs_are_what_was_asked_for(tiny_shards: Path, tmp_path: Path) -> None:
    import simplejpeg

    bake(Shards(tiny_shards, "val"), tmp_path / "a", Form(side=40))
    bake(Shards(tiny_shards, "val"), tmp_path / "b", Form(side=40, gray=True, quality=50))
    a, b, parent = Shards(tmp_path / "a"), Shards(tmp_path / "b"), Shards(tiny_shards, "val")
    short = np.minimum(parent.table.height, parent.table.width)
    for cache in (a, b):
        np.testing.assert_array_equal(np.minimum(cache.table.height, cache.table.width), np.minimum(short, 40))
    for i in range(len(a)):
        assert simplejpeg.decode_jpeg_header(a.blob(i))[2:] == ("YCbCr", "420")
        assert simplejpeg.decode_jpeg_header(b.blob(i))[2] == "Gray"
        assert len(b.blob(i)) < len(a.blob(i))
        pixels = b.pixels(i)
        assert (pixels == pixels[..., :1]).all()


@pytest.mark.parametrize("name", ["side", "raw", "yuv420"])
def test_any_number_of_jobs_writes_the_same_bytes(tiny_shards: Path, tmp_path: Path, name: str) -> None:
    found = []
    for jobs in (1, 2, 7):
        out = tmp_path / "cache"
        bake(Shards(tiny_shards), out, FORMS[name], jobs=jobs)
        found.append(files(out))
        shutil.rmtree(out)
    assert found[0] == found[1] == found[2]


def test_a_cache_of_a_cache_goes_home_to_the_original(tiny_shards: Path, tmp_path: Path) -> None:
    bake(Shards(tiny_shards), tmp_path / "a", Form(shapes=((80, 64),)))
    bake(Shards(tmp_path / "a"), tmp_path / "b", Form(shapes=((32, 48),), raw=True))
    mine, its = Shards(tmp_path / "b"), Shards(tiny_shards).table
    np.testing.assert_allclose(mine.source.boxes, its.boxes, atol=1e-3)
    np.testing.assert_array_equal(mine.source.width, its.width)
    assert not list(verify(mine))


def test_a_view_and_unions(tmp_path: Path) -> None:
    with ShardWriter(tmp_path / "s", tiny.CLASSES, tiny.CLASS_IDS, {"trainval": ("train", "val")}) as writer:
        for split in ("train", "val", "test"):
            for record in tiny.records(split):
                assert isinstance(record.image, bytes)
                writer.add(record, record.image, probe(record.image))
        writer.publish()
    view = View(classes=("traffic light", "cat"), empty="drop", sample=0.8)
    seen = Shards(tmp_path / "s", view=view)
    bake(seen, tmp_path / "cache", Form(side=30))
    cache = Shards(tmp_path / "cache")
    assert cache.classes == view.classes and cache.class_ids == (90, 3) and 0 < len(cache) == len(seen) < 30
    assert list(cache.table.key) == list(seen.table.key)
    np.testing.assert_array_equal(cache.table.labels, seen.table.labels)
    assert {name: rows.tolist() for name, rows in cache.splits.items()} == {
        name: rows.tolist() for name, rows in seen.splits.items()
    }
    np.testing.assert_allclose(Shards(tmp_path / "cache", "trainval").source.boxes, Shards(
        tmp_path / "s", "trainval", view
    ).table.boxes, atol=1e-3)  # fmt: skip
    # what a view measures is measured in the source's pixels
    assert len(Shards(tmp_path / "cache", view=View(side=(12, 99))).table.boxes) == len(
        Shards(tmp_path / "s", view=View(view.classes, side=(12, 99), empty="drop", sample=0.8)).table.boxes
    )
    only = Shards(tmp_path / "s", "val")
    bake(only, tmp_path / "val", Form(side=30))
    assert list(Shards(tmp_path / "val").splits) == ["val"]


def test_a_stale_parent_is_refused_and_an_absent_one_is_not(tmp_path: Path) -> None:
    parent, cache = tiny.shards(tmp_path / "s"), tmp_path / "cache"
    assert run("bake", parent, "--out", cache, "--side", 30).exit_code == 0
    assert f"a cache of {parent} (unchanged)" in run("info", cache).stdout
    parent.rename(tmp_path / "away")
    assert f"a cache of {parent} (not there now)" in run("info", cache).stdout
    assert json.loads(run("info", cache, "--json").stdout)["baked"]["parent_is_there"] is False
    tiny.shards(parent, repeat=2)
    for command in ("info", "verify"):
        assert f"{cache}: is stale: {parent}, which it was baked from, has changed" in refused(command, cache)
    shutil.rmtree(parent)
    (tmp_path / "away").rename(parent)
    assert not list(verify(Shards(cache)))


@pytest.mark.parametrize("kind", [RuntimeError, KeyboardInterrupt])
def test_an_interruption_leaves_nothing_published(
    tiny_shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: type[BaseException]
) -> None:
    def stop(done: int) -> None:
        if done == 13:
            raise kind

    out = tmp_path / "cache"
    with pytest.raises(kind):
        bake(Shards(tiny_shards), out, FORMS["raw"], jobs=2, progress=stop)
    assert set(files(out)) == {REPORT}
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("dataforge-ordered")]
    bake(Shards(tiny_shards), out, FORMS["raw"])  # a second run takes the folder
    assert len(Shards(out)) == 20


def test_a_damaged_record_is_named_and_nothing_is_published(tmp_path: Path) -> None:
    torn = tiny.encode(tiny.pixels(48, 64))[:-200] + b"\xff\xd9"
    with ShardWriter(tmp_path / "s", tiny.CLASSES) as writer:
        writer.add(tiny.records()[0], torn, probe(torn))
        writer.publish()
    with pytest.raises(DataError, match=r"train/00000 record 0 \(a.jpg\): cannot be decoded"):
        bake(Shards(tmp_path / "s"), tmp_path / "cache", Form())
    assert not (tmp_path / "cache" / INDEX).exists()


def test_a_disk_without_room_is_told_before_anything_is_written(
    tiny_shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dataforge.transform.bake, "free_bytes", lambda out: 10**9)
    form = Form(shapes=((5000, 5000),), raw=True)
    with pytest.raises(ShardError, match=r"cache: the pixels need 1\.5 GB, 1\.0 GB are free"):
        bake(Shards(tiny_shards), tmp_path / "cache", form)
    assert not (tmp_path / "cache").exists()


def test_a_damaged_origin_is_found(tiny_shards: Path, tmp_path: Path) -> None:
    out = tmp_path / "cache"
    bake(Shards(tiny_shards), out, FORMS["side"])
    data = bytearray((out / "origin.arrow").read_bytes())
    data[len(data) // 2] ^= 1
    (out / "origin.arrow").write_bytes(data)
    assert "checksum is not the one" in run("verify", out).stderr
    (out / "origin.arrow").unlink()
    assert "origin.arrow: is missing" in run("verify", out).stderr
    with pytest.raises(ShardError, match=r"origin\.arrow: cannot be read"):
        Shards(out).source  # noqa: B018


def test_the_other_commands_on_caches(tiny_shards: Path, tmp_path: Path) -> None:
    jpeg, raw = tmp_path / "jpeg", tmp_path / "raw"
    made = run("bake", tiny_shards, "--out", jpeg, "--side", "30", "--store", "memmap", "--json")
    facts = json.loads(made.stdout)
    assert (facts["codec"], facts["store"], facts["images"]) == ("jpeg", "memmap", 20)
    buckets = ["--buckets", "64x48,48x64"]
    assert run("bake", tiny_shards, "--out", raw, *buckets, "--raw", "--gray", "--jobs", 2).exit_code == 0
    assert run("export", tiny_shards, "--format", "coco", "--out", tmp_path / "coco").exit_code == 0
    planes = tmp_path / "planes"
    assert run("bake", tiny_shards, "--out", planes, *buckets, "--yuv420").exit_code == 0
    assert Shards(planes).codec == "yuv420" and Shards(planes).table.size.tolist() == [64 * 48 * 3 // 2] * 20
    for cache in (jpeg, raw, planes):
        assert run("show", cache, "--out", tmp_path / "show.jpg").exit_code == 0
        assert run("verify", cache).exit_code == 0
        assert "is a cache with other images" in refused("verify", cache, "--source", f"coco:{tmp_path}/coco")
    assert run("export", jpeg, "--format", "coco", "--out", tmp_path / "small", "--allow-cache").exit_code == 0
    for command in (["export", raw, "--format", "coco"], ["merge", raw, jpeg], ["merge", planes, jpeg]):
        assert f"holds raw pixels, no image files; take what it was baked from, {tiny_shards}" in refused(
            *command, "--out", tmp_path / "again"
        )


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--raw"], "--raw needs --size or --buckets"),
        (["--side", "30", "--size", "30", "40"], "--side, --size and --buckets exclude each other"),
        (["--size", "30", "40", "--buckets", "3x4"], "--size and --buckets exclude each other"),
        (["--buckets", "30x40,50"], "--buckets 30x40,50: expected heights and widths such as"),
        (["--size", "0", "40"], "'0' is not an integer of at least 1"),
        (["--side", "0"], "'0' is not an integer of at least 1"),
        (["--quality", "101"], "'101' is not an integer of at least 1 and at most 100"),
        (["--quality", "90", "--raw", "--size", "8", "8"], "--quality applies to JPEGs"),
        (["--yuv420"], "--raw needs --size or --buckets"),
        (["--yuv420", "--size", "30", "41"], "--yuv420 with shapes [(30, 41)]: expected even sides"),
        (["--yuv420", "--gray", "--size", "30", "40"], "and no --gray"),
        (["--target-imgs-per-s", "100", "--side", "30"], "chooses the side and the codec"),
        (["--target-imgs-per-s", "0"], "'0' is not a number above 0"),
        (["--classes", "cow"], "unknown class 'cow'"),
        (["--store", "tape"], "unknown store 'tape'"),
    ],
)
def test_options_that_are_wrong(tiny_shards: Path, tmp_path: Path, arguments: list[str], said: str) -> None:
    assert said in refused("bake", tiny_shards, "--out", tmp_path / "cache", *arguments)
    assert not (tmp_path / "cache").exists()


def test_folders_that_are_taken(tiny_shards: Path, tmp_path: Path) -> None:
    assert "is inside the shards" in refused("bake", tiny_shards, "--out", tiny_shards / "cache")
    made = tiny.shards(tmp_path / "made")
    assert "already holds shards" in refused("bake", tiny_shards, "--out", made)
    nothing = Shards(tiny_shards, view=View(area=(1e9, 1e9), empty="drop"))
    with pytest.raises(ConfigError, match="no images to bake"):
        bake(nothing, tmp_path / "cache", Form())


def rates(found: dict[str, float]) -> tuple[list[str], Callable[[Read, int, int], float]]:
    """A measuring function that looks up what it is given by what it reads: the image's largest side and kind."""
    tried: list[str] = []

    def measure(read: Read, images: int, threads: int) -> float:
        pixels = read(images - 1)
        assert isinstance(pixels, np.ndarray)
        tried.append(f"{pixels.shape[0]}x{pixels.shape[1]}")
        return found.get(tried[-1], 10.0)

    return tried, measure


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Shards:
    out = tmp_path_factory.mktemp("photos") / "s"
    with ShardWriter(out, tiny.CLASSES) as writer:
        for n in range(3):
            data = tiny.encode(tiny.pixels(400, 500, n))
            record = Record(f"{n}.jpg", "train", data, 400, 500, *[np.zeros((0, 4), np.float32)], *[np.zeros(0, k) for k in (np.int32, np.uint8)])  # noqa: E501  # fmt: skip
            writer.add(record, data, probe(data))
        writer.publish()
    return Shards(out)


def test_a_target_takes_the_largest_side_that_reaches_it(photos: Shards, tmp_path: Path) -> None:
    tried, measure = rates({"400x500": 100, "384x480": 120, "320x400": 200, "256x320": 300})
    choice = tune(photos, 150, Form(), tmp_path / "out", threads=2, measure=measure)
    assert choice.reached and choice.chosen.form == Form(side=320)
    assert tried == ["400x500", "400x500", "384x480", "320x400"]  # as it is, encoded anew, smaller
    first, second = choice.text().splitlines()
    assert first.startswith("jpeg q92, side 320: 200 img/s") and "2 threads, 3 images" in first
    assert second.startswith("reaches 150 img/s; the one before it, jpeg q92, side 384: 120 img/s")


def test_a_target_that_the_shards_reach_needs_no_cache(photos: Shards, tmp_path: Path) -> None:
    choice = tune(photos, 5, Form(), tmp_path / "out", threads=1, measure=rates({})[1])
    assert choice.chosen.form is None and choice.facts()["chosen"]["form"] is None
    out = tmp_path / "cache"
    said = run("bake", photos.path, "--out", out, "--target-imgs-per-s", 0.001)
    assert said.exit_code == 0 and "no cache is needed" in said.stdout and not out.exists()


def test_a_target_that_only_raw_pixels_reach(photos: Shards, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, measure = rates({"448x448": 5000, "384x384": 6000})
    form = Form(gray=True)
    choice = tune(photos, 5000, form, tmp_path / "out", threads=1, measure=measure)
    assert choice.chosen.form == Form(shapes=((448, 448),), gray=True, raw=True)
    assert choice.chosen.bytes == 3 * 448 * 448
    monkeypatch.setattr("dataforge.transform.tune.free_bytes", lambda out: 3 * 448 * 448 - 1)
    choice = tune(photos, 5000, form, tmp_path / "out", threads=1, measure=measure)
    assert choice.chosen.form == Form(shapes=((384, 384),), gray=True, raw=True)


def test_a_target_that_nothing_reaches(photos: Shards, tmp_path: Path) -> None:
    choice = tune(photos, 1e9, Form(shapes=((60, 90),)), tmp_path / "out", threads=1, measure=rates({"60x90": 7})[1])
    assert not choice.reached and choice.chosen.rate == 7
    assert "none of 2 forms reaches 1,000,000,000 img/s; this is the fastest" in choice.text()


def test_a_real_measurement(photos: Shards, tmp_path: Path) -> None:
    out = tmp_path / "cache"
    said = run("bake", photos.path, "--out", out, "--target-imgs-per-s", 1e9, "--size", 40, 60, "--json")
    facts = json.loads(said.stdout)
    assert facts["target"]["reached"] is False and len(facts["target"]["tried"]) == 2
    assert all(row["imgs_per_s"] > 0 for row in facts["target"]["tried"])
    form = facts["target"]["chosen"]["form"]
    assert facts["codec"] == ("raw" if form["raw"] else "jpeg") and Shards(out).table.width.tolist() == [60] * 3
