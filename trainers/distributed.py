"""Distributed training: rank and device of this process, sums over all ranks, stop requests, memory."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any, Self

import torch
import torch.distributed as dist
from torch import Tensor

from dataforge.errors import ConfigError, DataforgeError, first_line, out_of_memory
from dataforge.loading.batch import Batch
from trainers.config import Config

_TRIM_THRESHOLD, _MMAP_THRESHOLD, _MMAP_MAX = -1, -3, -4  # mallopt(3)
DEVICES = "auto, cpu, cuda, cuda:1 (or 1), or mps"
PEER_ENDED = ("gloo/transport/", "remote process exited")  # in the errors of gloo and of NCCL
LEAST_LIMIT = 1800.0  # seconds of torch's limit, which also bounds the start: torch's own default


def device_of(name: str) -> torch.device:
    """Return a device by name. "1" is "cuda:1".

    "auto" is the CUDA device of the local rank where CUDA is available; else Apple's MPS where it computes, unless
    there are several processes, which cannot communicate on it; else the CPU.

    Raises:
        ConfigError: the device is not available.
    """
    given = name
    if name == "auto":
        alone = os.environ.get("WORLD_SIZE", "1") == "1"
        name = "cuda" if torch.cuda.is_available() else "mps" if alone and _mps_computes() else "cpu"
    if name.isdecimal():
        name = f"cuda:{name}"
    if name == "cuda":
        name = f"cuda:{os.environ.get('LOCAL_RANK', '0')}"
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).cpu()  # "meta" holds no values
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        known = name.partition(":")[0] in ("cuda", "mps")
        reason = f"cannot be used here: {first_line(error).partition('. ')[0]}" if known else "no device of torch here"
        raise ConfigError(f"device is {given!r}; {reason}; expected {DEVICES}") from None
    return device


def _mps_computes() -> bool:
    try:
        return torch.backends.mps.is_available() and float(torch.ones(8, device="mps").sum()) == 8
    except RuntimeError:  # such as no memory left on a virtual machine's
        return False


@contextmanager
def joined(name: str, timeout: float) -> Iterator[tuple[int, int, torch.device]]:
    """Join the process group that torchrun started, if any, for the duration of the block.

    A CUDA device becomes the process's current device. After an error, NCCL's group is kept until the process ends:
    destroying it waits for the other ranks, which may be waiting for this one.

    Args:
        name: as in `device_of`.
        timeout: seconds after which a `Watchdog` ends this process if others do not arrive at a collective.

    Yields:
        This process's rank, the number of processes (more than one under torchrun), and its device.

    Raises:
        ConfigError: the device is not available. DataforgeError: other processes do not start, or one of them ends.
    """
    rank, count = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    device = device_of(name)
    if count == 1:
        yield rank, count, device
        return
    from torch.distributed.distributed_c10d import PrefixStore  # some builds lack them
    from torch.distributed.rendezvous import rendezvous

    from trainers.watchdog import Watchdog

    if device.type == "cuda":
        torch.cuda.set_device(device)
    # torch's own limit, which names no rank, is for what the watchdog does not see, and for finding each other
    limit = timedelta(seconds=max(2 * timeout, LEAST_LIMIT))
    store, rank, count = next(rendezvous("env://", timeout=limit))
    store = PrefixStore(_name_of_start(store, rank, count, limit), store)
    backend = "nccl" if device.type == "cuda" else "gloo"
    dist.init_process_group(backend, store=store, rank=rank, world_size=count, timeout=limit)
    failed = True
    try:
        with Watchdog(timeout):
            yield rank, count, device
        failed = False
    except RuntimeError as error:
        if not any(words in str(error) for words in PEER_ENDED):
            raise
        why = first_line(error).rpartition("] ")[2].partition(". ")[0]
        raise DataforgeError(f"rank {rank} of {count}: another process has ended; see its output ({why})") from None
    finally:
        if not failed or device.type != "cuda":
            dist.destroy_process_group()


def _name_of_start(store: Any, rank: int, count: int, limit: timedelta) -> str:
    """Return a name that this start's processes have in common and earlier ones had not.

    torchrun keeps one store for all its restarts, with the addresses of the processes before. So each rank posts a name
    of its own under its number, and rank 0 answers each name with its own until all have confirmed that one.

    Raises:
        DataforgeError: other processes do not start within the limit.
    """
    own = uuid.uuid4().hex
    store.set(f"start of {rank}", own)
    if rank:
        try:
            store.wait([f"answer to {own}"], limit)
        except RuntimeError:  # torch's classes for it differ by store
            raise DataforgeError(f"rank {rank}: rank 0 has not started within {limit} h; see its output") from None
        name: str = store.get(f"answer to {own}").decode()
        store.set(f"{name}, {rank}", "")
        return name
    waiting, end = list(range(1, count)), time.monotonic() + limit.total_seconds()
    while waiting:
        if time.monotonic() > end:
            ranks = ", ".join(map(str, waiting))
            raise DataforgeError(f"rank 0: these ranks have not started within {limit} h: {ranks}; see their output")
        for other in waiting:
            if store.check([f"start of {other}"]):
                store.set(f"answer to {store.get(f'start of {other}').decode()}", own)
        time.sleep(0.05)
        waiting = [other for other in waiting if not store.check([f"{own}, {other}"])]
    return own


def world_size() -> int:
    """Return the number of processes that train together."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def total(numbers: Tensor) -> Tensor:
    """Return the sum over all ranks; all ranks must call it."""
    if world_size() == 1:
        return numbers
    numbers = numbers.clone()
    dist.all_reduce(numbers)
    return numbers


