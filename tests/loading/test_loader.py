from __future__ import annotations

import ctypes
import gc
import multiprocessing
import os
import pickle
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
import warnings
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

import dataforge
from dataforge import Batch, Loader, Shards
from dataforge.analysis.padding import padding_waste
from dataforge.augment.executors import cpu
from dataforge.errors import ConfigError, DataError, ShardError
from dataforge.images.decode import decode
from dataforge.images.header import probe
from dataforge.record import Record
from dataforge.shards import ahead
from dataforge.shards.writer import ShardWriter
from dataforge.transform.bake import Form, bake
from tests import tiny

SIZE = (96, 128)


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.shards(tmp_path_factory.mktemp("many") / "s", repeat=4, splits=("train",), shard_bytes=20_000)


def same(a: Batch, b: Batch) -> bool:
    fields = ("images", "boxes", "labels", "flags", "affine", "index")
    return all(torch.equal(getattr(a, name), getattr(b, name)) for name in fields)


def test_without_augmentation_images_and_boxes_are_the_source_letterboxed(tiny_shards):
    shards = Shards(tiny_shards, "train")
    seen = []
    for batch in Loader(tiny_shards, batch_size=4, size=SIZE, shuffle=False):
        assert batch.images.dtype == torch.uint8 and batch.images.shape[1:] == (3, *SIZE)
        for i, record in enumerate(batch.index.tolist()):
            seen.append(record)
            truth = shards.table.take(np.array([record]))
            n = len(truth.labels)
            assert (batch.labels[i, n:] == -1).all() and (batch.boxes[i, n:] == 0).all()
            assert batch.labels[i, :n].tolist() == truth.labels.tolist()
            assert batch.flags[i, :n].tolist() == truth.flags.tolist()
            (sx, _, x), (_, sy, y) = batch.affine[i, :2]
            expected = torch.from_numpy(truth.boxes) * torch.stack([sx, sy] * 2) + torch.stack([x, y] * 2)
            torch.testing.assert_close(batch.boxes[i, :n], expected, atol=1e-3, rtol=0)
            pixels = decode(shards.blob(record), int(shards.table.orientation[record]))
            h, w = round(float(pixels.shape[0] * sy)), round(float(pixels.shape[1] * sx))
            inner = batch.images[i, :, round(float(y)) : round(float(y)) + h, round(float(x)) : round(float(x)) + w]
            assert abs(inner.float().mean() - pixels.mean()) < 6
    assert seen == list(range(len(shards)))


def test_three_hundred_boxes_all_arrive(tiny_shards):
    batches = list(Loader(tiny_shards, batch_size=10, size=SIZE))
    boxes, labels, image = batches[0].flat()
    assert (batches[0].labels >= 0).sum(1).max() == 300 and batches[0].labels.shape[1] == 512
    assert len(boxes) == len(labels) == len(image) == len(Shards(tiny_shards, "train").table.boxes)


@pytest.mark.parametrize("augment", [None, "flip", "yolo"])
def test_the_same_batches_for_any_number_of_threads(many, augment):
    runs = [list(Loader(many, batch_size=7, size=SIZE, augment=augment, threads=t, seed=5)) for t in (1, 2, 8)]
    for a, b, c in zip(*runs, strict=True):
        assert same(a, b) and same(a, c)


def test_epochs_differ_and_each_pass_takes_the_next(many):
    loader = Loader(many, batch_size=7, size=SIZE, augment="yolo")
    first, second = list(loader), list(loader)
    assert loader.epoch == 1
    next(iter(loader))  # an incomplete pass of epoch 2
    assert loader.epoch == 2 and loader.state_dict()["step"] == 1
    for epoch, batches in ((0, first), (1, second)):
        loader.set_epoch(epoch)
        assert all(same(a, b) for a, b in zip(loader, batches, strict=True))
    assert not same(first[0], second[0])
    assert sorted(torch.cat([b.index for b in second]).tolist()) == list(range(40))


