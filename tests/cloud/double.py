"""S3 on this machine: moto's server, with faults before it and an account of what was requested."""

from __future__ import annotations

import logging
import socket
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from moto.core import DEFAULT_ACCOUNT_ID
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from moto.s3.models import s3_backends
from werkzeug.serving import make_server
from werkzeug.test import run_wsgi_app

BUCKET = "bucket"
STALL = 4.0  # seconds
SECRET = "s3cr3t-k3y"
ENVIRONMENT = {"AWS_ACCESS_KEY_ID": "user", "AWS_SECRET_ACCESS_KEY": SECRET, "AWS_REGION": "us-east-1"}
Fault = Callable[[str, str], str | None]  # method, key -> the kind of fault, or None


@dataclass
class Double:
    """A bucket on loopback.

    Attributes:
        fault: chooses the faults: "503", "expired", "cut" or "stall" in the middle of the reply, "wrong" bytes, "lost",
            which is a request that is taken and not answered, or "silent", which is taken after a while.
        requests: (method, key) of all so far.
    """

    fault: Fault | None = None
    requests: list[tuple[str, str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        logging.getLogger("werkzeug").setLevel(logging.CRITICAL)
        s3_backends[DEFAULT_ACCOUNT_ID]["aws"].create_bucket(BUCKET, "us-east-1")
        self._moto = DomainDispatcherApplication(create_backend_app)
        self._server = make_server("127.0.0.1", 0, self._reply, threaded=True)
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()
        self.endpoint = f"http://127.0.0.1:{self._server.port}"
        with suppress(urllib.error.HTTPError):
            urllib.request.urlopen(f"{self.endpoint}/{BUCKET}/none")  # moto imports what it needs now

    def stop(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def _reply(self, environ: dict[str, Any], start: Any) -> Iterator[bytes]:
        method, key = environ["REQUEST_METHOD"], environ["PATH_INFO"].removeprefix(f"/{BUCKET}").lstrip("/")
        self.requests.append((method, key))
        kind = self.fault(method, key) if self.fault else None
        if kind in ("503", "expired"):
            status, code = ("503 Slow Down", "SlowDown") if kind == "503" else ("400 Bad Request", "ExpiredToken")
            start(status, [("Content-Type", "application/xml")])
            yield f"<Error><Code>{code}</Code><Message>{environ.get('HTTP_AUTHORIZATION')}</Message></Error>".encode()
            return
        if kind == "silent":
            time.sleep(STALL)
        parts, status, headers = run_wsgi_app(self._moto, environ, buffered=True)
        body = b"".join(parts)
        start(status, list(headers))
        if kind == "lost":
            environ["werkzeug.socket"].shutdown(socket.SHUT_RDWR)
            return
        if kind == "wrong":
            body = body[: len(body) // 2] + bytes(255 - byte for byte in body[len(body) // 2 :])
        if kind in ("cut", "stall"):
            yield body[: len(body) // 2]
            time.sleep(STALL if kind == "stall" else 0)
            environ["werkzeug.socket"].shutdown(socket.SHUT_RDWR)
            return
        yield body
