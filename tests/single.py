"""A mode in which torch makes no float64 tensor: MPS has none, so what runs on a device must not need one."""

from __future__ import annotations

from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class NoDouble(TorchDispatchMode):
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        dtypes = [each.dtype for each in tree_leaves(made) if isinstance(each, torch.Tensor)]
        numpys = func is torch.ops.aten.lift_fresh.default  # `from_numpy`: still on the host
        assert numpys or torch.float64 not in dtypes, f"{func} makes a float64 tensor, which MPS does not have"
        return made
