"""This process among others: its rank and device, what all ranks must agree on, how it is asked to stop."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor

from dataforge.errors import ConfigError


def device_of(name: str) -> torch.device:
    """A device by name; "auto" is CUDA where there is one, of the local rank.

    Raises:
        ConfigError: no such device here.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda":
        name = f"cuda:{os.environ.get('LOCAL_RANK', '0')}"
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ConfigError(f"device {name!r} cannot be used: {str(error).splitlines()[0]}") from None
    return device


def place(name: str) -> tuple[int, int, torch.device]:
    """This process's rank, the number of processes (more than one under torchrun), and its device.

    Args:
        name: as in `device_of`.

    Raises:
        ConfigError: no such device here.
    """
    world = int(os.environ.get("WORLD_SIZE", "1"))
    rank = int(os.environ.get("RANK", "0"))
    device = device_of(name)
    if world > 1:
        if device.type == "cuda":
            torch.cuda.set_device(device)
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    return rank, world, device


def agree(images: int, stop: bool, world: int, device: torch.device) -> tuple[float, bool]:
    """What all ranks must know of a step.

    Returns:
        What this rank's mean is multiplied by so that DDP's mean over ranks is the mean over images; and whether the
        run ends here, because some rank was asked to stop.
    """
    if world == 1:
        return 1.0, stop
    total = torch.tensor([float(images), float(stop)], device=device)
    dist.all_reduce(total)
    all_images, stops = total.tolist()
    return images * world / all_images, stops > 0


def shared(count: Tensor, images: int) -> Tensor:
    """What a loss is divided by that is normalised by a count over the whole batch, such as its positive anchors.

    With several ranks it is the count over all of them, scaled to this rank's share of the images: since `agree`
    weighs the ranks by their images, their losses then add up to those of one process.

    Args:
        count: () of this rank's batch; images: the batch's.

    Returns:
        () float32, at least 1 over the whole batch.
    """
    if not (dist.is_available() and dist.is_initialized()):
        return count.float().clamp(min=1)
    total = torch.stack([count.float(), count.new_tensor(images, dtype=torch.float32)])
    dist.all_reduce(total)
    return total[0].clamp(min=1) * images / total[1]


class Stop:
    """Ctrl-C or SIGTERM ends the run after the step in hand, with a checkpoint; a second one ends it at once."""

    def __init__(self) -> None:
        self.asked = False
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                signal.signal(number, self._ask)

    def _ask(self, number: int, frame: object) -> None:
        self.asked = True
        signal.signal(number, signal.SIG_DFL)


def resident() -> int:
    """Bytes of memory this process holds, 0 where that cannot be told."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError):
        return 0
