"""Mixed precision: what a device supports, and on a CPU what is measured."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial

import torch
from torch import Tensor, nn

from dataforge.errors import ConfigError

KINDS = {"bf16": torch.bfloat16, "fp16": torch.float16}
GAIN = 1.2  # a CPU's bf16 must be faster than float32 by this factor
SHAPE = 1, 32, 48, 64  # of the map on which a CPU is measured: images, channels, height, width
BUDGET = 0.2  # seconds of measured steps after which no further round is measured
# of this thread alone, since other processes may share the core; Windows counts it in parts of 16 ms
CLOCK = time.perf_counter if os.name == "nt" else time.thread_time


def resolved(amp: str, device: torch.device, fp16: bool = True) -> tuple[str, str]:
    """Return the mixed precision to train with, and a line that says why, or warns.

    "auto" is bf16, or fp16 where it is not supported, on a CUDA device; bf16 on a CPU that computes it faster, of which
    short steps are measured; else none. Other values stay; bf16 that is slower than float32 on a CPU has a warning.

    Args:
        fp16: whether "auto" may be fp16, which FSDP2 does not take.

    Returns:
        "none", "bf16" or "fp16"; the line is empty if there is nothing to say.

    Raises:
        ConfigError: fp16 on a CPU, which is so slow that not even a measurement ends soon.
    """
    if device.type == "cpu" and amp == "fp16":
        raise ConfigError("amp is 'fp16' on cpu, which computes it very slowly; pass --amp auto, bf16 or none")
    if device.type == "cpu" and amp != "none":
        factor = cost(torch.bfloat16)
        words = f"a step in bf16 takes about {factor:.2g} times as long as in float32 on this CPU"
        if amp == "auto":
            chosen = "bf16" if factor * GAIN <= 1 else "none"
            return chosen, f"amp {chosen}: {words}, measured on a few layers"
        return amp, f"warning: amp {amp}: {words}; --amp auto chooses the faster one" if factor > 1 else ""
    if amp == "auto" and device.type == "cuda":
        half = "fp16" if fp16 else "none"
        chosen = "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else half
        why = "" if fp16 else " with fsdp"
        return chosen, f"amp {chosen}: the fastest that {torch.cuda.get_device_name(device)} supports{why}"
    if amp == "auto":
        return "none", f"amp none: mixed precision is not chosen on {device.type}"
    return amp, ""


def cost(kind: torch.dtype) -> float:
    """Return how many times as long as in float32 a training step of some layers takes on the CPU in a precision.

    The layers are those of detectors: a block of pointwise and depthwise convolutions with batch norm, and a 3x3
    convolution. They run on one thread, and both precisions take turns.
    """
    channels, wide = SHAPE[1], 3 * SHAPE[1]
    layers = nn.Sequential(
        *(nn.Conv2d(channels, wide, 1, bias=False), nn.BatchNorm2d(wide), nn.ReLU6()),
        *(nn.Conv2d(wide, wide, 3, padding=1, groups=wide, bias=False), nn.BatchNorm2d(wide), nn.ReLU6()),
        *(nn.Conv2d(wide, 2 * channels, 1), nn.ReLU(), nn.Conv2d(2 * channels, 2 * channels, 3, padding=1)),
    ).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    exact_depthwise(layers)
    images = torch.randn(SHAPE).contiguous(memory_format=torch.channels_last)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # waiting for others' work would be measured with more
    try:
        _step(layers, images, torch.float32)  # the first steps prepare much
        _step(layers, images, kind)
        exact = other = 0.0
        while exact + other < BUDGET:
            exact += _step(layers, images, torch.float32)
            other += _step(layers, images, kind)
    finally:
        torch.set_num_threads(threads)
    return other / exact


def _step(layers: nn.Module, images: Tensor, kind: torch.dtype) -> float:
    """Return the seconds that forward and backward pass take."""
    started = CLOCK()
    with nullcontext() if kind == torch.float32 else torch.autocast("cpu", kind):
        out = layers(images)
    out.float().square().sum().backward()
    return CLOCK() - started


def exact_depthwise(model: nn.Module) -> None:
    """Have depthwise convolutions that learn, and others of several groups, compute in float32 under a CPU's autocast.

    oneDNN 3.13 has no fast kernel for the gradient of their weights in bf16, unless they are 3x3 of stride 1: on a CPU
    with AMX, the backward pass of such layers took 5 to 20 times as long as in float32.
    """
    for module in model.modules():
        if isinstance(module, nn.Conv2d) and module.groups > 1 and module.weight.requires_grad:
            module.forward = partial(_exact, module.forward)  # type: ignore[method-assign]


def _exact(forward: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    with torch.autocast("cpu", enabled=False):
        return forward(x.float()).to(x.dtype)
