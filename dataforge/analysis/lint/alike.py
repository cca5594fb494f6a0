"""Detection of duplicate images within and across splits, by equal bytes or similar hashes."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from dataforge.record import Finding
from dataforge.transform.similar import MAX_DISTANCE, Hashes, distance, groups


def digest(blob: bytes) -> int:
    """Return 64 bits that only identical files share."""
    return int.from_bytes(hashlib.blake2b(blob, digest_size=8).digest(), "little")


def twins(
    keys: Sequence[str],
    files: Sequence[str],
    split: NDArray[np.int64],
    names: Sequence[str],
    digests: Hashes,
    hashes: Hashes,
) -> Iterator[Finding]:
    """Yield a finding for each image that resembles another one, naming the most similar one.

    An image is compared with the preceding images of its split, and with all images of the preceding splits.

    Args:
        keys, files, split: (N,) key and file of each image, and its split as an index into `names`.
        names: the splits; the first is the training split.
        digests, hashes: (N,) as computed by `digest` and `dataforge.transform.similar`.
    """
    group = groups(hashes, exact=digests)
    order = np.argsort(group, kind="stable")
    for members in np.split(order, np.flatnonzero(np.diff(group[order])) + 1):
        if len(members) < 2:
            continue
        for rank, i in enumerate(members.tolist()):
            before = members[:rank]
            within = before[split[before] == split[i]]
            across = members[split[members] < split[i]]
            for others, where in ((within, ""), (across, "-across")):
                nearest = _nearest(i, others, digests, hashes)
                if nearest is None:
                    continue
                j, bits = nearest
                code = ("copy" if bits < 0 else "alike") + where
                how = "the same bytes" if bits < 0 else f"{bits} of 64 bits differ"
                other = names[split[j]], keys[j]
                yield Finding(
                    action="noted",
                    code=code,
                    file=files[i],
                    key=keys[i],
                    value=": ".join(other),
                    reason=f"{how}; both are kept",
                    scope="image",
                    split=names[split[i]],
                    other=other,
                )


def _nearest(i: int, others: NDArray[np.int64], digests: Hashes, hashes: Hashes) -> tuple[int, int] | None:
    """Return the image of `others` most similar to i, and the number of differing hash bits, -1 for equal bytes."""
    bits = distance(hashes[others], hashes[i]).astype(np.int64)
    bits[digests[others] == digests[i]] = -1
    if not len(bits) or bits.min() > MAX_DISTANCE:
        return None
    best = int(bits.argmin())
    return int(others[best]), int(bits[best])
