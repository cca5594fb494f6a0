"""A training whose last process is killed in the middle of a step: what `test_elastic` runs under torchrun.

python -m torch.distributed.run ... -m tests.trainers.elastic FILE STEP: the arguments; the step, 0 for none. When
torchrun has started the processes again, it is the step after that.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

from tests.trainers.distributed import fix_norms
from trainers.config import read_toml
from trainers.training import engine
from trainers.training.learner import Learner
from trainers.yolov2 import YOLOv2Config

if __name__ == "__main__":
    fix_norms()
    update = Learner.update
    killed_at = int(sys.argv[2]) and int(sys.argv[2]) + int(os.environ["TORCHELASTIC_RESTART_COUNT"])

    def killed(self: Learner, rate: float, step: int) -> None:
        if step + 1 == killed_at and os.environ["RANK"] == str(int(os.environ["WORLD_SIZE"]) - 1):
            os.kill(os.getpid(), signal.SIGKILL)
        update(self, rate, step)

    Learner.update = killed  # type: ignore[method-assign]
    engine.train(YOLOv2Config(**read_toml(YOLOv2Config, Path(sys.argv[1]))), "yolov2")
