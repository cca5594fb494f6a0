"""LitData: chunks written by `optimize`, streamed by two workers; simplejpeg, OpenCV and Albumentations inside."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import litdata
import numpy as np
from corpus import BATCH, SIDE, Corpus
from images import WORK, collate


def jpeg(path: str, i: int) -> dict:
    corpus = Corpus(path)
    boxes, labels = corpus.objects(i)
    return {"image": corpus.blob(i), "boxes": boxes.tobytes(), "labels": labels.tobytes(), "index": i}


def row(path: str, r: int) -> dict:
    corpus = Corpus(path)
    labels = corpus.objects(r)[1].tobytes()
    image, boxes = corpus.pixels()[r].tobytes(), corpus.scaled[r].tobytes()
    return {"image": image, "boxes": boxes, "labels": labels, "index": r}


def decode(load: Callable, sample: dict) -> tuple:
    boxes, labels = np.frombuffer(sample["boxes"], np.float32), np.frombuffer(sample["labels"], np.int64)
    return *load(sample["image"], boxes.reshape(-1, 4), labels), sample["index"]


def stored(data: bytes, *rest: np.ndarray) -> tuple:
    return np.frombuffer(data, np.uint8).reshape(SIDE, SIDE, 3), *rest


def loader(store: Path, count: int, item: Callable[[int], dict], load: Callable) -> Callable[[int], Iterator[dict]]:
    if not (store / "index.json").exists():
        litdata.optimize(item, list(range(count)), str(store), chunk_bytes="32MB", num_workers=2, verbose=False)

    dataset = litdata.StreamingDataset(str(store), shuffle=True, drop_last=False, transform=partial(decode, load))
    batches = litdata.StreamingDataLoader(
        dataset, batch_size=BATCH, num_workers=2, collate_fn=collate, persistent_workers=True, prefetch_factor=3
    )
    return lambda epoch: iter(batches)


def pictures(name: str) -> Callable[[Corpus], Callable[[int], Iterator[dict]]]:
    def prepare(corpus: Corpus) -> Callable[[int], Iterator[dict]]:
        return loader(corpus.store("litdata"), corpus.count, partial(jpeg, str(corpus.path)), WORK[name])

    return prepare


def cache(corpus: Corpus) -> Callable[[int], Iterator[dict]]:
    return loader(corpus.store("litdata-rows"), corpus.count, partial(row, str(corpus.path)), stored)


WORKLOADS = {"resize": pictures("resize"), "augment": pictures("augment"), "cache": cache}
