"""The number of images per step, found by taking steps with more and more images.

The part for CUDA has not been run on a GPU.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from dataforge.command import echo
from dataforge.errors import ConfigError
from dataforge.loading.batch import Batch
from dataforge.loading.sampler import box_places, scaled
from trainers import checkpoint, distributed, registry
from trainers.config import Config
from trainers.training.data import make_loaders
from trainers.training.learner import Learner

SHARE = 0.8  # of the free memory that a step may take
GAIN = 1.05  # beyond `batch_size`, a CPU's number is doubled only if an image then takes less time by this factor
LEAST_STEPS = 16  # of an epoch


@dataclass(frozen=True)
class Cost:
    """What a training step takes.

    Attributes:
        memory: bytes at the peak, beside the weights.
        copy: bytes of the state that a checkpoint copies while training continues, in the memory of the steps.
    """

    seconds: float
    memory: int
    copy: int = 0


def fitting(config: Config, detector: str, device: torch.device, world: int) -> int:
    """Return how many images a step may have: 1, 2, 4, ...

    It is the largest number of which a step takes at most `SHARE` of the free memory, with the largest images and most
    boxes that occur, beside the copy of the state that a checkpoint makes on a CPU, and of which an epoch has at least
    `LEAST_STEPS`. On a CPU, more images than `config.batch_size` must also make each of them faster.

    Raises:
        ConfigError: there are several processes, or the memory is too small for one image.
    """
    if world > 1:
        raise ConfigError("auto_batch is for one process; find the number without torchrun, then pass --batch-size")
    kind = registry.detector_class(detector)
    loader, _ = make_loaders(config, kind, 0, 1, device)
    shards = loader.shards
    shape = max((scaled(shape, scale) for shape in loader.shapes for scale in loader.scales), key=np.prod)
    places = int(box_places(np.diff(shards.table.offsets).max(keepdims=True))[0])
    learner = Learner(config, kind(**kind.configure(config, shards)), device)
    held = _held(device)

    def cost(count: int) -> Cost:
        return _cost(learner, batch_of(count, shape, places, len(shards.classes), device), held)

    count, least, reason = largest(cost, len(shards), device, config.batch_size)
    echo(
        f"batch {count}: {1000 * least.seconds / count:.0f} ms per image, {least.memory / 2**30:.2f} GiB beside the "
        f"weights; {reason}"
    )
    return count


def largest(cost: Callable[[int], Cost], images: int, device: torch.device, enough: int) -> tuple[int, Cost, str]:
    """Return the number of images, its cost, and why it is not twice that.

    Args:
        cost: of a number of images; raises `ConfigError` where there is too little memory.
        images: of the training split; enough: the number from which on more must make images faster, on a CPU.
    """
    free = SHARE * distributed.free_memory(device)
    count, least = 1, cost(1)
    while 2 * count * LEAST_STEPS <= images:
        if free and 2 * least.memory + least.copy > free:
            return count, least, "twice as many would need too much memory"
        try:
            double = cost(2 * count)
        except ConfigError:
            return count, least, "twice as many need too much memory"
        if device.type == "cpu" and count >= enough and double.seconds * GAIN > 2 * least.seconds:
            return count, least, "twice as many take twice as long"
        count, least = 2 * count, double
    return count, least, f"twice as many would leave fewer than {LEAST_STEPS} steps per epoch"


def batch_of(count: int, shape: tuple[int, int], places: int, classes: int, device: torch.device) -> Batch:
    """Return images of noise of a shape (height, width), with a box at each of their places."""
    height, width = shape
    draw = torch.Generator().manual_seed(0)
    corners = torch.rand(count, places, 2, 2, generator=draw).sort(2).values * torch.tensor([width, height])
    return Batch(
        images=torch.rand(count, 3, height, width, generator=draw),
        boxes=corners.flatten(2),
        labels=torch.randint(classes, (count, places), generator=draw),
        flags=torch.zeros(count, places, dtype=torch.uint8),
        affine=torch.eye(3).repeat(count, 1, 1),
        index=torch.arange(count),
    ).to(device)


def _cost(learner: Learner, batch: Batch, held: int) -> Cost:
    """Take three steps that change no weight, and return the time of the fastest.

    Args:
        held: bytes that were in use before the first step.

    Raises:
        ConfigError: out of memory.
    """
    seconds = []
    with distributed.memory_errors(batch, 1, learner.config):
        for step in range(3):
            started = time.perf_counter()
            learner.gradients(batch)
            learner.update(0.0, step)
            seconds.append(time.perf_counter() - started)
    state = {**learner.state_dict(), "judged": learner.judged.state_dict()}
    copy = checkpoint.size(state) if learner.device.type == "cpu" else 0
    return Cost(min(seconds), _peak(learner.device) - held, copy)


def _held(device: torch.device) -> int:
    return torch.cuda.memory_allocated(device) if device.type == "cuda" else distributed.resident()


def _peak(device: torch.device) -> int:
    """Return the most bytes that were in use at any time: on CUDA of tensors, else of the process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    try:
        import resource
    except ImportError:  # Windows
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
