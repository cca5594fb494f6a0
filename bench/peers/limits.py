"""What the machine gives without any loader: two threads that only decode, decode and resize, or gather rows."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
import simplejpeg
from corpus import BATCH, SIDE, Corpus
from images import orders

from dataforge.augment.executors.cpu import warp

CHECKED = False  # they do less than the work, on purpose
THREADS = 2


def in_threads(corpus: Corpus, one: Callable[[bytes], object]) -> Callable[[int], Iterator[dict]]:
    blobs = [corpus.blob(i) for i in range(corpus.count)]
    pool = ThreadPoolExecutor(THREADS)

    def part(numbers: np.ndarray) -> None:
        for i in numbers.tolist():
            one(blobs[i])

    def epoch(number: int) -> Iterator[dict]:
        order = np.concatenate(orders(corpus, number))
        list(pool.map(part, np.array_split(order, THREADS)))
        yield {"index": order}

    return epoch


def decode(corpus: Corpus) -> Callable[[int], Iterator[dict]]:
    return in_threads(corpus, lambda blob: simplejpeg.decode_jpeg(blob, "RGB"))


def resize(corpus: Corpus) -> Callable[[int], Iterator[dict]]:
    return in_threads(
        corpus,
        lambda blob: cv2.resize(simplejpeg.decode_jpeg(blob, "RGB"), (SIDE, SIDE), interpolation=cv2.INTER_LINEAR),
    )


def antialiased(corpus: Corpus) -> Callable[[int], Iterator[dict]]:
    """As `resize`, with the filter that dataforge applies where bilinear sampling alone would pass over pixels."""

    def one(blob: bytes) -> None:
        pixels = simplejpeg.decode_jpeg(blob, "RGB")
        warp(pixels, np.diag([SIDE / pixels.shape[1], SIDE / pixels.shape[0], 1.0]), (SIDE, SIDE))

    return in_threads(corpus, one)


def gather(corpus: Corpus) -> Callable[[int], Iterator[dict]]:
    rows = corpus.pixels().reshape(corpus.count, -1)
    pool = ThreadPoolExecutor(THREADS)
    buffers = np.zeros((THREADS, BATCH, rows.shape[1]), np.uint8)

    def part(place: int, batches: list[np.ndarray]) -> None:
        for index in batches:
            np.take(rows, index, 0, out=buffers[place][: len(index)], mode="clip")

    def epoch(number: int) -> Iterator[dict]:
        batches = orders(corpus, number)
        list(pool.map(part, range(THREADS), (batches[place::THREADS] for place in range(THREADS))))
        yield {"index": np.concatenate(batches)}

    return epoch


WORKLOADS = {"decode": decode, "resize": resize, "resize@antialiased": antialiased, "cache": gather}
