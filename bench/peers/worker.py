"""One peer in a process of its own: it checks an epoch and then times epochs when it is told to, line by line.

worker.py MODULE CORPUS     then on standard input: `check WORKLOAD` or `time WORKLOAD EPOCHS`, one a line,
    with tabs between; a workload may be followed by @ and the name of a variant
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import time
from itertools import count

import check
from corpus import Corpus


def main() -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print is no answer

    def answer(**values: object) -> None:
        print(json.dumps(values), file=answers, flush=True)

    module, corpus = importlib.import_module(sys.argv[1]), Corpus(sys.argv[2])
    answer(
        workloads=list(module.WORKLOADS), without=getattr(module, "WITHOUT", {}), stores=getattr(module, "STORES", {})
    )
    epochs, numbers = {}, count()
    for line in sys.stdin:
        task, workload, *rest = line.rstrip("\n").split("\t")
        try:
            if task == "check":
                epochs[workload] = module.WORKLOADS[workload](corpus)
                if getattr(module, "CHECKED", True):
                    wrong = check.verdict(workload.partition("@")[0], epochs[workload](next(numbers)), corpus)
                else:
                    wrong = ""
                    list(epochs[workload](next(numbers)))
                answer(wrong=wrong)
                continue
            images, seconds = 0, 0.0
            for _ in range(int(rest[0])):
                last = started = time.perf_counter()
                for batch in epochs[workload](next(numbers)):
                    images += len(batch["index"])
                    last = time.perf_counter()
                seconds += last - started  # up to the last batch: how threads are ended is not counted
            answer(images=images, seconds=seconds)
        except Exception as error:  # whatever a peer dies of is its row's reason
            answer(wrong=f"{type(error).__name__}: {error}")
    os._exit(0)  # some libraries' threads never end


if __name__ == "__main__":
    main()
