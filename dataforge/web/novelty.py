"""The order of images in which each is as unlike those before it as can be, for frames of videos above all."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dataforge.errors import DataforgeError
from dataforge.images.decode import decode
from dataforge.images.hashing import FLAT, hash_of, reduction
from dataforge.images.header import probe
from dataforge.threads import cores, ordered
from dataforge.web.session import Session


class Novelty:
    """Compares the images of a session by their hashes, in a thread, from when somebody asks."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._order: list[int] | None = None
        self._closed = False
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()

    def queue(self) -> dict[str, Any]:
        """Return how new each image is, 1 for the first of the order, once all have been compared."""
        with self._lock:
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="novelty", daemon=True)
                self._thread.start()
        order = self._order or []
        images = [{"n": n, "value": 1 - place / len(order)} for place, n in enumerate(order)]
        return {"images": images, "pending": self._order is None}

    def close(self) -> None:
        self._closed = True
        if self._thread is not None:
            self._thread.join()

    def _work(self) -> None:
        count = len(self._session.base.places)
        hashes = np.fromiter(ordered(self._hash, range(count), cores()), np.uint64, count)
        self._order = farthest_first(hashes, self._session.edited(), lambda: self._closed)

    def _hash(self, n: int) -> int:
        if self._closed:
            return FLAT
        try:
            data, _ = self._session.base.image(n)
            info = probe(data)
            return hash_of(decode(data, info.orientation, reduction(info.height, info.width)))
        except DataforgeError:
            return FLAT  # the page says so when it shows the image


def farthest_first(
    hashes: NDArray[np.uint64], known: list[int], stopped: Callable[[], bool] = lambda: False
) -> list[int]:
    """Order images so that each differs in the most bits from the nearest one before it (Gonzalez, 1985).

    Args:
        hashes: (N,).
        known: images that stand before all others; they come last.
        stopped: asked before each image; True gives an order of some.
    """
    least = np.full(len(hashes), 65, np.int8)  # bits to the nearest one before; -1 for those that are placed
    for hashed in np.unique(hashes[known]):
        np.minimum(least, np.bitwise_count(hashes ^ hashed), out=least, casting="unsafe")
    least[known] = -1
    order: list[int] = []
    while len(order) < len(hashes) - len(known) and not stopped():
        n = int(least.argmax())
        order.append(n)
        np.minimum(least, np.bitwise_count(hashes ^ hashes[n]), out=least, casting="unsafe")
        least[n] = -1
    return order + known
