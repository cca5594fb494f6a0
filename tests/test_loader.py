from __future__ import annotations

import multiprocessing
import shutil
import threading
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

import dataforge
from dataforge import Batch, Loader, Shards
from dataforge.decode import decode
from dataforge.errors import ConfigError, DataError
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
            scale, x, y = batch.affine[i, 0, 0], batch.affine[i, 0, 2], batch.affine[i, 1, 2]
            expected = torch.from_numpy(truth.boxes) * scale + torch.stack([x, y, x, y])
            torch.testing.assert_close(batch.boxes[i, :n], expected, atol=1e-3, rtol=0)
            pixels = decode(shards.blob(record), int(shards.table.orientation[record]))
            h, w = round(float(pixels.shape[0] * scale)), round(float(pixels.shape[1] * scale))
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


def test_epochs_differ_and_iterating_again_repeats(many):
    loader = Loader(many, batch_size=7, size=SIZE, augment="yolo")
    first, again = list(loader), list(loader)
    loader.set_epoch(1)
    second = list(loader)
    assert all(same(a, b) for a, b in zip(first, again, strict=True))
    assert not same(first[0], second[0])
    assert sorted(torch.cat([b.index for b in second]).tolist()) == list(range(40))


@pytest.mark.parametrize("at", [0, 1, 3, 5, 6])
@pytest.mark.parametrize("buckets", [None, [(64, 96), (96, 64)]])
def test_a_resumed_loader_gives_the_rest(many, at, buckets):
    how = {"batch_size": 7, "size": None if buckets else SIZE, "buckets": buckets, "augment": "yolo", "seed": 3}
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
    for other in (Loader(many, batch_size=6, size=SIZE), Loader(many, batch_size=7, size=SIZE, seed=1)):
        with pytest.raises(ConfigError, match="saved with other"):
            other.load_state_dict(state)
    with pytest.raises(ConfigError, match="saved with other"):
        Loader(tiny_shards, batch_size=7, size=SIZE).load_state_dict(state)


@pytest.mark.parametrize("world", [2, 3])
def test_ranks_share_the_epoch(many, world):
    alone = dict(by_record(Loader(many, batch_size=6, size=SIZE, augment="yolo")))
    loaders = [Loader(many, batch_size=2, size=SIZE, augment="yolo", rank=r, world=world) for r in range(world)]
    assert len({len(loader) for loader in loaders}) == 1
    together = [pair for loader in loaders for pair in by_record(loader)]
    assert sorted(i for i, _ in together) == sorted(alone)
    for i, (image, boxes) in together:
        assert torch.equal(image, alone[i][0]) and torch.equal(boxes, alone[i][1])


def by_record(loader: Loader):
    for batch in loader:
        for i, record in enumerate(batch.index.tolist()):
            yield record, (batch.images[i].clone(), batch.boxes[i][batch.labels[i] >= 0].clone())


def test_buckets_keep_one_shape_a_batch_and_choose_by_aspect(many):
    loader = Loader(many, batch_size=7, size=None, buckets=[(64, 96), (96, 64)])
    table = loader.shards.table
    for batch in loader:
        wide = batch.images.shape[-1] > batch.images.shape[-2]
        index = batch.index.numpy()
        assert ((table.width[index] > table.height[index]) == wide).all()


def test_the_device_path_gives_the_same_pictures(many):
    ours = Loader(many, batch_size=8, size=(64, 80), augment="yolo")
    theirs = Loader(many, batch_size=8, size=(64, 80), augment="yolo")
    theirs._on_cpu = False  # the whole-batch executor, here on the CPU
    for a, b in zip(ours, theirs, strict=True):
        assert torch.equal(a.boxes, b.boxes) and torch.equal(a.labels, b.labels)
        assert b.images.shape == a.images.shape
        assert (a.images - b.images).abs().mean() < 0.004


def test_a_damaged_record_is_named(many, tmp_path):
    from dataforge.shards.lmdb import LmdbStore

    copy = tmp_path / "copy"
    shutil.copytree(many, copy)
    store = copy / "train/00000"
    blobs = [bytes(LmdbStore.open(store)[i]) for i in range(len(LmdbStore.open(store)))]
    (store / "blobs.mdb").unlink()
    writer = LmdbStore.create(store)
    for i, blob in enumerate(blobs):
        writer.append(blob[: len(blob) // 2] if i == 1 else blob)
    writer.close()
    with pytest.raises(DataError, match=r"train/00000 record 1 \(sub dir/b.jpg\)"):
        list(Loader(copy, batch_size=8, size=SIZE))


def test_threads_end_when_the_loop_is_left(many):
    def decoders() -> int:
        return sum(thread.name.startswith("dataforge-decode") for thread in threading.enumerate())

    for _ in Loader(many, batch_size=4, size=SIZE):
        assert decoders() > 0
        break
    assert decoders() == 0
    with pytest.raises(RuntimeError, match="stop"):
        for _ in Loader(many, batch_size=4, size=SIZE):
            raise RuntimeError("stop")


def _sum(loader: Loader) -> int:
    return sum(int(batch.images.numpy().sum()) for batch in loader)  # numpy: torch's own threads do not survive a fork


def _put_sum(loader: Loader, queue) -> None:
    queue.put(_sum(loader))


@pytest.mark.parametrize("start", ["fork", "spawn"])
def test_works_in_another_process(many, start):
    loader = Loader(many, batch_size=8, size=SIZE, threads=1)
    expected = _sum(loader)
    context = multiprocessing.get_context(start)
    queue = context.Queue()
    child = context.Process(target=_put_sum, args=(loader, queue))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12 warns of fork in a process with threads
        child.start()
    assert queue.get(timeout=100) == expected
    child.join()


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
    ],
)
def test_wrong_arguments_are_refused(tiny_shards, how, words):
    with pytest.raises(ConfigError, match=words):
        Loader(tiny_shards, **how)


def test_what_the_package_exports():
    for name in dataforge.__all__:
        assert getattr(dataforge, name).__name__ == name
