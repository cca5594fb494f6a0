"""Grain: a MapDataset read by two threads; simplejpeg, OpenCV and Albumentations inside. A batch is one element."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import grain
import numpy as np
from corpus import BATCH, Corpus
from images import WORK, collate

THREADS = grain.ReadOptions(num_threads=2, prefetch_buffer_size=2 * BATCH)


def pictures(name: str) -> Callable[[Corpus], Callable[[int], Iterator[dict]]]:
    def prepare(corpus: Corpus) -> Callable[[int], Iterator[dict]]:
        def load(i: int) -> tuple:
            return *WORK[name](corpus.blob(i), *corpus.objects(i)), i

        def epoch(number: int) -> Iterator[dict]:
            dataset = grain.MapDataset.range(corpus.count).shuffle(seed=number).map(load)
            return iter(dataset.to_iter_dataset(THREADS).batch(BATCH, batch_fn=collate))

        return epoch

    return prepare


def cache(corpus: Corpus) -> Callable[[int], Iterator[dict]]:
    pixels, (boxes, labels) = corpus.pixels(), corpus.padded

    def gather(index: list[int]) -> dict:
        rows = np.array(index)
        return {"images": pixels[rows], "boxes": boxes[rows], "labels": labels[rows], "index": rows}

    def epoch(number: int) -> Iterator[dict]:
        dataset = grain.MapDataset.range(corpus.count).shuffle(seed=number).batch(BATCH, batch_fn=list).map(gather)
        return iter(dataset.to_iter_dataset(grain.ReadOptions(num_threads=2, prefetch_buffer_size=4)))

    return epoch


WORKLOADS = {"resize": pictures("resize"), "augment": pictures("augment"), "cache": cache}
