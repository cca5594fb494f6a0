"""A thread that ends this process when the processes that train together wait for one of them in vain."""

from __future__ import annotations

import os
import threading
import time
from contextlib import suppress
from typing import Self

import torch.distributed as dist

from dataforge.command import TROUBLE, echo

BEATS = 8  # posts within the limit
LONGEST = 10.0  # seconds between two posts
Posts = dict[int, tuple[int, int]]  # of a rank: collectives begun, beat


class Watchdog(threading.Thread):
    """Post in torchrun's store how far this process is, and end the process when others are late. A context manager.

    How far is the number of collectives begun, also by DDP. If it has not changed here for `limit` seconds, and no
    other rank has begun more, those ranks are late that have begun fewer, or no longer post. If there are none, this
    process waits for nobody: rank 0 may be making a cache.

    The main thread may be in a call that never returns, so the process ends here, with a line that names the ranks.
    """

    def __init__(self, limit: float) -> None:
        from torch.distributed.distributed_c10d import PrefixStore, _get_default_store

        super().__init__(name="watchdog", daemon=True)
        self.limit, self.pause = limit, min(limit / BEATS, LONGEST)
        self.rank, self.world = dist.get_rank(), dist.get_world_size()
        # connections of their own, since one serves one call at a time
        self.own, self.others = (PrefixStore("watchdog", _get_default_store().clone()) for _ in range(2))
        self.beat = 0
        self.ended = threading.Event()
        self._post()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        self.ended.set()
        self.join()
        if kind is None:
            self.beat = -1
            self._post()

    def run(self) -> None:
        before: Posts = {}
        last, waited, silent = -1, 0.0, 0  # the sum of pauses: no clock, since all processes may be suspended together
        while not self.ended.wait(self.pause):
            waited += self.pause
            if (count := self._post()) != last:
                before, last, waited = {}, count, 0.0
            elif waited > self.limit / 2:
                posts = self._posts()
                silent = 0 if posts else silent + 1
                known = posts or silent >= BEATS // 2  # a single answer may be slow
                if waited > self.limit and known and (ranks := late(self.rank, before, posts)):
                    names = f"rank {', '.join(map(str, ranks))} of {self.world}"
                    echo(f"error: {names}: did not arrive within {self.limit:g} s; stopped, blocked or slow", err=True)
                    # the others are about to see the same, and the store may be in rank 0's process
                    time.sleep((2 if self.rank else 3) * self.pause)
                    os._exit(TROUBLE)
                before = before or posts

    def _post(self) -> int:
        """Post (collectives begun, beat), and return the first."""
        group = dist.group.WORLD
        assert group is not None
        count: int = group._get_sequence_number_for_group()  # type: ignore[attr-defined]
        self.beat += self.beat >= 0
        with suppress(dist.DistError):  # as below
            self.own.set(str(self.rank), f"{count} {self.beat}")
        return count

    def _posts(self) -> Posts:
        """Return all ranks' posts; none if the store, which rank 0 or its torchrun keeps, does not answer in time."""
        posts: list[bytes] = []

        def read() -> None:  # waits without an end for a process that is stopped
            with suppress(dist.DistError):
                posts.extend(self.others.multi_get([str(rank) for rank in range(self.world)]))

        reader = threading.Thread(target=read, daemon=True)
        reader.start()
        reader.join(self.pause)
        return {rank: (int(post.split()[0]), int(post.split()[1])) for rank, post in enumerate(posts)}


def late(own: int, before: Posts, after: Posts) -> list[int]:
    """Return the ranks that rank `own` waits for, by two posts of each: rank 0 without any.

    A negative beat is that of a process that has ended well.
    """
    if not after:
        return [0]
    most, running = after[own][0], {rank: post for rank, post in after.items() if post[1] >= 0}
    if max(count for count, _ in running.values()) > most:
        return []
    return [rank for rank, post in running.items() if post[0] < most or post == before.get(rank)]
