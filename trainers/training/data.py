"""What a training reads: the loaders of its two splits, and the cache that they may read from."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import click
import torch
import torch.distributed as dist

from dataforge.errors import ConfigError
from dataforge.loading.batch import Batch
from dataforge.loading.loader import Loader
from dataforge.loading.sampler import scaled
from dataforge.shards.cache_origin import content
from dataforge.shards.reader import Shards
from dataforge.threads import cores
from dataforge.transform.bake import Form, bake
from trainers import distributed
from trainers.config import Config
from trainers.models.detector import Detector


def make_loaders(
    config: Config, kind: type[Detector], rank: int, world: int, device: torch.device
) -> tuple[Loader, Loader | None]:
    """The loaders of the training and the validation split; without a validation split, None.

    Raises:
        ConfigError: a size, a split or a batch size that cannot be.
    """
    if config.batch_size % world and not config.budget:
        raise ConfigError(f"batch_size {config.batch_size} is not a multiple of the {world} processes")
    size = (config.size[0], config.size[1])
    common: dict[str, Any] = {"batch_size": max(config.batch_size // world, 1), "size": size, "fit": config.fit}
    common |= {"rank": rank, "world": world, "device": device, "threads": config.threads or None}
    common |= {"budget": Fraction(config.budget, world) if config.budget else None, "on_error": config.on_error}
    common |= {"decode": config.decode}
    shards = Shards(_cache(config, rank) if config.cache else config.shards, view=config.view())
    loader = Loader(
        shards,
        config.train_split,
        augment=config.augment,
        seed=config.seed,
        scales=_scales(config),
        buckets=config.shapes(),
        sampling=config.sampling,
        repeat_threshold=config.repeat_threshold,
        **common,
    )
    if not len(loader.shards):
        raise ConfigError(f"{config.shards}: split {loader.shards.split!r} has no images")
    for key, sizes in (("size", [size]), ("buckets", loader.shapes)):
        if any(side % kind.stride for shape in sizes for side in shape):
            raise ConfigError(f"{key} is {_said(sizes)}; expected multiples of {kind.stride}")
    least = min(min(scaled(shape, scale)) for shape in loader.shapes for scale in loader.scales)
    if least < kind.least:
        raise ConfigError(
            f"size {_said([size])}, buckets {_said(loader.shapes)} and multiscale {config.multiscale} give a side of "
            f"{least}; expected at least {kind.least}"
        )
    return loader, Loader(shards, config.val_split, shuffle=False, **common) if config.val_split else None


def _said(shapes: list[tuple[int, int]]) -> str:
    return ",".join(f"{h},{w}" for h, w in shapes)


def _scales(config: Config) -> list[float]:
    """The factors of the size that multi-scale training draws from, in steps of 32 pixels of the longer side."""
    longer = max(config.size)
    low, high = (round(factor * longer / 32) for factor in config.multiscale or (1.0, 1.0))
    return [side * 32 / longer for side in range(max(low, 1), max(high, 1) + 1)] if config.multiscale else [1.0]


def _cache(config: Config, rank: int) -> Path:
    """A copy of the shards, beside them, whose images are not larger than the training needs; baked if it is not there.

    Its name holds the side and the shards' fingerprint, so shards that changed get another one.
    """
    source = Path(config.shards)
    longest = [max(shape) if config.fit == "stretch" else min(shape) for shape in _shapes(config)]
    side = round(max(longest) * max(_scales(config)))
    shards = Shards(source)
    out = source.resolve().with_name(f"{source.resolve().name}.cache-{side}-{content(source)}")
    if rank == 0 and not (out / "index.json").exists():
        click.echo(f"cache: baking {len(shards)} images to {out}")
        bake(shards, out, Form(side=side), jobs=config.threads or cores())
    if dist.is_initialized():
        dist.barrier()
    return out


def _shapes(config: Config) -> list[tuple[int, int]]:
    found, (height, width) = config.shapes(), config.size
    if found == "auto":
        return [(math.isqrt(height * width),) * 2]  # the narrower side of any shape of that area is shorter
    return [(height, width)] if found is None or isinstance(found, str) else found


def skipped(*loaders: Loader | None) -> list[str]:
    """What is wrong with each damaged image that was skipped so far, on all ranks; all of them must call it."""
    mine = {fault for loader in loaders if loader for fault in loader.skipped.values()}
    return sorted(set().union(*distributed.gathered(mine)))


def timed(loader: Loader) -> Iterator[tuple[Batch, float, float]]:
    """Batches, each with the seconds that were spent waiting for it and the moment the waiting began."""
    batches = iter(loader)
    while True:
        started = time.perf_counter()
        batch = next(batches, None)
        if batch is None:
            return
        yield batch, time.perf_counter() - started, started
