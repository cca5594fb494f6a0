"""WebDataset: tar files read by two workers, with a shuffle buffer; simplejpeg, OpenCV and Albumentations inside."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import webdataset
from corpus import BATCH, SIDE, Corpus
from images import WORK, collate

SHARDS = 8


def write(folder: Path, count: int, image: Callable[[int], bytes], boxes: Callable, labels: Callable) -> list[str]:
    """Write tars of image bytes, boxes and labels, once."""
    files = [str(folder / f"{shard}.tar") for shard in range(SHARDS)]
    if not (folder / "done").exists():
        folder.mkdir(parents=True, exist_ok=True)
        for shard, file in enumerate(files):
            with webdataset.TarWriter(file) as tar:
                for i in range(shard, count, SHARDS):
                    parts = {"img": image(i), "boxes": boxes(i).astype(np.float32).tobytes()}
                    tar.write({"__key__": f"{i:06d}", **parts, "labels": labels(i).astype(np.int64).tobytes()})
        (folder / "done").touch()
    return files


def loader(files: list[str], load: Callable) -> Callable[[int], Iterator[dict]]:
    def decode(sample: dict) -> tuple:
        boxes, labels = np.frombuffer(sample["boxes"], np.float32), np.frombuffer(sample["labels"], np.int64)
        return *load(sample["img"], boxes.reshape(-1, 4), labels), int(sample["__key__"])

    dataset = webdataset.WebDataset(files, shardshuffle=SHARDS).shuffle(512).map(decode)
    dataset = dataset.batched(BATCH, collation_fn=collate, partial=True)
    batches = webdataset.WebLoader(
        dataset, batch_size=None, shuffle=False, num_workers=2, persistent_workers=True, prefetch_factor=3
    )
    return lambda epoch: iter(batches)


def pictures(name: str) -> Callable[[Corpus], Callable[[int], Iterator[dict]]]:
    def prepare(corpus: Corpus) -> Callable[[int], Iterator[dict]]:
        parts = (lambda i: corpus.objects(i)[0], lambda i: corpus.objects(i)[1])
        return loader(write(corpus.store("webdataset"), corpus.count, corpus.blob, *parts), WORK[name])

    return prepare


def cache(corpus: Corpus) -> Callable[[int], Iterator[dict]]:
    pixels, objects = corpus.pixels(), corpus.objects
    files = write(
        corpus.store("webdataset-rows"),
        corpus.count,
        lambda r: pixels[r].tobytes(),
        lambda r: corpus.scaled[r],
        lambda r: objects(r)[1],
    )
    return loader(files, lambda data, *rest: (np.frombuffer(data, np.uint8).reshape(SIDE, SIDE, 3), *rest))


WORKLOADS = {"resize": pictures("resize"), "augment": pictures("augment"), "cache": cache}
