"""What `test_distributed` runs under torchrun: trainings, one after another.

python -m torch.distributed.run ... -m tests.trainers.distributed FOLDER DETECTOR...
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, Self

from torch import nn

from trainers import registry
from trainers.config import read_toml
from trainers.training import engine


def fix_norms(patch: Any = setattr) -> None:
    """Let batch norm use its stored statistics only: those of a batch depend on how it is shared out."""

    def train(self: nn.BatchNorm2d, mode: bool = True) -> Self:
        return nn.Module.train(self, False)

    patch(nn.BatchNorm2d, "train", train)


if __name__ == "__main__":
    fix_norms()
    for detector in sys.argv[2:]:
        kind = registry.config_class(detector)
        engine.train(kind(**read_toml(kind, Path(sys.argv[1]) / f"{detector}.toml")), detector)