def gathered(value: Any) -> list[Any]:
    """Return the values of all ranks in rank order; all ranks must call it."""
    if world_size() == 1:
        return [value]
    values = [None] * world_size()
    dist.all_gather_object(values, value)
    return values


def shared(count: Tensor, images: int) -> Tensor:
    """Return the divisor of a loss normalised by a count over the whole batch, such as its positive anchors.

    With several ranks it is the count over all ranks, scaled to this rank's share of the images: since
    `Learner.gradients` weights the ranks by their images, their losses then add up to those of one process.

    Args:
        count: () of this rank's batch; images: the batch's.

    Returns:
        () float32, at least 1 over the whole batch.
    """
    counts = total(torch.stack([count.float(), count.new_tensor(images, dtype=torch.float32)]))
    return counts[0].clamp(min=1) * images / counts[1]


class Stop:
    """Context manager: Ctrl-C or SIGTERM ends the run after the current step, with a checkpoint; a second one ends it
    immediately.

    The handlers of the two signals are restored when the block ends. Outside the main thread no signals are handled.

    Attributes:
        requested: whether this rank received a signal.
    """

    def __init__(self) -> None:
        self.requested = False
        self._handlers: dict[int, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._handlers[number] = signal.signal(number, self._request)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)  # None: not set by Python

    def everywhere(self, device: torch.device) -> bool:
        """Return whether any rank received a signal; all ranks must call it."""
        if world_size() == 1:
            return self.requested
        return bool(total(torch.tensor(float(self.requested), device=device)) > 0)

    def _request(self, number: int, frame: object) -> None:
        self.requested = True
        signal.signal(number, signal.SIG_DFL)


def resident() -> int:
    """Return the resident memory of this process in bytes, or 0 if unknown."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError):
        return 0


@contextmanager
def memory_kept() -> Iterator[None]:
    """Have glibc keep freed memory for the process during the block; nothing is done on other systems.

    Large tensors are otherwise given back to the system when they are freed, and every page of the next one is a fault.
    """
    libc = ctypes.CDLL(None) if sys.platform == "linux" else None
    if not hasattr(libc, "mallopt"):
        yield
        return
    libc.mallopt(_MMAP_MAX, 0)  # type: ignore[union-attr]
    libc.mallopt(_TRIM_THRESHOLD, 2**31 - 1)  # type: ignore[union-attr]
    try:
        yield
    finally:  # glibc no longer adapts its thresholds: what it would have raised them to, by freed tensors
        libc.mallopt(_MMAP_MAX, 65536)  # type: ignore[union-attr]
        libc.mallopt(_MMAP_THRESHOLD, 32 * 2**20)  # type: ignore[union-attr]
        libc.mallopt(_TRIM_THRESHOLD, 64 * 2**20)  # type: ignore[union-attr]
        libc.malloc_trim(0)  # type: ignore[union-attr]


def free_memory(device: torch.device) -> int:
    """Return the bytes of memory that a device has free: of a CPU, those that this process may use; 0 if unknown."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        free = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
    except (OSError, StopIteration):
        return 0
    try:  # a container's limit
        limit, used = (int(Path(f"/sys/fs/cgroup/memory.{name}").read_text()) for name in ("max", "current"))
    except (OSError, ValueError):  # no limit is the word "max"
        return free
    return min(free, limit - used)


@contextmanager
def memory_errors(batch: Batch, step: int, config: Config) -> Iterator[None]:
    """Suggest smaller settings when a step runs out of device or host memory.

    Args:
        step: 1 is the first, as in `steps.csv`.

    Raises:
        ConfigError: out of memory; replaces torch's various exceptions for it.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not out_of_memory(error):
            raise
        height, width = batch.images.shape[2:]
        half = max((config.budget or config.batch_size) // 2, 1)
        raise ConfigError(
            f"step {step}: out of memory with {len(batch)} images of {height}x{width} and {batch.labels.shape[1]} box "
            f"places each; try --{'budget' if config.budget else 'batch-size'} {half}, --accumulate 2 or --amp auto"
        ) from None
