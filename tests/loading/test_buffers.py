from __future__ import annotations

import gc
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from dataforge.loading.buffers import Buffers

HOLD: dict[str, Callable[[Tensor], Any]] = {
    "the tensor": lambda x: x,
    "a slice": lambda x: x[1, 2:],
    "a permuted view": lambda x: x.permute(2, 0, 1),
    "a flat view": lambda x: x.view(-1)[5:],
    "detached": lambda x: x.detach(),
    "an array": lambda x: x.numpy(),
    "an array's view": lambda x: x.numpy()[1:].reshape(-1)[3:],
    "a tensor of an array": lambda x: torch.from_numpy(x.numpy()[1:]),
    "dlpack": lambda x: np.from_dlpack(x),
    "another dtype": lambda x: x.view(torch.int16),
    "a graph": lambda x: (x * torch.ones(1, requires_grad=True)).sum(),
}


@pytest.mark.parametrize("how", HOLD)
def test_memory_is_used_again_only_when_nobody_refers_to_it(how: str) -> None:
    buffers = Buffers(2)
    tensor = buffers.take((4, 6, 2), torch.float32)
    place = tensor.data_ptr()
    held: Any = HOLD[how](tensor)
    del tensor
    other = buffers.take((4, 6, 2), torch.float32)
    assert other.data_ptr() != place
    del held
    gc.collect()
    assert buffers.take((4, 6, 2), torch.float32).data_ptr() == place


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 50), st.sampled_from([torch.uint8, torch.float32]), st.integers(0, 5))))
def test_what_is_held_is_never_overwritten(turns: list[tuple[int, torch.dtype, int]]) -> None:
    buffers = Buffers(3)
    held: list[tuple[Tensor, int]] = []
    for number, (size, dtype, drop) in enumerate(turns):
        tensor = buffers.take((size, 3), dtype)
        assert tensor.shape == (size, 3) and tensor.dtype == dtype and tensor.is_contiguous()
        tensor.fill_(number % 250)
        held.append((tensor[0], number % 250))
        del held[:drop]
        assert all((view == value).all() for view, value in held)
        assert len(buffers._lent) <= 3


def test_sizes_that_change_settle_in_the_largest_blocks() -> None:
    buffers = Buffers(4)
    places = [buffers.take((side, side), torch.float32).data_ptr() for _ in range(20) for side in (8, 30, 17)]
    assert len(set(places[10:])) == 1


def test_blocks_outlive_the_buffers() -> None:
    tensor = Buffers(1).take((1000,), torch.int64)
    gc.collect()
    assert tensor.fill_(7).sum() == 7000