@pytest.mark.parametrize("at", [0, 1, 3, 5, 6])
@pytest.mark.parametrize(
    "how", [{"size": SIZE}, {"buckets": [(64, 96), (96, 64)]}, {"size": SIZE, "shuffle": "window:7"}]
)
def test_a_resumed_loader_gives_the_rest(many, at, how):
    how = {"batch_size": 7, "augment": "yolo", "seed": 3, **how}
    whole = Loader(many, **how)
    whole.set_epoch(4)
    expected = list(whole)
    stopped = Loader(many, **how)
    stopped.set_epoch(4)
    batches = iter(stopped)
    for _ in range(at):
        next(batches)
    state = stopped.state_dict()
    batches.close()
    resumed = Loader(many, **how, threads=1)
    resumed.load_state_dict(state)
    rest = list(resumed)
    assert len(rest) == len(expected) - at
    assert all(same(a, b) for a, b in zip(expected[at:], rest, strict=True))
    assert len(list(resumed)) == len(expected)


def test_a_state_of_other_settings_is_refused(many, tiny_shards):
    state = Loader(many, batch_size=7, size=SIZE).state_dict()
    for other in (Loader(many, batch_size=6, size=SIZE), Loader(many, batch_size=7, size=SIZE, shuffle="window:14")):
        with pytest.raises(ConfigError, match="saved with other"):
            other.load_state_dict(state)
    Loader(many, batch_size=7, size=SIZE, shuffle="full").load_state_dict(state)
    with pytest.raises(ConfigError, match="saved with other"):
        Loader(tiny_shards, batch_size=7, size=SIZE).load_state_dict(state)


