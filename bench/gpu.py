"""What a GPU gets out of dataforge: the fused kernel, decoding on the device, and how long a training waits for data.

    python bench/gpu.py [DIR] --results bench/results/DATE.jsonl

"kernel" moves, flips, colours and normalises 256 x 640x640 uint8 to float32 on the GPU, boxes moved along, and sets it
beside kornia and torchvision on the same tensors, and beside the GPU's own copying. "loader" reads JPEGs to augmented
batches on the GPU, beside torchvision in a DataLoader with 16 workers. "training" is YOLOv2 at 416 under bf16. DIR is a
shard folder; without it, pictures are drawn. All take turns in every round; rows are medians and ranges over the
rounds. Without CUDA it says so and ends with 1. Libraries that are not installed are passed over.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import fields
from pathlib import Path
from statistics import median
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from dataforge import Loader, Shards
from dataforge.augment.executors import device as accelerator
from dataforge.augment.layout import Layout, lay_out
from dataforge.augment.operations.registry import Recipe
from dataforge.augment.recipes import recipe
from dataforge.bench.measure import machine, record_rows
from dataforge.bench.stages import largest, shards_or_drawn
from trainers.config import Config

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
BOXES, WORKERS, AREA, JITTER = 8, 16, 0.3, 0.3
STEPS = recipe(
    [
        {"op": "crop", "area": AREA},
        {"op": "flip"},
        *({"op": name, "strength": JITTER} for name in ("brightness", "contrast", "saturation")),
        {"op": "normalise"},
    ]
)
Run = Callable[[], Any]
Row = dict[str, Any]


def waited(run: Run, times: int, device: torch.device) -> float:
    """Seconds a call, of so many in a row."""
    started = time.perf_counter()
    for _ in range(times):
        run()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return (time.perf_counter() - started) / times


def rounds(runs: dict[str, Run], repeats: int, times: int, device: torch.device) -> dict[str, list[float]]:
    """Seconds a call of each, in turn, after a round that warms up."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(repeats + 1):
        for name, run in runs.items():
            took = waited(run, times, device)
            if turn:
                seconds[name].append(took)
    return seconds


def row(name: str, unit: str, values: list[float], device: torch.device, **more: Any) -> Row:
    facts = machine()
    if device.type == "cuda":
        facts["machine"]["gpu"] = torch.cuda.get_device_name(device)
    digits = {key: float(f"{number:.4g}") for key, number in more.items() if isinstance(number, float)}
    figures = [float(f"{number:.4g}") for number in (median(values), min(values), max(values))]
    spread = dict(zip(("value", "low", "high"), figures, strict=True))
    return {"name": name, "unit": unit, **spread, "repeats": len(values), **more, **digits, **facts}


def ours(canvas: Tensor, boxes: np.ndarray, side: int) -> dict[str, Run]:
    """Parameters, boxes and pixels of a new batch at each call; and the pixels alone."""
    count, shape = len(canvas), (side, side)
    held = SimpleNamespace(
        boxes=boxes.reshape(-1, 4),
        labels=np.zeros(count * BOXES, np.int32),
        flags=np.zeros(count * BOXES, np.uint8),
        offsets=np.arange(count + 1) * BOXES,
    )
    table = SimpleNamespace(height=np.full(count, side), width=np.full(count, side), take=lambda index: held)
    turn = iter(range(10**9))

    def layout(steps: Recipe) -> Layout:
        return lay_out(steps, np.arange(count), table, shape, fit="stretch", epoch=next(turn))

    def whole() -> Tensor:
        made = layout(STEPS)
        return accelerator.paint(canvas, made.parameters.matrix, made, shape)

    fixed = layout(STEPS[1:])  # without the crop, so that all of the canvas is read
    kinds = {"float32": torch.float32, "bfloat16": torch.bfloat16}
    matrix = fixed.parameters.matrix
    paints = {
        f"paint, {name}": (lambda kind=kind: accelerator.paint(canvas, matrix, fixed, shape, kind))
        for name, kind in kinds.items()
    }
    return {"dataforge": whole, **paints}


