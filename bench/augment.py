"""How fast are the libraries at the same augmentation of the same batch?

    python bench/augment.py [--rounds 7] [--results FILE]

Random-resized crop to 320x320, flip, brightness, contrast, saturation, normalisation, of 32 x 3 x 480 x 640 uint8 to
float32, 8 boxes an image moved along. Every library has 2 threads: ours and albumentations work image by image in two
Python threads, torchvision and kornia on the batch with two of torch's. The libraries take turns in every round; a row
holds the median and the range over the rounds. torchvision's batched transforms draw one set of parameters for the
whole batch; "torchvision, each" draws for each image. Those not installed are passed over.
"""

from __future__ import annotations

import argparse
import importlib.util
import statistics
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

B, HEIGHT, WIDTH, SIDE, BOXES, THREADS = 32, 480, 640, 320, 8, 2
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
Run = Callable[[], Any]


def batch() -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Smooth pictures (B, HEIGHT, WIDTH, 3) and their boxes (B, BOXES, 4)."""
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (B, 30, 40, 3), np.uint8)
    images = np.stack([cv2.resize(c, (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC) for c in coarse])
    low = rng.uniform(0, 0.7, (B, BOXES, 2)) * [WIDTH, HEIGHT]
    high = low + rng.uniform(0.05, 0.3, (B, BOXES, 2)) * [WIDTH, HEIGHT]
    return images, np.concatenate([low, high], 2).astype(np.float32)


def in_threads(pool: ThreadPoolExecutor, work: Callable[[int], Any]) -> list[Any]:
    """The results of work(0..B - 1), every second one in the same thread."""
    parts = pool.map(lambda first: [work(i) for i in range(first, B, THREADS)], range(THREADS))
    return [result for part in parts for result in part]


def dataforge(images: NDArray[np.uint8], boxes: NDArray[np.float32], pool: ThreadPoolExecutor) -> dict[str, Run]:
    from dataforge.augment.executors import cpu
    from dataforge.augment.move import move_boxes
    from dataforge.augment.parameters import parameters
    from dataforge.augment.recipes import recipe

    steps = recipe(
        [
            {"op": "crop", "area": 0.3},
            {"op": "flip"},
            {"op": "brightness", "strength": 0.3},
            {"op": "contrast", "strength": 0.3},
            {"op": "saturation", "strength": 0.3},
            {"op": "normalise"},
        ]
    )
    out, shape = np.empty((B, SIDE, SIDE, 3), np.float32), (SIDE, SIDE)
    height, width, row = np.full(B, HEIGHT), np.full(B, WIDTH), np.repeat(np.arange(B), BOXES)
    flat, turn = boxes.reshape(-1, 4), iter(range(10**9))

    def run() -> None:
        index = np.arange(B) + B * next(turn)
        p = parameters(steps, index, height, width, shape, fit="stretch", boxes=flat, image=row)
        move_boxes(flat, row, p.matrix, shape)

        def make(i: int) -> None:
            canvas = cpu.memory("canvas", shape)
            cpu.paint(images[i], p.matrix[i], p, i, canvas)
            cpu.finish(canvas, p, i, out[i])

        in_threads(pool, make)

    return {"dataforge": run}


def albumentations(images: NDArray[np.uint8], boxes: NDArray[np.float32], pool: ThreadPoolExecutor) -> dict[str, Run]:
    import albumentations as a

    chain = a.Compose(
        [
            a.RandomResizedCrop((SIDE, SIDE), scale=(0.3, 1)),
            a.HorizontalFlip(),
            a.ColorJitter(0.3, 0.3, 0.3, 0, p=1),
            a.Normalize(MEAN, STD),
        ],
        bbox_params=a.BboxParams(format="pascal_voc", min_visibility=0.25, clip=True),
    )
    out = np.empty((B, SIDE, SIDE, 3), np.float32)

    def make(i: int) -> None:
        out[i] = chain(image=images[i], bboxes=boxes[i])["image"]

    return {"albumentations": lambda: in_threads(pool, make)}


def torchvision(images: NDArray[np.uint8], boxes: NDArray[np.float32], pool: ThreadPoolExecutor) -> dict[str, Run]:
    import torch
    from torchvision import tv_tensors
    from torchvision.transforms import v2

    chain = v2.Compose(
        [
            v2.RandomResizedCrop((SIDE, SIDE), scale=(0.3, 1), antialias=True),
            v2.RandomHorizontalFlip(),
            v2.ColorJitter(0.3, 0.3, 0.3),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(MEAN, STD),
        ]
    )
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2)  # channels last, which is its fastest

    def held(these: NDArray[np.float32]) -> Any:
        return tv_tensors.BoundingBoxes(torch.from_numpy(these), format="XYXY", canvas_size=(HEIGHT, WIDTH))  # type: ignore[call-overload]

    def whole() -> None:
        torch.set_num_threads(THREADS)
        chain(tv_tensors.Image(pixels), held(boxes.reshape(-1, 4)))

    def each() -> None:
        torch.set_num_threads(1)
        torch.stack(in_threads(pool, lambda i: chain(tv_tensors.Image(pixels[i]), held(boxes[i]))[0]))

    return {"torchvision, batched": whole, "torchvision, each": each}


def kornia(images: NDArray[np.uint8], boxes: NDArray[np.float32], pool: ThreadPoolExecutor) -> dict[str, Run]:
    import kornia.augmentation as k
    import torch

    chain = k.AugmentationSequential(
        k.RandomResizedCrop((SIDE, SIDE), scale=(0.3, 1.0)),
        k.RandomHorizontalFlip(),
        k.ColorJiggle(0.3, 0.3, 0.3, 0.0, p=1.0),
        k.Normalize(torch.tensor(MEAN), torch.tensor(STD)),
        data_keys=["input", "bbox_xyxy"],
    )
    pixels, held = torch.from_numpy(images).permute(0, 3, 1, 2).contiguous(), torch.from_numpy(boxes)

    def run() -> None:
        torch.set_num_threads(THREADS)
        chain(pixels.float() / 255, held)  # it takes no uint8

    return {"kornia": run}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--results", type=Path, help="a file of rows to add to")
    given = parser.parse_args()
    from dataforge.bench.measure import record_rows

    cv2.setNumThreads(1)
    images, boxes = batch()
    pool = ThreadPoolExecutor(THREADS)
    runs: dict[str, Run] = {}
    for library in (dataforge, albumentations, torchvision, kornia):
        if importlib.util.find_spec(library.__name__) is None:
            print(f"{library.__name__}: not installed", file=sys.stderr)
        else:
            runs |= library(images, boxes, pool)
    rates: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(given.rounds + 1):
        for name, run in runs.items():
            start, times = time.perf_counter(), 0
            while times < 1 or time.perf_counter() - start < 0.5:
                run()
                times += 1
            if turn:  # the first round warms up
                rates[name].append(B * times / (time.perf_counter() - start))
    ours, rows = statistics.median(rates["dataforge"]), []
    for name, per_second in rates.items():
        middle = statistics.median(per_second)
        row = {"name": f"augment, {name}", "value": round(middle), "unit": "images/s", "low": round(min(per_second))}
        row |= {
            "high": round(max(per_second)),
            "runs": given.rounds,
            "threads": THREADS,
            "ours": round(ours / middle, 2),
        }
        rows.append(row)
        print(
            f"{name:22} {middle:7.0f} images/s ({min(per_second):.0f}..{max(per_second):.0f}), "
            f"ours {ours / middle:.1f} x"
        )
    record_rows(rows, given.results)


if __name__ == "__main__":
    main()
