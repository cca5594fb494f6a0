"""Mutation of bytes: flipped bits, telling numbers and words, and moved, repeated, removed and cut pieces."""

from __future__ import annotations

import random

NUMBERS = [0, 1, 2, 3, 4, 8, 16, 0xFF, 0x7FFF, 0xFFFF, (1 << 31) - 1, 1 << 31, (1 << 32) - 1, 1 << 40, (1 << 63) - 1]
NUMBERS += [1 << 63, (1 << 64) - 1]
WORDS = [
    b"",
    b"null",
    b"-",
    b"1e999",
    b"NaN",
    b"99999999999999999999",
    b"[",
    b"{}",
    b'"',
    b"\\ud800",
    b"\xff",
    b"../",
    b",",
]


def mutate(data: bytes, rng: random.Random) -> bytes:
    """Return another content, of a few changes at most."""
    made = bytearray(data or b"\0")
    for _ in range(rng.choice((1, 1, 1, 2, 3, 8))):
        made = made or bytearray(b"\0")
        at, kind = rng.randrange(len(made)), rng.random()
        if kind < 0.3:
            made[at] ^= 1 << rng.randrange(8)
        elif kind < 0.45:
            made[at] = rng.randrange(256)
        elif kind < 0.8:
            width = rng.choice((2, 4, 8))
            at -= at % width
            made[at : at + width] = (rng.choice(NUMBERS) & ((1 << 8 * width) - 1)).to_bytes(width, "little")
        elif kind < 0.9:
            made[at : at + rng.randrange(4)] = rng.choice(WORDS)
        elif kind < 0.95:
            source, length = rng.randrange(len(made)), rng.randrange(64)
            made[at : at + length] = made[source : source + length]
        elif len(made) > 1:
            del made[at : at + rng.randrange(1, len(made))]
    return bytes(made)
