"""tensordict: memory-mapped tensors, a batch gathered by one index."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from corpus import Corpus
from images import orders
from tensordict import TensorDict


def cache(corpus: Corpus) -> Callable[[int], Iterator[dict]]:
    folder = corpus.store("tensordict")
    if not (folder / "meta.json").exists():
        boxes, labels = map(torch.from_numpy, corpus.padded)
        rows = {"images": torch.from_numpy(corpus.pixels()[:]), "boxes": boxes, "labels": labels}
        TensorDict(rows | {"index": torch.arange(corpus.count)}, batch_size=[corpus.count]).memmap(str(folder))
    stored = TensorDict.load_memmap(folder)

    def epoch(number: int) -> Iterator[dict]:
        for index in orders(corpus, number):
            yield stored[torch.from_numpy(index)].to_dict()

    return epoch


WORKLOADS = {"cache": cache}
WITHOUT = {"resize": "decodes nothing", "augment": "decodes nothing"}