def torchvision(canvas: Tensor, boxes: Tensor, side: int) -> dict[str, Run]:
    from torchvision.transforms import v2
    from torchvision.tv_tensors import BoundingBoxes, Image

    chain = v2.Compose(
        [
            v2.RandomResizedCrop((side, side), scale=(AREA, 1), antialias=True),
            v2.RandomHorizontalFlip(),
            v2.ColorJitter(JITTER, JITTER, JITTER),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(MEAN, STD),
        ]
    )
    held = BoundingBoxes(boxes.reshape(-1, 4), format="XYXY", canvas_size=(side, side))  # type: ignore[call-overload]
    return {"torchvision, one draw a batch": lambda: chain(Image(canvas), held)}


def kornia(canvas: Tensor, boxes: Tensor, side: int) -> dict[str, Run]:
    import kornia.augmentation as k

    chain = k.AugmentationSequential(
        k.RandomResizedCrop((side, side), scale=(AREA, 1.0)),
        k.RandomHorizontalFlip(),
        k.ColorJiggle(JITTER, JITTER, JITTER, 0.0, p=1.0),
        k.Normalize(torch.tensor(MEAN), torch.tensor(STD)),
        data_keys=["input", "bbox_xyxy"],
    )
    return {"kornia": lambda: chain(canvas.float() / 255, boxes)}


def kernel(device: torch.device, repeats: int, count: int = 256, side: int = 640, times: int = 20) -> Iterator[Row]:
    rng = np.random.default_rng(0)
    coarse = torch.from_numpy(rng.integers(0, 256, (count, 3, 40, 40), np.uint8)).to(device)
    smooth = torch.nn.functional.interpolate(coarse.float(), (side, side), mode="bilinear")
    canvas = smooth.byte().contiguous(memory_format=torch.channels_last)
    del coarse, smooth
    low = rng.uniform(0, 0.7, (count, BOXES, 2)) * side
    boxes = np.concatenate([low, low + rng.uniform(0.05, 0.3, low.shape) * side], 2).astype(np.float32)
    other = torch.empty_like(canvas)
    runs: dict[str, Run] = {"copy": lambda: other.copy_(canvas), **ours(canvas, boxes, side)}
    for library in (torchvision, kornia):
        if importlib.util.find_spec(library.__name__) is None:
            print(f"{library.__name__}: not installed", file=sys.stderr)
        else:
            runs |= library(canvas, torch.from_numpy(boxes).to(device), side)
    setting = {"images": count, "size": [side, side], "fused": accelerator.fused(device) is not None}
    seconds = rounds(runs, repeats, times, device)
    read, copied = canvas.numel(), 2 * canvas.numel()
    rates = {"copy": [copied / s / 1e9 for s in seconds["copy"]]}
    yield row("GPU, copy of the batch, read and written", "GB/s", rates["copy"], device, **setting)
    for name, size in (("float32", 4), ("bfloat16", 2)):
        rate = [read * (1 + size) / s / 1e9 for s in seconds[f"paint, {name}"]]
        share = median(rate) / median(rates["copy"])
        title = f"GPU, flip, colour, normalise to {name}, read and written"
        yield row(title, "GB/s", rate, device, of_copy=share, **setting)
    for name in seconds:
        if name not in rates and not name.startswith("paint"):
            rate = [count / s for s in seconds[name]]
            ratio = median(seconds[name]) / median(seconds["dataforge"])
            yield row(f"GPU, augment, {name}", "img/s", rate, device, ours=ratio, **setting)


class Pictures(Dataset):
    """The same records for torch's DataLoader: decoded, cropped, flipped and coloured one by one in its workers."""

    def __init__(self, path: Path, split: str, side: int) -> None:
        from torchvision.transforms import v2

        self.shards = Shards(path, split)
        self.chain = v2.Compose(
            [
                v2.RandomResizedCrop((side, side), scale=(AREA, 1), antialias=True),
                v2.RandomHorizontalFlip(),
                v2.ColorJitter(JITTER, JITTER, JITTER),
                v2.ToDtype(torch.float32, scale=True),
            ]
        )

    def __len__(self) -> int:
        return len(self.shards)

    def __getitem__(self, i: int) -> tuple[Tensor, Tensor, Tensor]:
        from torchvision.io import ImageReadMode, decode_jpeg
        from torchvision.tv_tensors import BoundingBoxes, Image

        data = torch.frombuffer(bytearray(self.shards.blob(i)), dtype=torch.uint8)
        image = Image(decode_jpeg(data, ImageReadMode.RGB))
        objects = self.shards.table.take(np.array([i]))
        size = (image.shape[-2], image.shape[-1])
        boxes = BoundingBoxes(torch.from_numpy(objects.boxes), format="XYXY", canvas_size=size)  # type: ignore[call-overload]
        moved, kept = self.chain(image, boxes)
        return moved, kept, torch.from_numpy(objects.labels)


