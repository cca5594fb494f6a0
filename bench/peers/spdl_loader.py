"""SPDL: a pipeline of threads, one task a batch; simplejpeg, OpenCV and Albumentations inside."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from corpus import Corpus
from images import WORK, collate, orders
from spdl.pipeline import PipelineBuilder


def epochs(make: Callable[[np.ndarray], dict], corpus: Corpus) -> Callable[[int], Iterator[dict]]:
    def epoch(number: int) -> Iterator[dict]:
        builder = PipelineBuilder().add_source(orders(corpus, number)).pipe(make, concurrency=2).add_sink(3)
        pipeline = builder.build(num_threads=2)
        with pipeline.auto_stop():
            yield from pipeline.get_iterator()

    return epoch


def pictures(name: str) -> Callable[[Corpus], Callable[[int], Iterator[dict]]]:
    def prepare(corpus: Corpus) -> Callable[[int], Iterator[dict]]:
        def make(index: np.ndarray) -> dict:
            return collate([(*WORK[name](corpus.blob(i), *corpus.objects(i)), i) for i in index.tolist()])

        return epochs(make, corpus)

    return prepare


def cache(corpus: Corpus) -> Callable[[int], Iterator[dict]]:
    pixels, (boxes, labels) = corpus.pixels(), corpus.padded

    def make(index: np.ndarray) -> dict:
        return {"images": pixels[index], "boxes": boxes[index], "labels": labels[index], "index": index}

    return epochs(make, corpus)


WORKLOADS = {"resize": pictures("resize"), "augment": pictures("augment"), "cache": cache}
