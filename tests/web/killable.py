"""`killable.py PHOTOS DIR` serves in a child for each line of its input, and says when the child has ended."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import uvicorn.lifespan.off
import uvicorn.loops.asyncio
import uvicorn.protocols.http.h11_impl  # noqa: F401  (now, so that a child need not)

from dataforge.cli.pages import listen, serve
from dataforge.transform.edited import open_base
from dataforge.web.annotator import application
from dataforge.web.session import Session

for _ in sys.stdin:
    if pid := os.fork():
        _, status = os.waitpid(pid, 0)
        print(f"ended {os.waitstatus_to_exitcode(status)}", flush=True)
        continue
    signal.signal(signal.SIGINT, signal.default_int_handler)
    listening = listen(0, Path(sys.argv[2]))
    session = Session(open_base(Path(sys.argv[1])), Path(sys.argv[2]), ["cat"])
    print(f"{os.getpid()} {listening.getsockname()[1]}", flush=True)
    port = listening.getsockname()[1]
    serve(application(session, "secret", port), listening)
    os._exit(0)