@pytest.mark.parametrize(
    "how",
    [{"size": SIZE}, {"buckets": [(64, 96), (96, 64)]}, {"buckets": [(64, 96), (96, 64)], "shuffle": "window:14"}],
)
@pytest.mark.parametrize("world", [2, 3])
def test_ranks_put_together_are_the_single_process(many, world, how):
    how = {**how, "augment": "yolo", "seed": 2}
    ranks = [list(Loader(many, batch_size=6 // world, rank=r, world=world, **how)) for r in range(world)]
    alone = list(Loader(many, batch_size=6, **how))
    assert [len(batches) for batches in ranks] == [len(alone)] * world
    for one, parts in zip(alone, zip(*ranks, strict=True), strict=True):
        together = [pair for part in parts for pair in by_record([part])]
        for (i, (image, boxes)), (j, (expected, wanted)) in zip(together, by_record([one]), strict=True):
            assert i == j and torch.equal(image, expected) and torch.equal(boxes, wanted)


@pytest.mark.parametrize(("before", "after"), [(1, 2), (3, 1), (2, 3)])
@pytest.mark.parametrize(("at", "shuffle"), [(0, True), (2, True), (5, True), (2, "window:12"), (5, "window:12")])
def test_another_number_of_ranks_goes_on_where_the_first_stopped(many, before, after, at, shuffle):
    how = {"size": SIZE, "augment": "yolo", "seed": 2, "sampling": np.linspace(0.5, 2, 40), "shuffle": shuffle}
    expected = list(by_record(Loader(many, batch_size=6, **how)))
    stopped = Loader(many, batch_size=6 // before, world=before, **how)
    batches = iter(stopped)
    for _ in range(at):
        next(batches)
    state = stopped.state_dict()
    batches.close()
    loaders = [Loader(many, batch_size=6 // after, rank=r, world=after, **how) for r in range(after)]
    for loader in loaders:
        loader.load_state_dict(state)
    rest = [pair for parts in zip(*loaders, strict=True) for part in parts for pair in by_record([part])]
    assert len(rest) == len(expected) - 6 * at > 0
    for (i, (image, boxes)), (j, (other, wanted)) in zip(rest, expected[6 * at :], strict=True):
        assert i == j and torch.equal(image, other) and torch.equal(boxes, wanted)


def by_record(batches):
    for batch in batches:
        for i, record in enumerate(batch.index.tolist()):
            yield record, (batch.images[i].clone(), batch.boxes[i][batch.labels[i] >= 0].clone())


def test_buckets_keep_one_shape_a_batch_and_choose_by_aspect(many):
    loader = Loader(many, batch_size=7, size=None, buckets=[(64, 96), (96, 64)])
    table = loader.shards.table
    for batch in loader:
        wide = batch.images.shape[-1] > batch.images.shape[-2]
        index = batch.index.numpy()
        assert ((table.width[index] > table.height[index]) == wide).all()


@pytest.mark.parametrize("yuv420", [False, True])
def test_a_cache_of_pixels_gives_the_batches_that_its_source_does(many, tmp_path, yuv420):
    bake(Shards(many), tmp_path / "raw", Form(raw=True, shapes=[SIZE], yuv420=yuv420))
    source = Loader(many, batch_size=7, size=SIZE, seed=4)
    gathered = Loader(tmp_path / "raw", batch_size=7, size=SIZE, seed=4, threads=3)
    for a, b in zip(source, gathered, strict=True):
        assert torch.equal(a.index, b.index) and torch.equal(a.labels, b.labels) and torch.equal(a.flags, b.flags)
        assert (a.boxes - b.boxes).abs().max() < 1e-3 and (a.affine - b.affine).abs().max() < 1e-3
        assert (a.images.float() - b.images.float()).abs().mean() < 1.5
    moved = Loader(tmp_path / "raw", batch_size=7, size=SIZE, seed=4, augment="flip")
    for a, b in zip(Loader(many, batch_size=7, size=SIZE, seed=4, augment="flip"), moved, strict=True):
        assert (a.boxes - b.boxes).abs().max() < 1e-3 and (a.affine - b.affine).abs().max() < 1e-3
        assert (a.images - b.images).abs().mean() < 0.01


def on_device(*args, **kwargs) -> Loader:
    """A loader that treats its device as an accelerator: the whole-batch executor and the transfer thread, on a GPU
    where there is one, else on the CPU."""
    loader = Loader(*args, device="cuda" if torch.cuda.is_available() else "cpu", **kwargs)
    loader.collate.on_cpu = False
    return loader


@pytest.mark.parametrize("augment", [None, "yolo", "strong"])
def test_the_device_path_gives_the_same_pictures(many, augment):
    ours = Loader(many, batch_size=8, size=(64, 80), augment=augment)
    theirs = on_device(many, batch_size=8, size=(64, 80), augment=augment)
    for a, b in zip(ours, theirs, strict=True):
        b = b.to("cpu")
        assert torch.equal(a.boxes, b.boxes) and torch.equal(a.labels, b.labels) and torch.equal(a.index, b.index)
        assert b.images.shape == a.images.shape and b.images.dtype == a.images.dtype
        assert b.images.is_contiguous(memory_format=torch.channels_last)
        error = (a.images.float() - b.images.float()).abs() / (1 if augment else 255)
        assert error.mean() < (0.004 if augment != "strong" else 0.01)


@pytest.fixture(scope="module")
def damaged(many: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The set with record 1 cut short."""
    copy = tmp_path_factory.mktemp("damaged") / "copy"
    shutil.copytree(many, copy)
    tiny.damage(copy / "train/00000", 1)
    return copy


NAMED = r"train/00000 record 1 \(sub dir/b.jpg\): the image's bytes are not those that were ingested"


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("make", [Loader, on_device])
def test_a_damaged_record_is_named(damaged, threads, make):
    with pytest.raises(DataError, match=NAMED):
        list(make(damaged, batch_size=8, size=SIZE, threads=threads))


FILLED = [{"op": "flip"}, {"op": "fill", "red": 10, "green": 250, "blue": 90}]
NORMALISED = [*FILLED, {"op": "normalise", "mean": [0.5, 0.4, 0.3], "std": [0.1, 0.2, 0.4]}]
GREY = [114, 114, 114]


@pytest.mark.parametrize(
    ("augment", "colour"),
    [
        (None, GREY),
        ("yolo", np.array(GREY) / 255),
        (FILLED, np.array([10, 250, 90]) / 255),
        (NORMALISED, (np.array([10, 250, 90]) / 255 - [0.5, 0.4, 0.3]) / [0.1, 0.2, 0.4]),
    ],
    ids=["none", "yolo", "fill", "normalise"],
)
@pytest.mark.parametrize("make", [Loader, on_device])
def test_a_damaged_record_may_be_skipped_but_not_silently(many, damaged, augment, colour, make):
    how = {"batch_size": 8, "size": SIZE, "augment": augment}
    loader = make(damaged, on_error="skip", **how)
    assert not loader.skipped
    with pytest.warns(UserWarning, match=NAMED) as warned:
        batches = list(loader)
    assert len(warned) == 1 and list(loader.skipped) == [1]
    for a, b in zip(batches, make(many, **how), strict=True):
        a, b = a.to("cpu"), b.to("cpu")
        whole = a.index != 1
        assert torch.equal(a.images[whole], b.images[whole]) and torch.equal(a.labels[whole], b.labels[whole])
        if not whole.all():
            (blank,) = a.images[~whole].double()
            assert (blank - torch.tensor(np.array(colour, float)).view(3, 1, 1)).abs().max() < 1e-6
            assert (a.labels[~whole] == -1).all() and (a.boxes[~whole] == 0).all()
            assert (b.labels[~whole] >= 0).any() and a.labels.shape == b.labels.shape
    list(loader)  # warned of once


def flip(blobs: Path, after: int, bit: int = 0) -> None:
    """Change one bit of a file of blobs in place."""
    data = bytearray(blobs.read_bytes())
    data[after] ^= 1 << bit
    blobs.write_bytes(data)


@pytest.mark.parametrize("codec", ["jpeg", "raw", "yuv420"])
@pytest.mark.parametrize("make", [Loader, on_device])
def test_a_single_bit_that_flipped_on_the_disk_is_found(tmp_path, codec, make):
    path = tmp_path / "s"
    tiny.shards(tmp_path / "source", splits=("train",))
    shards = Shards(tmp_path / "source")
    form = Form() if codec == "jpeg" else Form(shapes=(SIZE,), raw=True, yuv420=codec == "yuv420")
    bake(shards, path, form, store_name="memmap")
    stored = Shards(path)
    blobs = max(
        (file for file in path.rglob("*") if file.suffix in (".bin", ".memmap")), key=lambda file: file.stat().st_size
    )
    at = blobs.read_bytes().index(bytes(stored.blob(4)))
    flip(blobs, at + stored.table.size[4] // 2)
    how = {"batch_size": 4, "size": SIZE, "shuffle": False}
    with pytest.raises(DataError, match=r"00000 record 4 \(empty.jpg\)|00000 record 4 .*bytes are not those"):
        list(make(path, **how))
    loader = make(path, on_error="skip", **how)
    with pytest.warns(UserWarning, match="record 4 .*CRC-32"):
        batches = list(loader)
    assert list(loader.skipped) == [4]
    assert torch.equal(batches[0].images, next(iter(make(path, **how))).images)
    trusting = [make(path, verify=False, **how), make(Shards(path, verify=False), **how)]
    for loader in trusting:
        assert [batch.index.tolist() for batch in loader] == [batch.index.tolist() for batch in batches]


def test_each_record_is_verified_once_a_process(many, monkeypatch):
    checked = []
    check = Shards._check
    monkeypatch.setattr(Shards, "_check", lambda shards, i, blob: (checked.append(i), check(shards, i, blob))[1])
    loader = Loader(many, batch_size=8, size=SIZE, threads=1)
    for epoch in range(2):
        loader.set_epoch(epoch)
        list(loader)
        assert sorted(checked) == list(range(len(loader.shards)))
    checked.clear()
    list(Loader(many, batch_size=8, size=SIZE, verify=False))
    assert not checked
    assert not pickle.loads(pickle.dumps(Shards(many, verify=False))).verify


def test_opened_shards_bring_their_split(tiny_shards):
    opened = Shards(tiny_shards, "val")
    assert Loader(opened).shards.split == Loader(opened, "val").shards.split == "val"
    assert Loader(opened, "train").shards.split == Loader(Shards(tiny_shards)).shards.split == "train"
    assert Loader(tiny_shards).shards.split == "train"


@pytest.mark.parametrize("make", [Loader, on_device])
@pytest.mark.parametrize("how", ["gone", "cut", "short"])
@pytest.mark.parametrize(
    "cache",
    [
        None,
        Form(raw=True, shapes=[SIZE]),
        Form(raw=True, shapes=[(48, 64)]),
        Form(raw=True, shapes=[SIZE], yuv420=True),
    ],
    ids=["no", "raw", "small", "yuv420"],
)
def test_a_store_that_is_missing_or_broken_is_never_skipped(many, tmp_path, make, how, cache):
    if cache is None:
        shutil.copytree(many, tmp_path / "s")
    else:
        bake(Shards(many), tmp_path / "s", cache)
    store = max(tmp_path.glob("s/train/*/*"), key=lambda file: (file.parent.name, file.stat().st_size))
    if how == "gone":
        store.unlink()
    elif how == "cut":
        store.write_bytes(store.read_bytes()[:-5000])
    else:
        store.write_bytes(b"")
    with pytest.raises(ShardError, match=rf"{store.parent.name}/"):
        list(make(tmp_path / "s", batch_size=8, size=SIZE, on_error="skip"))


def test_a_pasted_record_is_decoded_once(many, monkeypatch):
    """Its boxes are parts of their own, but they are of one image; and what is not painted is not decoded."""
    steps = [{"op": "copy_paste", "count": 6}, {"op": "mosaic", "p": 0.3}]
    expected = list(Loader(many, batch_size=1, size=SIZE, augment=steps, threads=1))
    read: list[int] = []
    pixels = Shards.pixels
    monkeypatch.setattr(Shards, "pixels", lambda shards, i, *how: read.append(i) or pixels(shards, i, *how))
    loader = Loader(many, batch_size=1, size=SIZE, augment=steps, threads=1)
    for step, batch in zip(loader.steps(), expected, strict=True):
        pending = loader.collate.start(loader.collate.lay_out([step], 0)[0], 0)
        loader.collate.fill(pending)
        assert len(pending.record) >= 7 and sorted(read) == sorted(set(read)) and set(read) <= set(pending.record)
        assert torch.equal(pending.batch.images, batch.images)
        read.clear()


def test_what_is_held_is_never_overwritten(many):
    loader = Loader(many, batch_size=4, size=SIZE, augment="yolo", threads=3)
    ways = [lambda b: b.images, lambda b: b.images[1:, 0], lambda b: b.images.numpy()[0], lambda b: b.clone().images]
    held = []
    for epoch in range(3):
        loader.set_epoch(epoch)
        for n, batch in enumerate(loader):
            kept = ways[n % 4](batch)
            held.append((kept, np.asarray(kept).copy()))
            if n % 5 == 4:
                del held[:3]
    assert len(held) == 30 - 18
    assert all((np.asarray(kept) == copy).all() for kept, copy in held)


def test_memory_of_batches_that_were_let_go_is_used_again(many):
    loader = Loader(many, batch_size=4, size=SIZE, augment="yolo")
    places = [batch.images.data_ptr() for _ in range(4) for batch in loader]
    assert len(places) == 40 and len(set(places[10:])) <= 6
    kept = list(loader)
    assert len({batch.images.data_ptr() for batch in kept}) == 10


def test_a_budget_of_pixels_bounds_each_batch(many):
    shapes = [(64, 96), (96, 64), (128, 128)]
    loader = Loader(many, size=None, buckets=shapes, budget=50_000, scales=(0.5, 1.0, 1.5), drop_last=True)
    assert loader.order.batch_size == [4, 4, 1]  # at the largest scale
    assert all(batch.images[:, 0].numel() <= 50_000 for batch in loader)
    with pytest.raises(ConfigError, match="budget 1000; expected at least the 12288 pixels"):
        Loader(many, size=SIZE, budget=1000)


@pytest.mark.parametrize("world", [2, 3, 4])
def test_a_shared_budget_gives_the_same_batches_for_any_number_of_ranks(many, world):
    """The budget is no multiple of the ranks, nor are the 13 and 8 images that it allows."""
    how = {"size": None, "buckets": [(64, 96), (96, 96)], "seed": 1}
    alone = Loader(many, budget=13 * 64 * 96 + 1, **how)
    assert alone.order.batch_size == [13, 8]
    ranks = [Loader(many, budget=Fraction(13 * 64 * 96 + 1, world), rank=r, world=world, **how) for r in range(world)]
    together = [
        np.concatenate([step.index for step in steps]) for steps in zip(*(r.steps() for r in ranks), strict=True)
    ]
    for ours, theirs in zip(alone.steps(), together, strict=True):
        assert ours.index.tolist() == theirs.tolist()
    with pytest.raises(ConfigError, match="expected at least the 9216 pixels"):
        Loader(many, budget=Fraction(9215 * world, world), world=world, **how)


def test_drop_last_with_too_few_records_is_said(tiny_shards):
    with pytest.raises(
        ConfigError, match="drop_last leaves no step: an epoch has 10 records, a step of all ranks takes"
    ):
        len(Loader(tiny_shards, batch_size=11, size=SIZE, drop_last=True))
    assert len(Loader(tiny_shards, batch_size=10, size=SIZE, drop_last=True)) == 1


def test_opencv_has_its_threads_again_after_an_iteration(many):
    before = cv2.getNumThreads()
    cv2.setNumThreads(3)
    try:
        for _ in Loader(many, batch_size=8, size=SIZE):
            assert cv2.getNumThreads() == 1
        assert cv2.getNumThreads() == 3
        batches = iter(Loader(many, batch_size=8, size=SIZE))
        next(batches)
        batches.close()
        assert cv2.getNumThreads() == 3
    finally:
        cv2.setNumThreads(before)


def test_automatic_buckets_leave_less_empty(many):
    plain, auto = Loader(many, size=(160, 160)), Loader(many, size=(160, 160), buckets="auto")
    assert 1 < len(auto.shapes) <= 4 and all(h * w <= 160 * 160 for h, w in auto.shapes)
    empty = [padding_waste(loader.shards.table, loader.steps()).padded_pixels for loader in (plain, auto)]
    assert empty[1] < 0.5 * empty[0]
    assert sorted(torch.cat([batch.index for batch in auto]).tolist()) == list(range(40))


def test_a_record_that_comes_again_looks_different(many):
    loader = Loader(many, batch_size=8, size=SIZE, augment="yolo", sampling=np.full(40, 2.0))
    looks: dict[int, list[torch.Tensor]] = {}
    for i, (image, _) in by_record(loader):
        looks.setdefault(i, []).append(image)
    assert len(looks) == 40 and all(len(pair) == 2 and not torch.equal(*pair) for pair in looks.values())
    once = dict(by_record(Loader(many, batch_size=8, size=SIZE, augment="yolo")))
    assert all(any(torch.equal(image, once[i][0]) for image in pair) for i, pair in looks.items())


def test_rare_classes_come_more_often(tiny_shards):
    loader = Loader(tiny_shards, size=SIZE, sampling="repeat-factor", repeat_threshold=4.0)
    assert (
        loader.order.repeats is not None and loader.order.repeats.max() > 1.9 and loader.order.repeats[6] == 1
    )  # the empty image
    assert sum(len(batch.index) for batch in loader) == round(loader.order.repeats.sum())


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
@pytest.mark.parametrize("source", [(240, 320), (320, 240), (241, 321), (321, 240), (120, 160), (160, 160), (640, 480)])
def test_straight_to_its_place_is_what_the_warp_gives(tmp_path, source, kind):
    data = tiny.encode(tiny.pixels(*source), kind)
    box = tiny.boxes(1, *source)
    flags = np.zeros(1, np.uint8)
    with ShardWriter(tmp_path / "s", tiny.CLASSES, tiny.CLASS_IDS, source="one") as writer:
        record = Record("a", "train", data, *source, box, np.zeros(1, np.int32), flags)
        writer.add(record, data, probe(data))
        writer.publish()
    (batch,) = Loader(tmp_path / "s", size=(160, 160))
    matrix = batch.affine[0].double().numpy()
    expected = np.empty((160, 160, 3), np.uint8)
    cpu.render(decode(data), matrix, None, expected)
    difference = np.abs(batch.images[0].permute(1, 2, 0).numpy().astype(int) - expected)
    assert difference.mean() < 1 and np.quantile(difference, 0.98) <= 4


def working() -> int:
    """Threads of loaders."""
    return sum(thread.name.startswith("dataforge-") for thread in threading.enumerate())


@pytest.mark.parametrize(("make", "more"), [(Loader, 0), (on_device, 1)])
def test_threads_end_when_the_loop_is_left(many, make, more):
    for _ in make(many, batch_size=4, size=SIZE, threads=2):
        assert 2 <= working() - more <= 3  # one lays out the steps ahead, until all are
        break
    assert working() == 0
    with pytest.raises(RuntimeError, match="stop"):
        for _ in make(many, batch_size=4, size=SIZE):
            raise RuntimeError("stop")
    gc.collect()
    assert working() == 0


SCRIPT = """
import sys, threading, time
from dataforge import Loader
def working():
    return sum(thread.name.startswith("dataforge-") for thread in threading.enumerate())
def begin():
    loader = Loader(sys.argv[1], batch_size=4, size=(96, 128), threads=2)
    loader.collate.on_cpu = sys.argv[2] == "cpu"
    return iter(loader)
def swallowed(ignored):
    # An interrupt within a weak reference's callback, as pools of threads have them, is lost to Python's own rules.
    if ignored.exc_type is KeyboardInterrupt:
        interrupts.append(ignored)
interrupts = []
sys.unraisablehook = swallowed
half_way = begin()
next(half_way)
print("ready", flush=True)
try:
    while True:
        for batch in begin():
            if interrupts:
                raise KeyboardInterrupt
except KeyboardInterrupt:
    half_way.close()
    # A pool that is interrupted while it starts or joins a thread does not wait for that one, which ends all the same.
    end = time.monotonic() + 50
    while working() and time.monotonic() < end:
        time.sleep(0.01)
    print(working(), flush=True)
half_way = begin()
next(half_way)
"""


@pytest.mark.parametrize("way", ["cpu", "device"])
def test_an_interrupted_loop_ends_and_so_does_an_interpreter_in_the_middle_of_one(many, way):
    with subprocess.Popen([sys.executable, "-c", SCRIPT, str(many), way], stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None and child.stdout.readline() == "ready\n"
        time.sleep(0.2)
        child.send_signal(signal.SIGINT)
        try:
            out, _ = child.communicate(timeout=60)
        finally:
            child.kill()
    assert (child.returncode, out) == (0, "0\n")


def held() -> tuple[int, int, float]:
    """Threads and open files of this process, and its memory in MB."""
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return threading.active_count(), len(list(Path("/proc/self/fd").iterdir())), pages * resource.getpagesize() / 1e6


needs_proc = pytest.mark.skipif(not Path("/proc/self/statm").is_file(), reason="counts memory and files in /proc")


class _Allocated(ctypes.Structure):
    """glibc's `struct mallinfo2`."""

    _names = ("arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks", "fordblks", "keepcost")
    _fields_ = tuple((name, ctypes.c_size_t) for name in _names)


def allocated() -> float:
    """MB that are in use of all that malloc gave: neither freed memory that its arenas keep, nor huge pages."""
    call = ctypes.CDLL(None).mallinfo2
    call.restype = _Allocated
    facts = call()
    return (facts.uordblks + facts.hblkhd) / 1e6


@needs_proc
@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallinfo2"), reason="asks glibc for the memory in use")
@pytest.mark.parametrize("restarts", [30, pytest.param(1000, marks=pytest.mark.slow)])
@pytest.mark.parametrize("make", [Loader, on_device])
def test_restarts_leave_nothing_behind(many, restarts, make):
    def start() -> None:
        next(iter(make(many, batch_size=4, size=SIZE, augment="yolo", threads=2)))

    for _ in range(10):
        start()
    before, memory = held()[:2], allocated()
    for _ in range(restarts):
        start()
    assert held()[:2] == before and allocated() < memory + 2  # a batch kept a restart would be at least 4


@needs_proc
@pytest.mark.parametrize("epochs", [5, pytest.param(20, marks=pytest.mark.slow)])
def test_memory_stays_flat_over_epochs(many, epochs):
    loader = Loader(many, batch_size=4, size=(256, 256), augment="yolo", threads=2)

    def run(first: int, count: int) -> None:
        for epoch in range(first, first + count):
            loader.set_epoch(epoch)
            for _ in loader:
                pass

    run(0, 2)
    before = held()[2]
    run(2, epochs)
    assert held()[2] < before + 10  # an epoch's images alone are 31 MB


def _sum(loader: Loader) -> int:
    return sum(int(batch.images.numpy().sum()) for batch in loader)  # numpy: torch's own threads do not survive a fork


def _put_sum(loader: Loader, queue) -> None:
    queue.put(_sum(loader))


def in_another_process(path: str, start: str) -> None:
    """Iterate over a loader here, then in a child process, and see that both give the same."""
    loader = Loader(path, batch_size=8, size=SIZE, threads=1)
    expected = _sum(loader)
    context = multiprocessing.get_context(start)
    queue = context.Queue()
    child = context.Process(target=_put_sum, args=(loader, queue))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12 warns of fork in a process with threads
        child.start()
    assert queue.get(timeout=100) == expected
    child.join()


@pytest.mark.parametrize("start", ["fork", "spawn"])
def test_works_in_another_process(many, start):
    # from a process of its own: what threads of other tests hold in OpenCV while this one forks stays held in the child
    code = "import sys\nfrom tests.loading.test_loader import in_another_process\nin_another_process(*sys.argv[1:])"
    root = Path(__file__).resolve().parents[2]
    subprocess.run([sys.executable, "-c", code, str(many), start], cwd=root, check=True, timeout=200)


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ({"batch_size": 0}, "batch_size 0"),
        ({"rank": 2, "world": 2}, "rank 2, world 2"),
        ({"fit": "squash"}, "fit is 'squash'"),
        ({"size": None}, "no buckets"),
        ({"size": (0, 10)}, "at least 1 pixel"),
        ({"split": "nope"}, "unknown split 'nope'; known: train, val"),
        ({"augment": "nope"}, "unknown augmentation recipe"),
        ({"buckets": "some"}, "size or buckets 'some'"),
        ({"size": None, "buckets": "auto"}, "no buckets"),
        ({"on_error": "ignore"}, "on_error is 'ignore'"),
        ({"sampling": "balanced"}, "sampling is 'balanced'"),
        ({"sampling": np.ones(9)}, r"shape \(9,\); expected \(10,\)"),
        ({"sampling": np.full(10, -1.0)}, "finite numbers from 0 on"),
        ({"box_window": 0}, "box_window 0"),
    ],
)
def test_wrong_arguments_are_refused(tiny_shards, how, words):
    with pytest.raises(ConfigError, match=words):
        Loader(tiny_shards, **how)


def test_what_the_package_exports():
    for name in dataforge.__all__:
        assert getattr(dataforge, name).__name__ == name


@pytest.mark.skipif(not hasattr(os, "posix_fadvise"), reason="the system takes no advice about files")
@pytest.mark.parametrize(
    "how", [{}, {"augment": [{"op": "mosaic", "p": 1.0}]}, {"shuffle": "window:14"}], ids=["plain", "mosaic", "window"]
)
def test_the_disk_is_told_every_piece_before_it_is_read(many, monkeypatch, how):
    expected = list(Loader(many, batch_size=7, size=SIZE, threads=1, **how))
    told, read, pread = [], [], os.pread

    def reading(handle, length, start):
        read.append((handle, start, length, len(told)))
        return pread(handle, length, start)

    class Immediately:
        def submit(self, call, *args):
            call(*args)

    monkeypatch.setattr(os, "posix_fadvise", lambda *piece: told.append(piece[:3]))
    monkeypatch.setattr(os, "pread", reading)
    monkeypatch.setattr(ahead, "_pool", lambda process: Immediately())
    loader = Loader(many, batch_size=7, size=SIZE, threads=2, **how)
    for batch, other in zip(loader, expected, strict=True):
        assert torch.equal(batch.images, other.images)
    assert len(set(told)) == len(loader.shards)
    sizes = loader.shards.table.size.tolist()
    assert sorted(length for *_, length in set(told)) == sorted(sizes)
    images = [(piece, before) for *piece, before in read if tuple(piece) in set(told)]
    assert len(images) >= len(sizes) and all(tuple(piece) in told[:before] for piece, before in images)
