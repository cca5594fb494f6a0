"""torchvision with torch's DataLoader: two workers decode; a decoded cache is gathered a batch at once, in-process."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from corpus import BATCH, CROP_AREA, JITTER, MEAN, SIDE, STD, Corpus
from torch.utils.data import BatchSampler, DataLoader, Dataset, RandomSampler
from torchvision.io import ImageReadMode, decode_jpeg, read_file
from torchvision.transforms import v2
from torchvision.tv_tensors import BoundingBoxes, Image


class Pictures(Dataset):
    def __init__(self, corpus: Corpus, transform: Callable) -> None:
        self.corpus, self.transform = corpus, transform

    def __len__(self) -> int:
        return self.corpus.count

    def __getitem__(self, i: int) -> tuple:
        image = Image(decode_jpeg(read_file(self.corpus.files[i]), ImageReadMode.RGB))
        found, labels = self.corpus.objects(i)
        boxes = BoundingBoxes(torch.from_numpy(found), format="XYXY", canvas_size=image.shape[-2:])
        image, target = self.transform(image, {"boxes": boxes, "labels": torch.from_numpy(labels)})
        return image, target["boxes"], target["labels"], i


def collate(samples: list) -> dict:
    images, boxes, labels, index = zip(*samples, strict=True)
    return {"images": torch.stack(images), "boxes": boxes, "labels": labels, "index": torch.tensor(index)}


def pictures(transform: Callable) -> Callable[[Corpus], Callable[[int], Iterator[dict]]]:
    def prepare(corpus: Corpus) -> Callable[[int], Iterator[dict]]:
        loader = DataLoader(
            Pictures(corpus, transform),
            BATCH,
            shuffle=True,
            num_workers=2,
            collate_fn=collate,
            persistent_workers=True,
            prefetch_factor=3,
        )
        return lambda epoch: iter(loader)

    return prepare


class Rows(Dataset):
    def __init__(self, corpus: Corpus) -> None:
        self.pixels = torch.from_numpy(corpus.pixels())
        self.boxes, self.labels = map(torch.from_numpy, corpus.padded)

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitem__(self, index: list[int]) -> dict:
        rows = torch.tensor(index)
        return {"images": self.pixels[rows], "boxes": self.boxes[rows], "labels": self.labels[rows], "index": rows}


def cache(corpus: Corpus) -> Callable[[int], Iterator[dict]]:
    rows = Rows(corpus)
    loader = DataLoader(rows, batch_size=None, sampler=BatchSampler(RandomSampler(rows), BATCH, drop_last=False))
    return lambda epoch: iter(loader)


AUGMENT = v2.Compose(
    [
        v2.RandomResizedCrop(SIDE, scale=CROP_AREA),
        v2.RandomHorizontalFlip(),
        v2.ColorJitter(JITTER, JITTER, JITTER),
        v2.ToDtype(torch.float32, scale=True),
        v2.Normalize(MEAN.tolist(), STD.tolist()),
        v2.ClampBoundingBoxes(),
        v2.SanitizeBoundingBoxes(),
    ]
)
WORKLOADS = {"resize": pictures(v2.Resize((SIDE, SIDE))), "augment": pictures(AUGMENT), "cache": cache}
