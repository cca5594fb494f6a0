"""Groups of three processes of which one does not arrive: what `test_watchdog` runs.

python -m tests.trainers.stopped FOLDER LATE,HOW...: the late rank; kill, stop, block or slow. It writes
FOLDER/LATE,HOW,RANK: what the process printed, and its exit code.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import time
from pathlib import Path

import torch

from dataforge.errors import DataforgeError
from trainers.distributed import joined, total

LIMIT, WORLD = 4.0, 3


def wait(late: int, how: str) -> None:
    with joined("cpu", LIMIT) as (rank, _, _):
        total(torch.ones(1))
        if rank == late and how in ("kill", "stop"):
            os.kill(os.getpid(), signal.SIGKILL if how == "kill" else signal.SIGSTOP)
        if rank == late and how == "block":
            time.sleep(1000)
        if how == "slow":  # all for longer than the limit, then one alone for less
            time.sleep(2 * LIMIT if rank == late else 1.5 * LIMIT)
        total(torch.ones(1))


def start(folder: Path, case: str) -> list[int]:
    """Fork the processes of a group, which spares them torch's import."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    started = []
    for rank in range(WORLD):
        started.append(os.fork())
        if not started[-1]:
            common = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(WORLD)}
            os.environ |= {**common, "RANK": str(rank)}
            os.dup2(os.open(folder / f"{case},{rank}", os.O_CREAT | os.O_WRONLY), 2)
            late, how = case.split(",")
            try:
                wait(int(late), how)
            except DataforgeError as error:
                os.write(2, f"error: {error}\n".encode())
                os._exit(error.exit_code)
            os._exit(0)
    return started


if __name__ == "__main__":
    groups = {case: start(Path(sys.argv[1]), case) for case in sys.argv[2:]}
    for case, processes in groups.items():
        late, how = case.split(",")
        for rank in sorted(range(WORLD), key=lambda rank: rank == int(late)):  # the late one last
            if rank == int(late) and how != "slow":
                os.kill(processes[rank], signal.SIGKILL)
            code = os.waitstatus_to_exitcode(os.waitpid(processes[rank], 0)[1])
            with open(Path(sys.argv[1], f"{case},{rank}"), "a") as file:
                file.write(f"exit {code}\n")
