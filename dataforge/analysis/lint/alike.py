"""The same picture more than once: the same bytes, or much the same to look at; within a split, and across splits."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from dataforge.record import Finding
from dataforge.transform.similar import MAX_DISTANCE, Hashes, distance, groups


def digest(blob: bytes) -> int:
    """64 bits that two files only share if they are the same."""
    return int.from_bytes(hashlib.blake2b(blob, digest_size=8).digest(), "little")


def twins(
    keys: Sequence[str],
    files: Sequence[str],
    split: NDArray[np.int64],
    names: Sequence[str],
    digests: Hashes,
    hashes: Hashes,
) -> Iterator[Finding]:
    """One finding for each image that another one is like, naming the one that it is most like.

    An image is compared with those before it in its split, and with all of the splits before.

    Args:
        keys, files, split: (N,) of each image: its key, its file, and its split as an index into `names`.
        names: the splits; the first is the one to train on.
        digests, hashes: (N,) as `digest` and `dataforge.transform.similar` make them.
    """
    group = groups(hashes, exact=digests)
    order = np.argsort(group, kind="stable")
    for members in np.split(order, np.flatnonzero(np.diff(group[order])) + 1):
        if len(members) < 2:
            continue
        for at, i in enumerate(members.tolist()):
            before = members[:at]
            within = before[split[before] == split[i]]
            across = members[split[members] < split[i]]
            for others, where in ((within, ""), (across, "-across")):
                found = _nearest(i, others, digests, hashes)
                if found is None:
                    continue
                j, bits = found
                code = ("copy" if bits < 0 else "alike") + where
                how = "the same bytes" if bits < 0 else f"{bits} of 64 bits differ"
                key, value = f"{names[split[i]]}: {keys[i]}", f"{names[split[j]]}: {keys[j]}"
                yield Finding("noted", code, files[i], key, value, f"{how}; both are kept", "image")


def _nearest(i: int, others: NDArray[np.int64], digests: Hashes, hashes: Hashes) -> tuple[int, int] | None:
    """The one of `others` that i is most like, and how many bits of the hashes differ, -1 for the same bytes."""
    bits = distance(hashes[others], hashes[i]).astype(np.int64)
    bits[digests[others] == digests[i]] = -1
    if not len(bits) or bits.min() > MAX_DISTANCE:
        return None
    best = int(bits.argmin())
    return int(others[best]), int(bits[best])
