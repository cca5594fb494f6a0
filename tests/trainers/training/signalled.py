"""A training that sends itself a signal: what `test_engine` stops, kills and interrupts at a certain step.

python -m tests.trainers.training.signalled STEP NAME FILE FLAGS...: before it takes step STEP (1, 2, ...), the signal
of that name, once FILE exists; the flags of `trainers.yolov2`.
"""

from __future__ import annotations

import os
import runpy
import signal
import sys
import time
from pathlib import Path

from trainers.training.learner import Learner

if __name__ == "__main__":
    at, name, awaited = sys.argv[1:4]
    del sys.argv[1:4]
    update = Learner.update

    def signalled(self: Learner, rate: float, step: int) -> None:
        if step + 1 == int(at):
            while not Path(awaited).exists():
                time.sleep(0.01)
            os.kill(os.getpid(), signal.Signals[name])
        update(self, rate, step)

    Learner.update = signalled  # type: ignore[method-assign]
    runpy.run_module("trainers.yolov2", run_name="__main__")
