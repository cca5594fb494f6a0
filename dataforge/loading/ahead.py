"""Records are announced before their batches are begun, so that a store at a URL or a disk reads them in time."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from itertools import chain, islice

import numpy as np

from dataforge.loading.sampler import Epoch, Step
from dataforge.loading.window import Plan
from dataforge.shards.reader import Shards

FETCHED = 512  # records at a URL, at most, that are fetched before their batches are begun
WHOLE = 256  # records of a window that are announced together, so that most blocks are whole
READ_AHEAD = 128  # records that the disk reads before their batches are begun


def announced(
    shards: Shards, epoch: Epoch, following: Callable[[], Epoch], *, first: int, local: bool
) -> Iterator[Step]:
    """Yield the steps of an epoch. Records at a URL, and those of a window of the shuffle (`local`) on a disk, are
    announced a group of steps ahead, also the first of the following epoch: those of a window in the order of the
    files, whose neighbours are then read together.

    Args:
        first: the step to start from.
    """
    groups = _groups(epoch, first, local)
    if not shards.remote and not (local and shards.reads_ahead):
        yield from chain.from_iterable(groups)
        return

    def first_of_following() -> Iterator[list[Step]]:
        yield from islice(_groups(following(), 0, local), 1)

    now: list[Step] = []
    for then in chain(groups, first_of_following()):
        index = np.concatenate([step.index for step in then])
        index = np.sort(index) if local else index
        if not now:
            shards.prefetch(index.tolist())
        ends = np.linspace(0, len(index), len(now) + 1).astype(int)
        together = 1 + WHOLE // len(then[0].index) if local else 1
        for n, step in enumerate(now):
            if n % together == 0:
                shards.prefetch(index[ends[n] : ends[min(n + together, len(now))]].tolist())
            yield step
        now = then


def _groups(epoch: Epoch, first: int, local: bool) -> Iterator[list[Step]]:
    """Yield the steps from `first` on: those of a window together, else those of half of `FETCHED` records."""
    for steps in epoch.dealt(first):
        size = len(steps) if local else 1 + FETCHED // 2 // len(steps[0].index)
        yield from (steps[start : start + size] for start in range(0, len(steps), size))


def read_ahead(shards: Shards, plans: Iterator[Plan]) -> Iterator[Plan]:
    """Yield the plans; a disk begins to read their records some steps before."""
    if not shards.reads_ahead:
        yield from plans
        return
    waiting: deque[Plan] = deque()
    for plan in plans:
        waiting.append(plan)
        shards.prefetch(plan.record.tolist())
        if len(waiting) * len(plan.index) > READ_AHEAD:
            yield waiting.popleft()
    yield from waiting
