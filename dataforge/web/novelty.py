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
from dataforge.web.proposals import Proposals
from dataforge.web.session import Session

Distance = Callable[[int], NDArray[np.float32]]  # of image n to all others, (N,)
PLACED = 5000  # images of the order; the others follow by their distance from these


class Novelty:
    """Compares the images of a session from when somebody asks: by the embeddings of the model that proposes boxes, if
    it has some, else by hashes.
    """

    def __init__(self, session: Session, proposals: Proposals | None = None) -> None:
        self._session, self._proposals = session, proposals
        self._order: list[int] | None = None
        self._closed = False
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()
        self._by = ""

    def queue(self) -> dict[str, Any]:
        """Return how new each image is, 1 for the first of the order, once all have been compared; and by what."""
        with self._lock:
            if self._thread is None:
                pending, embeddings = self._proposals.embeddings() if self._proposals else (False, None)
                if not pending:
                    self._by = "hash" if embeddings is None else "model"
                    self._thread = threading.Thread(target=self._work, args=(embeddings,), name="novelty", daemon=True)
                    self._thread.start()
        order = self._order or []
        images = [{"n": n, "value": 1 - place / len(order)} for place, n in enumerate(order)]
        return {"images": images, "pending": self._order is None, "by": self._by}

    def close(self) -> None:
        self._closed = True
        if self._thread is not None:
            self._thread.join()

    def _work(self, embeddings: NDArray[np.float32] | None) -> None:
        count = len(self._session.base.places)
        if embeddings is None:
            distance = bits(np.fromiter(ordered(self._hash, range(count), cores()), np.uint64, count))
        else:
            distance = cosine(embeddings)
        self._order = farthest_first(distance, count, self._session.edited(), lambda: self._closed)

    def _hash(self, n: int) -> int:
        if self._closed:
            return FLAT
        try:
            data, _ = self._session.base.image(n)
            info = probe(data)
            return hash_of(decode(data, info.orientation, reduction(info.height, info.width)))
        except DataforgeError:
            return FLAT  # the page says so when it shows the image


def bits(hashes: NDArray[np.uint64]) -> Distance:
    """Return the number of bits in which hashes (N,) differ."""
    return lambda n: np.bitwise_count(hashes ^ hashes[n]).astype(np.float32)


def cosine(embeddings: NDArray[np.float32]) -> Distance:
    """Return the cosine distance of embeddings (N, C). An image of zeros is like all others, and none is like it."""
    length = np.linalg.norm(embeddings, axis=1)
    unit = embeddings / np.maximum(length, np.finfo(np.float32).tiny)[:, None]

    def distance(n: int) -> NDArray[np.float32]:
        apart = 1 - unit @ unit[n] if length[n] else np.full(len(unit), np.inf, np.float32)
        apart[length == 0] = 0
        return apart

    return distance


def farthest_first(
    distance: Distance, count: int, known: list[int], stopped: Callable[[], bool] = lambda: False
) -> list[int]:
    """Order images so that each is as far as can be from the nearest one before it (Gonzalez, 1985).

    After `PLACED` images, the others follow by their distance from the nearest one of these.

    Args:
        known: images that stand before all others; they come last.
        stopped: asked before each image; True gives an order of some.
    """
    least = np.full(count, np.inf, np.float32)  # to the nearest one before
    placed = np.zeros(count, bool)
    placed[known] = True
    for n in known:
        if stopped():
            return []
        if least[n] > 0:  # else it is a copy of an earlier one
            np.minimum(least, distance(n), out=least)
    order: list[int] = []
    while len(order) < min(count - len(known), PLACED) and not stopped():
        n = int(np.where(placed, -np.inf, least).argmax())
        order.append(n)
        placed[n] = True
        np.minimum(least, distance(n), out=least)
    rest = np.flatnonzero(~placed)
    return [*order, *rest[np.argsort(-least[rest], kind="stable")].tolist(), *known]
