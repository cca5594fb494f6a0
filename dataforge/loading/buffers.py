"""Memory for images that is reused as soon as nothing refers to it.

Writing to newly allocated memory costs more than most of a loader's other work, since the kernel first zeroes every
page. So the images of a batch are stored in a block that an earlier batch used. An image, a view of one, or an array
made from it keeps the block alive: it is reused only when the last reference is gone.
"""

from __future__ import annotations

import math
import weakref
from collections import deque
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

_PAGE = 1 << 21  # bytes of a huge page; copies to memory aligned to 16 bytes, as NumPy's, take up to 4 times as long


class Buffers:
    """Pool of memory blocks, each reused when nothing refers to the tensors made from it.

    Args:
        keep: number of blocks remembered; one that is in use for longer is freed when its last reference ends.
        pin: page-locked memory for copies to a GPU. PyTorch's own allocator reuses that, and knows of pending copies.
    """

    def __init__(self, keep: int, pin: bool = False) -> None:
        # polled, without a callback: an interrupt in a weak reference's callback would be lost
        self._lent: deque[tuple[weakref.ref[NDArray[np.uint8]], NDArray[np.uint8]]] = deque(maxlen=keep)
        self._pin = pin

    def take(self, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        """Return an uninitialised tensor, owned by the caller while it, or anything that shares its memory, exists.

        Only one thread may call this at a time; references may end in any thread.
        """
        if self._pin:
            return torch.empty(shape, dtype=dtype, pin_memory=True)
        size = math.prod(shape) * dtype.itemsize
        block = self._block(size)
        lent = block[:size]  # the storage references this object; NumPy's own views of it would not, but none escapes
        self._lent.append((weakref.ref(lent), block))
        return torch.from_numpy(lent).view(dtype).view(shape)

    def _block(self, size: int) -> NDArray[np.uint8]:
        for _ in range(len(self._lent)):
            lent, block = self._lent.popleft()
            if lent() is not None:
                self._lent.append((lent, block))
            elif len(block) >= size:
                return block  # a block that is too small is dropped: soon all fit the largest batch
        block = np.empty(size + _PAGE, np.uint8)  # NumPy asks for huge pages, which only fill whole ones
        return block[-block.ctypes.data % _PAGE :][:size]
