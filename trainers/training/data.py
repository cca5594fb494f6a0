"""Loaders of the training and validation split, and the cache that they may read from."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import torch

from dataforge.command import echo
from dataforge.errors import ConfigError, DataError, counted
from dataforge.loading.batch import Batch
from dataforge.loading.loader import Loader
from dataforge.loading.sampler import scaled
from dataforge.shards.cache_origin import content
from dataforge.shards.index import INDEX
from dataforge.shards.reader import Shards
from dataforge.threads import cores
from dataforge.transform.bake import bake
from dataforge.transform.form import Form
from trainers import distributed
from trainers.config import Config
from trainers.models.detector import Detector

CACHE_WAIT = 24 * 3600.0  # seconds that other ranks wait for rank 0 to create a cache
CACHE_POLL = 0.2  # seconds between polls


def make_loaders(
    config: Config, kind: type[Detector], rank: int, world: int, device: torch.device
) -> tuple[Loader, Loader | None]:
    """Return the loaders of the training and the validation split; the latter is None without a validation split.

    Raises:
        ConfigError: a size, a split or a batch size is invalid. DataError: rank 0 did not create the cache.
    """
    if config.batch_size < world and not config.budget:
        raise ConfigError(
            f"batch_size is {config.batch_size}; expected at least one image for each of {world} processes"
        )
    size = (config.size[0], config.size[1])
    common: dict[str, Any] = {
        "batch_size": 1 if config.budget else Fraction(config.batch_size, world),
        "size": size,
        "fit": config.fit,
    }
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
        shuffle=config.shuffle,
        sampling=config.sampling,
        repeat_threshold=config.repeat_threshold,
        **common,
    )
    if not len(loader.shards):
        raise ConfigError(f"{config.shards}: split {loader.shards.split!r} has no images")
    for key, sizes in (("size", [size]), ("buckets", loader.shapes)):
        if any(side % kind.stride for shape in sizes for side in shape):
            raise ConfigError(f"{key} is {_listed(sizes)}; expected multiples of {kind.stride}")
    least = min(min(scaled(shape, scale)) for shape in loader.shapes for scale in loader.scales)
    if least < kind.least:
        others = f", buckets {_listed(loader.shapes)}" if config.buckets else ""
        others += f", multiscale {','.join(map(str, config.multiscale))}" if config.multiscale else ""
        raise ConfigError(f"size {_listed([size])}{others}: gives a side of {least}; expected at least {kind.least}")
    return loader, Loader(shards, config.val_split, shuffle=False, **common) if config.val_split else None


def _listed(shapes: list[tuple[int, int]]) -> str:
    return ",".join(f"{h},{w}" for h, w in shapes)


def _scales(config: Config) -> list[float]:
    """Return the scale factors for multi-scale training, in steps of 32 pixels of the longer side."""
    longer = max(config.size)
    low, high = (round(factor * longer / 32) for factor in config.multiscale or (1.0, 1.0))
    return [side * 32 / longer for side in range(max(low, 1), max(high, 1) + 1)] if config.multiscale else [1.0]


def _cache(config: Config, rank: int) -> Path:
    """Return a copy of the shards, next to them, whose images are not larger than training needs.

    Its name contains the side and the shards' fingerprint, so changed shards get a new one. Rank 0 creates it if it is
    missing; the others poll for its index, which is written last: a collective would time out after ten minutes.

    Raises:
        DataError: on other ranks, the cache does not exist after `CACHE_WAIT` seconds.
    """
    source = Path(config.shards)
    longest = [max(shape) if config.fit == "stretch" else min(shape) for shape in _shapes(config)]
    side = round(max(longest) * max(_scales(config)))
    shards = Shards(source)
    out = source.resolve().with_name(f"{source.resolve().name}.cache-{side}-{content(source)}")
    index, deadline = out / INDEX, time.monotonic() + CACHE_WAIT
    if rank == 0 and not index.exists():
        echo(f"cache: baking {counted(len(shards), 'image')} to {out}")
        bake(shards, out, Form(side=side), jobs=config.threads or cores())
    while not index.exists():
        if time.monotonic() > deadline:
            raise DataError(f"{out}: was not baked within {CACHE_WAIT:g} s by the process of rank 0")
        time.sleep(CACHE_POLL)
    return out


def _shapes(config: Config) -> list[tuple[int, int]]:
    buckets, (height, width) = config.shapes(), config.size
    if buckets == "auto":
        return [(math.isqrt(height * width),) * 2]  # the narrower side of any shape of that area is shorter
    return [(height, width)] if buckets is None or isinstance(buckets, str) else buckets


def skipped(*loaders: Loader | None) -> list[str]:
    """Return the error of each damaged image skipped so far, on all ranks; all ranks must call it."""
    own = {fault for loader in loaders if loader for fault in loader.skipped.values()}
    return sorted(set().union(*distributed.gathered(own)))


def timed(loader: Loader) -> Iterator[tuple[Batch, float, float]]:
    """Yield batches, each with the seconds spent waiting for it and the time the wait began."""
    batches = iter(loader)
    while True:
        started = time.perf_counter()
        batch = next(batches, None)
        if batch is None:
            return
        yield batch, time.perf_counter() - started, started
