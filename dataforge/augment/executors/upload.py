"""Upload of small arrays to a device, without waiting for it."""

from __future__ import annotations

from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor


def send(array: NDArray[Any], device: torch.device, dtype: torch.dtype = torch.float32) -> Tensor:
    """Return numbers on a device. They pass through page-locked memory, since copies from other memory block."""
    numbers = torch.from_numpy(array).to(dtype)
    return (numbers.pin_memory() if device.type == "cuda" else numbers).to(device, non_blocking=True)
