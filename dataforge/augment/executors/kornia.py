"""Legend: n images, H x W pixels.

kornia's operations on finished images, for both other executors: one image in a decode thread, or a batch at once.

kornia itself draws an image's parameters, for this image alone, from a generator seeded by (seed, epoch, record); a
batch gets the concatenated parameters of its images. So an image is the same in any batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.overrides import TorchFunctionMode

from dataforge.augment.executors.upload import send
from dataforge.augment.operations.kornia import module
from dataforge.augment.parameters import KorniaStep
from dataforge.errors import ConfigError, first_line

_RANDOM = {
    *(torch.rand, torch.randn, torch.randint, torch.randperm, torch.rand_like, torch.randn_like, torch.randint_like),
    *(torch.bernoulli, torch.multinomial, torch.normal, torch.poisson),
    *(torch.Tensor.uniform_, torch.Tensor.normal_, torch.Tensor.bernoulli_, torch.Tensor.random_),
}
_SHARED = ("order", "ksize_factor")  # parameters of which kornia takes one for a whole batch


class _Seeded(TorchFunctionMode):
    """Draw from a separate generator, in this thread only: torch's global one is neither used nor changed."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.generator = torch.Generator().manual_seed(seed)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        more = {"generator": self.generator} if func in _RANDOM else {}
        return func(*args, **(kwargs or {}), **more)


@torch.no_grad()
def apply(images: Tensor, steps: Sequence[KorniaStep], rows: NDArray[np.int64]) -> Tensor:
    """Apply a recipe's steps of kornia, in their order, to the images that each is drawn for.

    Args:
        images: (n, 3, H, W) float32 in 0..1, on any device; they may be modified.
        rows: (n,) each image's index in the parameters.

    Returns:
        (n, 3, H, W) in 0..1.

    Raises:
        ConfigError: kornia cannot apply a step to images of this size.
    """
    for step in steps:
        chosen = np.flatnonzero(step.chosen[rows])
        operation = module(step.values)
        try:
            drawn = [_draw(operation, seed, images.shape[1:]) for seed in step.seed[rows[chosen]].tolist()]
            for group in _groups(drawn):
                params = _together([drawn[i] for i in group])
                where = send(chosen[group], images.device, torch.int64)
                changed = operation.apply_transform(images[where], params, operation.flags)
                images[where] = changed.clamp(0, 1)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:
            height, width = images.shape[2:]
            name = step.values["op"]
            raise ConfigError(
                f"augmentation {name!r} on {height} x {width} pixels; kornia: {first_line(error)}"
            ) from error
    return images


def _draw(operation: Any, seed: int, shape: Sequence[int]) -> dict[str, Tensor]:
    with _Seeded(seed):
        return operation.generate_parameters(torch.Size((1, *shape)))


def _groups(drawn: list[dict[str, Tensor]]) -> list[list[int]]:
    """Group images for one call each: those whose parameters have the same shapes, and the same `_SHARED` values."""
    groups: dict[Any, list[int]] = {}
    for i, params in enumerate(drawn):
        key = [(tuple(value.shape), value.tolist() if name in _SHARED else 0) for name, value in params.items()]
        groups.setdefault(repr(key), []).append(i)
    return list(groups.values())


def _together(drawn: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Return the parameters of one call from those of its images, in kornia's layout for a batch."""
    params = {name: torch.cat([one[name] for one in drawn]) for name in drawn[0] if name != "order"}
    if "order" in drawn[0]:
        params["order"] = drawn[0]["order"]
    if "batch_idx" in params:  # RandomChannelDropout: the images' indices
        params["batch_idx"] = torch.arange(len(drawn))[:, None]
    return params


def picture(canvas: NDArray[np.uint8], steps: Sequence[KorniaStep], row: int) -> NDArray[np.float32]:
    """Call `apply` for one image.

    Args:
        canvas: (H, W, 3) uint8, not modified; row: its index in the parameters.

    Returns:
        (H, W, 3) in 0..255.
    """
    image = torch.from_numpy(canvas).permute(2, 0, 1)[None] / 255
    changed: NDArray[np.float32] = (apply(image, steps, np.array([row]))[0] * 255).permute(1, 2, 0).numpy()
    return changed