def stacked(rows: list[tuple[Tensor, Tensor, Tensor]]) -> tuple[Tensor, list[Tensor], list[Tensor]]:
    images, boxes, labels = zip(*rows, strict=True)
    return torch.stack(images), list(boxes), list(labels)


def loader(
    device: torch.device, repeats: int, path: Path, batch: int = 64, side: int = 416, workers: int = WORKERS
) -> Iterator[Row]:
    split = largest(path)
    images = len(Shards(path, split))
    runs: dict[str, Run] = {}
    for decode in ("device", "host") if device.type == "cuda" else ("host",):
        how: dict[str, Any] = {"augment": "yolo", "device": device, "decode": decode, "threads": workers or None}
        made = Loader(path, split, batch, (side, side), **how)

        def epoch(made: Loader = made) -> None:
            made.set_epoch(made.epoch + 1)
            for batch in made:
                del batch

        runs[f"dataforge, decode on the {decode}"] = epoch
    peer = DataLoader(
        Pictures(path, split, side),
        batch,
        shuffle=True,
        num_workers=workers,
        collate_fn=stacked,
        persistent_workers=workers > 0,
        multiprocessing_context="spawn" if workers else None,
        pin_memory=device.type == "cuda",
    )

    def theirs() -> None:
        for pixels, _, _ in peer:
            pixels.to(device, non_blocking=True)

    runs["torchvision and DataLoader"] = theirs
    seconds = rounds(runs, repeats, 1, device)
    peers = median(seconds["torchvision and DataLoader"])
    setting = {"images": images, "size": [side, side], "batch_size": batch, "threads": workers}
    for name, took in seconds.items():
        ratio = peers / median(took)
        yield row(f"GPU, JPEGs to batches, {name}", "img/s", [images / s for s in took], device, ratio=ratio, **setting)


def training(device: torch.device, repeats: int, path: Path, batch: int = 64, seconds: float = 20.0) -> Iterator[Row]:
    split = largest(path)
    values = ['amp = "bf16"', *(['decode = "device"'] if "decode" in {f.name for f in fields(Config)} else [])]
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder) / "bf16.toml"
        config.write_text("\n".join(values))
        words = ["trainers.bench", "yolov2", "--shards", path, "--split", split, "--config", config]
        words += ["--device", device, "--size", 416, 416, "--batch-size", batch, "--seconds", seconds]
        runs = []
        for _ in range(repeats):
            done = subprocess.run([sys.executable, "-m", *map(str, words)], capture_output=True, text=True, check=True)
            runs.append(json.loads(done.stdout.splitlines()[-1]))
    setting = {"images": len(Shards(path, split)), "size": [416, 416], "batch_size": batch, "config": values}
    waits = [100 * run["waited"] for run in runs]
    lost = [100 * (1 - run["together"] / run["step"]) for run in runs]
    rates = {key: median(run[key] for run in runs) for key in ("step", "together")}
    yield row("GPU, yolov2, data-wait", "%", waits, device, **rates, **setting)
    yield row("GPU, yolov2, slower than on one batch that is there", "%", lost, device, **rates, **setting)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shards", type=Path, nargs="?", help="a shard folder; without it, pictures are drawn")
    parser.add_argument("--parts", default="kernel,loader,training")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--results", type=Path, help="a file of rows to add to")
    given = parser.parse_args()
    if not torch.cuda.is_available():
        sys.exit("bench/gpu.py measures a GPU, and PyTorch sees no CUDA device here")
    device = torch.device("cuda", torch.cuda.current_device())
    with shards_or_drawn(given.shards, 2048) as path:
        for part in given.parts.split(","):
            how = {"kernel": (), "loader": (path,), "training": (path,)}[part]
            for measured in {"kernel": kernel, "loader": loader, "training": training}[part](
                device, given.repeats, *how
            ):
                extra = {key: measured[key] for key in ("of_copy", "ours", "ratio", "step") if key in measured}
                print(f"{measured['name']}: {measured['value']} {measured['unit']} {extra or ''}", flush=True)
                record_rows([measured], given.results)


if __name__ == "__main__":
    main()
