"""The order in which an epoch takes its samples: all at once, or a window of them at a time."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dataforge.errors import ConfigError
from dataforge.rng import bits
from dataforge.threads import cached_property

BLOCK = 64  # successive samples that stay in one window, at most
BLOCKS = 64  # in a window, at least


def window_of(shuffle: bool | str) -> int | None:
    """Return N of "window:N"; None for the other values that `shuffle` may have: "full", True and False.

    Raises:
        ConfigError: it is none of these.
    """
    if isinstance(shuffle, bool) or shuffle == "full":
        return None
    kind, _, size = str(shuffle).partition(":")
    if kind != "window" or not size.isdecimal() or not size.isascii() or int(size) < 1:
        raise ConfigError(f"shuffle is {shuffle!r}; expected full, or window:N such as window:16384")
    return int(size)


@dataclass(frozen=True)
class Windows:
    """An epoch's samples, divided into windows that hold random blocks of successive samples.

    A window is known without those before it. The bounds of blocks are shifted at random, to differ in each epoch.

    Attributes:
        total: number of samples.
        size: samples of a window, of the last up to twice as many; None for a single window of all.
    """

    total: int
    size: int | None
    seed: int
    epoch: int

    def __len__(self) -> int:
        return max(1, self.total // (self.size or self.total))

    def bounds(self, window: int) -> tuple[int, int]:
        """Return where a window starts and ends in the order of blocks."""
        size = self.size or self.total
        return window * size, self.total if window == len(self) - 1 else (window + 1) * size

    @cached_property
    def _blocks(self) -> tuple[NDArray[np.int64], int]:
        """(B,) the whole blocks in this epoch's order, and the first sample of the first block."""
        assert self.size
        count = self.total // self._block
        order = np.argsort(bits(self.seed, self.epoch, np.arange(count), "blocks")[:, 0], kind="stable")
        shift = bits(self.seed, self.epoch, np.zeros(1, np.int64), "blocks from")[0, 0] % np.uint64(self.total)
        return order, int(shift)

    @property
    def _block(self) -> int:
        return min(BLOCK, max(1, (self.size or 0) // BLOCKS))

    def samples(self, window: int) -> NDArray[np.int64]:
        """Return the numbers 0..total - 1 that are in a window, block by block."""
        place = np.arange(*self.bounds(window))
        if len(self) == 1:
            return place
        order, shift = self._blocks
        block, rest = np.divmod(place, self._block)
        whole = block < len(order)  # the last block is shorter, and stays last
        block[whole] = order[block[whole]]
        return (block * self._block + rest + shift) % self.total


def spread(rows: NDArray[np.int64], full: int) -> None:
    """Rearrange shuffled rows of full steps in place, so that each step has one of each of `full` successive parts.

    Hence a rank, which takes the same share of each step, reads the same part of a window in all steps.
    """
    drawn = np.empty(int(rows.max(initial=-1)) + 1, np.int64)
    drawn[rows] = np.arange(len(rows))
    parts = np.sort(rows).reshape(full, -1)
    rows[:] = np.take_along_axis(parts, np.argsort(drawn[parts], axis=1), axis=1).T.ravel()
