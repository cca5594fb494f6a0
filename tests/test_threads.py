"""Work in threads comes back in order, a little ahead and no more, and ends cleanly."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dataforge.threads import AHEAD, cached_property, lock, opencv_threads, ordered, workers


def ours() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("dataforge-ordered")]


@settings(max_examples=20, deadline=None)
@given(st.lists(st.integers(0, 3), max_size=40), st.integers(1, 5))
def test_results_come_in_the_items_order(delays: list[int], threads: int) -> None:
    def work(one: tuple[int, int]) -> int:
        time.sleep(one[1] / 1000)
        return one[0]

    assert list(ordered(work, enumerate(delays), threads)) == list(range(len(delays)))


@pytest.mark.parametrize("threads", [1, 3])
def test_no_more_is_drawn_than_runs_ahead(threads: int) -> None:
    drawn = 0

    def items() -> Iterator[int]:
        nonlocal drawn
        while drawn < 1000:
            drawn += 1
            yield drawn

    for taken, _ in enumerate(ordered(abs, items(), threads)):
        assert drawn - taken <= AHEAD * threads
        if taken == 50:
            break
    assert drawn < 100 and not ours()


def test_an_error_of_the_items_comes_after_what_was_before_it() -> None:
    def items() -> Iterator[int]:
        yield from range(7)
        raise ValueError("torn")

    results = ordered(lambda i: i * i, items(), 2)
    assert [next(results) for _ in range(7)] == [i * i for i in range(7)]
    with pytest.raises(ValueError, match="torn"):
        next(results)
    assert not ours()


def test_an_error_of_the_work_ends_it() -> None:
    def work(i: int) -> float:
        return 1 / (3 - i)

    results = ordered(work, range(1000), 2)
    assert [next(results) for _ in range(3)] == [1 / 3, 1 / 2, 1]
    with pytest.raises(ZeroDivisionError):
        next(results)
    assert not ours()


def test_opencv_threads_are_put_back_whatever_the_order() -> None:
    before = cv2.getNumThreads()
    cv2.setNumThreads(3)
    try:
        first, second = opencv_threads(1), opencv_threads(2)
        first.__enter__()
        assert cv2.getNumThreads() == 1
        second.__enter__()
        assert cv2.getNumThreads() == 2
        first.__exit__(None, None, None)  # the first to open is the first to close, as loaders' iterators may
        assert cv2.getNumThreads() == 2
        second.__exit__(None, None, None)
        assert cv2.getNumThreads() == 3
        with pytest.raises(KeyError), opencv_threads(1):
            raise KeyError
        assert cv2.getNumThreads() == 3
    finally:
        cv2.setNumThreads(before)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")  # Python 3.12 warns of it in a process with threads
def test_a_forked_process_can_set_opencv_s_threads() -> None:
    """OpenCV has a pool of threads in the parent, which the child does not inherit."""
    before, pixels = cv2.getNumThreads(), np.zeros((1500, 1500, 3), np.uint8)
    try:
        for _ in range(30):
            cv2.setNumThreads(1)
            cv2.setNumThreads(2)
            cv2.GaussianBlur(pixels, (0, 0), 3)
            child = os.fork()
            if not child:
                signal.alarm(10)
                with opencv_threads(1):
                    cv2.GaussianBlur(pixels, (0, 0), 3)
                os._exit(cv2.getNumThreads())
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == cv2.getNumThreads() == 2
    finally:
        cv2.setNumThreads(before)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_lock_that_was_held_at_a_fork_is_free_in_the_child() -> None:
    held, free = lock(), lock()
    with held:
        if not (child := os.fork()):
            signal.alarm(10)
            with held, free:
                os._exit(7)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
        assert held.locked() and not free.locked()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_property_that_was_being_made_at_a_fork_is_made_in_the_child() -> None:
    begun, go = threading.Event(), threading.Event()

    class Made:
        def __init__(self, slow: bool) -> None:
            self.slow = slow

        @cached_property
        def value(self) -> int:
            if self.slow:
                begun.set()
                go.wait()
            return 7

    thread = threading.Thread(target=lambda: Made(True).value)
    thread.start()
    begun.wait()
    if not (child := os.fork()):
        signal.alarm(10)
        os._exit(Made(False).value)
    go.set()
    thread.join()
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="needs /proc")
@pytest.mark.skipif(sys.version_info >= (3, 13), reason="Thread.join waits for the system's thread itself")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_fork_waits_for_threads_that_end() -> None:
    """A thread-local of the C library, whose destructor sleeps for as many microseconds as its value says."""
    libc, key = ctypes.CDLL(None), ctypes.c_uint()
    assert libc.pthread_key_create(ctypes.byref(key), libc.usleep) == 0

    def work() -> int:
        libc.pthread_setspecific(key, ctypes.c_void_p(200_000))
        return threading.get_native_id()

    with workers(1) as pool:
        ending = Path(f"/proc/self/task/{pool.submit(work).result()}")
    assert ending.exists()
    if not (child := os.fork()):
        os._exit(0)
    assert not ending.exists()
    os.waitpid(child, 0)
    libc.pthread_key_delete(key)
