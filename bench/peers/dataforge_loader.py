"""dataforge: shards of the same JPEGs, and caches baked from them."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from corpus import BATCH, CROP_AREA, JITTER, MEAN, SIDE, STD, Corpus

from dataforge import Loader

RECIPE = [
    {"op": "crop", "area": CROP_AREA[0], "aspect": 4 / 3},
    {"op": "flip"},
    *({"op": name, "strength": JITTER} for name in ("brightness", "contrast", "saturation")),
    {"op": "normalise", "mean": MEAN.tolist(), "std": STD.tolist()},
]


FORMS = {  # store: how it is baked from the shards
    "dataforge-jpeg384": ("--side", 384),
    "dataforge-raw384": ("--raw", "--buckets", "384x512,512x384", "--fit", "stretch"),
    "dataforge-raw320": ("--raw", "--size", SIDE, SIDE, "--fit", "stretch"),
}


def store(corpus: Corpus, name: str) -> Path:
    """The corpus ingested ("dataforge"), or baked from that; made once."""
    out = corpus.store(name)
    if not (out / "index.json").exists():
        if name in FORMS:
            command("bake", store(corpus, "dataforge"), "--out", out, *FORMS[name])
        else:
            command("ingest", "coco", corpus.path, "--out", out)
    return out


def command(*words: object) -> None:
    subprocess.run([sys.executable, "-m", "dataforge", *map(str, words)], check=True, stdout=subprocess.DEVNULL)


def batches(name: str, augmented: bool, corpus: Corpus) -> Callable[[int], Iterator[dict]]:
    loader = Loader(
        store(corpus, name), "train", BATCH, (SIDE, SIDE), RECIPE if augmented else None, fit="stretch", threads=2
    )

    def epoch(number: int) -> Iterator[dict]:
        loader.set_epoch(number)
        for batch in loader:
            yield {"images": batch.images, "boxes": batch.boxes, "labels": batch.labels, "index": batch.index}

    return epoch


STORES = {
    "resize": "dataforge",
    "augment": "dataforge",
    "augment@baked JPEG 384": "dataforge-jpeg384",
    "augment@baked raw 384": "dataforge-raw384",
    "cache": "dataforge-raw320",
}
WORKLOADS = {task: partial(batches, name, task.startswith("augment")) for task, name in STORES.items()}
