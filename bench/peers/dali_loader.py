"""DALI on the CPU: a graph with COCO's reader, two threads."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from corpus import BATCH, CROP_AREA, JITTER, MEAN, SIDE, STD, Corpus
from nvidia.dali import fn, pipeline_def, types


@pipeline_def(batch_size=BATCH, num_threads=2, device_id=None, prefetch_queue_depth=3)
def graph(corpus: Corpus, augmented: bool):
    files, boxes, labels, index = fn.readers.coco(
        file_root=str(corpus.path / "train"),
        annotations_file=str(corpus.path / "annotations" / "instances_train.json"),
        shuffle_after_epoch=True,
        ratio=True,
        ltrb=True,
        image_ids=True,
        avoid_class_remapping=True,
        name="reader",
    )
    if not augmented:
        images = fn.resize(
            fn.decoders.image(files), size=[SIDE, SIDE], interp_type=types.INTERP_LINEAR, antialias=False
        )
        return images, boxes, labels, index
    anchor, shape, boxes, labels = fn.random_bbox_crop(
        boxes,
        labels,
        thresholds=[0.0],
        scaling=[CROP_AREA[0] ** 0.5, 1.0],
        aspect_ratio=[3 / 4, 4 / 3],
        bbox_layout="xyXY",
        allow_no_crop=False,
        threshold_type="overlap",
    )
    images = fn.decoders.image_slice(files, anchor, shape)
    images = fn.resize(images, size=[SIDE, SIDE], interp_type=types.INTERP_LINEAR, antialias=False)
    brightness, contrast, saturation = (fn.random.uniform(range=[1 - JITTER, 1 + JITTER]) for _ in range(3))
    images = fn.color_twist(images, brightness=brightness, contrast=contrast, saturation=saturation)
    mirror = fn.random.coin_flip()
    scale = {"mean": (MEAN * 255).tolist(), "std": (STD * 255).tolist()}
    images = fn.crop_mirror_normalize(images, mirror=mirror, dtype=types.FLOAT, output_layout="HWC", **scale)
    return images, fn.bb_flip(boxes, horizontal=mirror, ltrb=True), labels, index


def pictures(augmented: bool) -> Callable[[Corpus], Callable[[int], Iterator[dict]]]:
    def prepare(corpus: Corpus) -> Callable[[int], Iterator[dict]]:
        pipeline = graph(corpus, augmented)
        pipeline.build()
        steps = -(-corpus.count // BATCH)
        assert corpus.count % BATCH == 0, "expected whole batches"

        def epoch(number: int) -> Iterator[dict]:
            for _ in range(steps):
                images, boxes, labels, index = pipeline.run()
                yield {
                    "images": images.as_array(),
                    "boxes": [np.asarray(boxes[i]) * SIDE for i in range(BATCH)],
                    "labels": [np.asarray(labels[i]).reshape(-1) - 1 for i in range(BATCH)],
                    "index": index.as_array(),
                }

        return epoch

    return prepare


WORKLOADS = {"resize": pictures(False), "augment": pictures(True)}
WITHOUT = {"cache": "has no reader for one file of decoded rows"}
