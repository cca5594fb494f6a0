"""Random numbers as a pure function of their purpose: (seed, epoch, record, operation, draw).

There is no generator state, so threads, ranks, batch composition and resuming cannot change a sample. All numbers are
drawn on the host, so their bits are the same for every device.
"""

from __future__ import annotations

import zlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX = (np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB))


def mix(state: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Apply SplitMix64's output function (Steele, Lea, Flood, OOPSLA 2014), a mixing bijection of 64-bit integers."""
    state = state + _GOLDEN
    state = (state ^ (state >> np.uint64(30))) * _MIX[0]
    state = (state ^ (state >> np.uint64(27))) * _MIX[1]
    return state ^ (state >> np.uint64(31))


def bits(seed: int, epoch: int, record: NDArray[np.int64], purpose: str, draws: int = 1) -> NDArray[np.uint64]:
    """Return random 64-bit integers.

    Args:
        record: (n,) record numbers.
        purpose: the use of the numbers; different purposes give independent numbers.
        draws: the count of numbers per record.

    Returns:
        (n, draws).
    """
    words: Any = np.array([seed, epoch, zlib.crc32(purpose.encode())], np.int64).astype(np.uint64)
    state = np.zeros(1, np.uint64)
    for word in words:
        state = mix(state ^ word)
    state = mix(state ^ np.asarray(record).astype(np.uint64))
    return mix(state[:, None] ^ np.arange(draws, dtype=np.uint64))


def uniform(seed: int, epoch: int, record: NDArray[np.int64], purpose: str, draws: int = 1) -> NDArray[np.float64]:
    """Return random numbers in [0, 1), with the arguments of `bits`."""
    return (bits(seed, epoch, record, purpose, draws) >> np.uint64(11)).astype(np.float64) * 2.0**-53
