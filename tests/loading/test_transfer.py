"""Batches that a thread of their own brings to the device: on a GPU where there is one, else on the CPU."""

from __future__ import annotations

import threading
import time
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from dataforge import Batch, Loader
from dataforge.loading.transfer import Transfer, _stream
from tests import tiny
from tests.loading.test_loader import SIZE, on_device, working


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.shards(tmp_path_factory.mktemp("many") / "s", repeat=4, splits=("train",))


def test_a_device_gets_its_batches_ahead_from_one_thread_and_in_order(many):
    loader = on_device(many, batch_size=4, size=SIZE, augment="flip", threads=3)
    move, seen = loader.collate.move, []

    def slow(pending):
        seen.append((threading.current_thread().name, pending.batch.index.tolist()))
        time.sleep(0.02)
        return move(pending)

    loader.collate.move = slow
    got = []
    for number, batch in enumerate(loader):
        got.append(batch.index.tolist())
        if number == 0:
            end = time.monotonic() + 60
            while len(seen) < 4 and time.monotonic() < end:
                time.sleep(0.01)
            time.sleep(0.2)
            assert len(seen) == 4, "as many as are made ahead, and no more"
    assert got == [index for _, index in seen] == [step.index.tolist() for step in loader.steps()]
    assert {name for name, _ in seen} == {"dataforge-transfer_0"}


@pytest.mark.parametrize("at", [0, 3, 9])
def test_what_goes_wrong_in_the_transfer_thread_is_raised_where_its_batch_would_be(many, at):
    loader = on_device(many, batch_size=4, size=SIZE)
    move, batches = loader.collate.move, iter(loader)
    begun: list[int] = []

    def bad(pending):
        begun.append(0)
        if len(begun) > at:
            raise RuntimeError("out of memory")
        return move(pending)

    loader.collate.move = bad
    got = []
    with pytest.raises(RuntimeError, match="out of memory"):
        got.extend(batches)
    assert len(got) == at and working() == 0


def test_a_transform_draws_in_the_thread_that_uses_the_batch(many):
    names: set[str] = set()

    def noise(images: torch.Tensor) -> torch.Tensor:
        names.add(threading.current_thread().name)
        return images + torch.rand_like(images)

    ours = list(Loader(many, batch_size=8, size=SIZE, augment="flip", transform=noise))
    torch.manual_seed(0)
    before = torch.random.get_rng_state()
    theirs = list(on_device(many, batch_size=8, size=SIZE, augment="flip", transform=noise))
    assert names == {threading.current_thread().name} and torch.equal(before, torch.random.get_rng_state())
    if not torch.cuda.is_available():
        assert all((a.images - b.images).abs().mean() < 0.01 for a, b in zip(ours, theirs, strict=True))


def test_on_cuda_the_work_is_on_a_stream_of_its_own_and_the_user_s_stream_waits_for_it(many, monkeypatch):
    """The order of the calls, with what CUDA would do left out."""
    log: list[tuple[str, object, str]] = []

    def note(what: str, which: object = None) -> None:
        log.append((what, which, threading.current_thread().name.partition("_")[0]))

    class Stream:
        def __init__(self, index: int) -> None:
            self.device = torch.device("cuda", index)

        def record_event(self) -> str:
            note("event", self.device.index)
            return "done"

        def wait_event(self, event: str) -> None:
            note("wait", event)

    @contextmanager
    def entered(what: str, given: object):
        note(f"enter {what}")
        yield
        note(f"leave {what}")

    _stream.cache_clear()
    mine = Stream(1)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 1)
    monkeypatch.setattr(torch.cuda, "Stream", Stream)
    monkeypatch.setattr(torch.cuda, "device", lambda given: entered("device", given))
    monkeypatch.setattr(torch.cuda, "stream", lambda given: entered("stream", given))
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: mine)
    monkeypatch.setattr(torch.Tensor, "record_stream", lambda tensor, stream: note("record", stream))
    (batch,) = Loader(many, batch_size=40, size=SIZE)

    def make() -> Batch:
        note("make")
        return batch

    transfer = Transfer(torch.device("cuda"))
    assert transfer.begin(make)() is batch
    transfer.end()
    there = ["enter device", "enter stream", "make", "event", "leave stream", "leave device"]
    assert [(what, thread) for what, _, thread in log[:6]] == [(what, "dataforge-transfer") for what in there]
    assert log[3][1] == 1 and log[6] == ("wait", "done", "MainThread")
    assert log[7:] == [("record", mine, "MainThread")] * 6
    assert _stream(1) is _stream(1) and _stream(0) is not _stream(1)
    _stream.cache_clear()
