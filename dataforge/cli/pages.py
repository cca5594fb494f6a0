"""Serve a page of this package to the browser of this machine."""

from __future__ import annotations

import socket
import zlib
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from dataforge.errors import ConfigError

if TYPE_CHECKING:
    from starlette.applications import Starlette


def listen(port: int | None, folder: Path) -> socket.socket:
    """Return a socket at the port; None is one that depends on the folder, so that the browser knows the page again."""
    first = 20_000 + zlib.crc32(str(folder.resolve()).encode("utf-8", "surrogateescape")) % 10_000
    for tried in [port] if port is not None else [*range(first, first + 20), 0]:
        # asyncio switches Nagle's algorithm off, which delays answers by 40 ms, only for sockets that say they are TCP
        listening = socket.socket(proto=socket.IPPROTO_TCP)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listening.bind(("127.0.0.1", tried))
            listening.listen(128)
            return listening
        except OSError as error:
            listening.close()
            reason = error.strerror
    raise ConfigError(f"--port {port}: {reason}")


def serve(application: Starlette, listening: socket.socket) -> None:
    import uvicorn

    config = uvicorn.Config(
        application, log_level="warning", access_log=False, lifespan="off", server_header=False, ws="none"
    )
    config.timeout_graceful_shutdown = 2
    with suppress(KeyboardInterrupt):  # raised again by uvicorn once it has ended
        uvicorn.Server(config).run([listening])
