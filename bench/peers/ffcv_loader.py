"""FFCV: its own file, two threads, compiled pipelines. It encodes JPEGs anew, at quality 95."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import simplejpeg
from corpus import BATCH, SIDE, Corpus
from ffcv.fields import IntField, NDArrayField, RGBImageField
from ffcv.fields.decoders import IntDecoder, NDArrayDecoder, SimpleRGBImageDecoder
from ffcv.fields.rgb_image import ResizedCropRGBImageDecoder
from ffcv.loader import Loader, OrderOption
from ffcv.transforms import ToTensor
from ffcv.writer import DatasetWriter


class Whole(ResizedCropRGBImageDecoder):
    """Stretch the whole picture to the output."""

    def __init__(self) -> None:
        super().__init__((SIDE, SIDE))
        self.scale = self.ratio = (1.0, 1.0)

    @property
    def get_crop_generator(self) -> Callable:
        def whole(height, width, scale, ratio):  # compiled by numba
            return 0, 0, height, width

        return whole


class Samples:
    def __init__(self, count: int, image: Callable[[int], np.ndarray], padded: tuple[np.ndarray, np.ndarray]) -> None:
        self.count, self.image, (self.boxes, self.labels) = count, image, padded

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, i: int) -> tuple:
        return self.image(i), self.boxes[i], self.labels[i], i


def loader(file: Path, mode: str, samples: Samples, decoder: object) -> Callable[[int], Iterator[dict]]:
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        most = samples.boxes.shape[1]
        fields = {
            "images": RGBImageField(mode, jpeg_quality=95),
            "boxes": NDArrayField(np.dtype("float32"), (most, 4)),
            "labels": NDArrayField(np.dtype("int64"), (most,)),
            "index": IntField(),
        }
        DatasetWriter(str(file), fields, num_workers=1).from_indexed_dataset(samples)
    names = ("images", "boxes", "labels", "index")
    decoders = (decoder, NDArrayDecoder(), NDArrayDecoder(), IntDecoder())
    batches = Loader(
        str(file),
        BATCH,
        num_workers=2,
        os_cache=True,
        order=OrderOption.RANDOM,
        drop_last=False,
        batches_ahead=3,
        pipelines={name: [step, ToTensor()] for name, step in zip(names, decoders, strict=True)},
    )

    def epoch(number: int) -> Iterator[dict]:
        for values in batches:
            yield dict(zip(names, values, strict=True))

    return epoch


def resize(corpus: Corpus) -> Callable[[int], Iterator[dict]]:
    samples = Samples(corpus.count, lambda i: simplejpeg.decode_jpeg(corpus.blob(i), "RGB"), corpus.padded)
    return loader(corpus.store("ffcv") / "jpeg.beton", "jpg", samples, Whole())


def cache(corpus: Corpus) -> Callable[[int], Iterator[dict]]:
    pixels = corpus.pixels()
    samples = Samples(corpus.count, lambda r: np.array(pixels[r]), corpus.padded)
    return loader(corpus.store("ffcv") / "rows.beton", "raw", samples, SimpleRGBImageDecoder())


WORKLOADS = {"resize": resize, "cache": cache}
WITHOUT = {"augment": "its fields are transformed apart from each other: boxes cannot follow a random crop"}
