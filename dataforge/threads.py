"""Number of usable CPU cores, and work spread over threads."""

from __future__ import annotations

import functools
import os
import sys
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from itertools import islice
from pathlib import Path
from typing import Any, Protocol, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")
_TASKS = Path("/proc/self/task")
ENDING = 1.0  # seconds that a fork waits for threads that end
AHEAD = 4  # items per thread that are done, or being done, before they are requested

_locks: weakref.WeakSet[Any] = weakref.WeakSet()
_opencv_lock = threading.Lock()  # also held during a fork
_begun: set[int] = set()  # the system's numbers of all workers so far, except those that had ended at an earlier fork
_opencv_counts: list[int] = []  # OpenCV's threads before the first open block, then those of each open block


def cores() -> int:
    """Return how many CPU cores this process may use: the default number of threads."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def lock() -> threading.Lock:
    """Return a lock that is free in a forked process, even if a thread of the parent held it at the fork."""
    made = threading.Lock()
    _locks.add(made)
    return made


class cached_property(functools.cached_property[Result]):  # noqa: N801
    """functools' as of Python 3.12. In 3.11 it has a lock for all objects of a class, which may be held at a fork."""

    def __init__(self, func: Callable[[Any], Result]) -> None:
        super().__init__(func)
        self.lock = nullcontext()


def workers(threads: int, name: str = "") -> ThreadPoolExecutor:
    """Return a pool of threads that may use OpenCV although the process is forked at some time.

    OpenCV registers a thread when it first calls it, and removes it when it ends, under a lock of its own. A child that
    was forked at that moment would wait for the lock forever. So a fork waits for workers that begin or end.
    """
    return ThreadPoolExecutor(threads, name, initializer=_begin)


def _begin() -> None:
    with _opencv_lock:
        _begun.add(threading.get_native_id())
        cv2: Any = sys.modules.get("cv2")
        if hasattr(cv2, "resize"):  # not while it is being imported
            import numpy as np

            cv2.resize(np.zeros((2, 2, 3), np.uint8), (1, 1))


def ordered(
    work: Callable[[Item], Result], items: Iterable[Item], threads: int, ahead: int = AHEAD
) -> Generator[Result]:
    """Yield the result of `work` for each item, in order, computed by threads that run up to `ahead` items each ahead.

    The items are drawn in the caller's thread. An error raised by drawing them comes after the results of the items
    before it; an error of `work` ends the iteration at once.
    """
    todo, failed = iter(items), None
    waiting: deque[Future[Result]] = deque()
    with workers(threads, "dataforge-ordered") as pool:
        try:
            while True:
                try:
                    waiting.extend(pool.submit(work, item) for item in islice(todo, ahead * threads - len(waiting)))
                except Exception as error:
                    todo, failed = iter(()), error
                if not waiting:
                    break
                yield waiting.popleft().result()
            if failed:
                raise failed
        finally:
            pool.shutdown(cancel_futures=True)


class Spread(Protocol):
    """`ordered`, or what does the same by other means, such as `dataforge.cluster.ordered`."""

    def __call__(self, work: Callable[[Item], Result], items: Iterable[Item], threads: int, /) -> Generator[Result]: ...


@contextmanager
def opencv_threads(count: int) -> Iterator[None]:
    """Have OpenCV use `count` threads during the block, then restore the number it used before.

    The number is global to the process. Blocks may overlap in any order, as two iterators over loaders do: the block
    entered last decides, and the original number is restored when no block is open.
    """
    import cv2

    with _opencv_lock:
        if not _opencv_counts:
            _opencv_counts.append(cv2.getNumThreads())
        _opencv_counts.append(count)
        cv2.setNumThreads(count)
    try:
        yield
    finally:
        with _opencv_lock:
            del _opencv_counts[_opencv_counts.index(count, 1)]
            cv2.setNumThreads(_opencv_counts[-1])
            if len(_opencv_counts) == 1:
                _opencv_counts.clear()


def _stop_opencv() -> None:
    """End OpenCV's threads before a fork. A child would inherit the pool without its threads, and wait for them forever
    as soon as it sets their number. No other thread may start them again until the fork is done."""
    _opencv_lock.acquire()
    _wait_for_ending_workers()
    cv2: Any = sys.modules.get("cv2")
    if hasattr(cv2, "setNumThreads"):
        _at_fork.append(cv2.getNumThreads())
        cv2.setNumThreads(1)


def _wait_for_ending_workers() -> None:
    """A joined thread has left Python, but may still be in the library that it leaves last."""
    _begun.intersection_update(_listed_threads())
    ending = _begun - {thread.native_id for thread in threading.enumerate()}
    end = time.monotonic() + ENDING
    while ending & _listed_threads() and time.monotonic() < end:
        time.sleep(0.0005)
    _begun.difference_update(ending)  # what is still listed is another thread, to which the system gave the number


def _listed_threads() -> set[int]:
    """Return the system's numbers of this process's threads; none on systems that do not list them."""
    return {int(path.name) for path in _TASKS.iterdir()} if _TASKS.is_dir() else set()


def _restore_opencv() -> None:
    if _at_fork:
        sys.modules["cv2"].setNumThreads(_at_fork.pop())
    _opencv_lock.release()


def _free_locks() -> None:
    for held in _locks:
        held._at_fork_reinit()


_at_fork: list[int] = []
if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_stop_opencv, after_in_parent=_restore_opencv, after_in_child=_restore_opencv)
    os.register_at_fork(after_in_child=_free_locks)
