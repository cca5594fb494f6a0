"""Requests to object stores: obstore's clients, with retries and a deadline, and its errors as `OSError`."""

from __future__ import annotations

import errno
import functools
import math
import os
import re
import threading
import time
import urllib.parse
from collections.abc import Callable, Iterator
from concurrent.futures import Future, wait
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

from dataforge.command import echo
from dataforge.errors import ConfigError

DEADLINE = timedelta(seconds=120)  # of a request with its retries; a credential must be valid for as long
STALLED = timedelta(seconds=10)  # without a byte, after which a request is sent again
SENDING = timedelta(seconds=60)  # the same of a request that writes: no byte comes before all of them are sent
# each pause is drawn from up to `base` times the one before, so with 2 it would not grow
BACKOFF = {"init_backoff": timedelta(seconds=0.1), "max_backoff": timedelta(seconds=10), "base": 4}
PATIENCE = 10  # seconds of a wait after which it is told
LISTEN = 0.5  # seconds of one wait: Python hears a Ctrl-C that came just before it at its end
MOST_RETRIES = 10_000  # more than the deadline has time for
FORKED = "obstore does not work in a forked process whose parent used it; start workers by spawn or forkserver"
CHANGED = "has changed since it was opened (its ETag differs); open the shards again"
T = TypeVar("T")
ENDPOINTS = {"s3": ("AWS_ENDPOINT_URL", "AWS_ENDPOINT"), "az": ("AZURE_STORAGE_ENDPOINT",)}
_users: list[int] = []  # the process that has made requests


@functools.lru_cache(64)
def bucket_of(scheme: str, name: str, writes: bool = False) -> Any:
    """Return the client of a bucket. obstore takes its credentials, region and endpoint from the environment.

    Args:
        writes: return the one for requests that send much.

    Raises:
        ConfigError: obstore is not installed, or a value in the environment is wrong.
    """
    try:
        from obstore.exceptions import BaseError
        from obstore.store import MemoryStore, from_url
    except ImportError:
        raise ConfigError(f"{scheme}://{name}: needs obstore: pip install 'dataforge-detection[cloud]'") from None
    if scheme == "memory":
        return bucket_of(scheme, name) if writes else MemoryStore()
    endpoints = [_endpoint(name) for name in ENDPOINTS.get(scheme, ())]  # all are checked
    plain = any(endpoint.startswith("http://") for endpoint in endpoints)
    client: Any = {
        "allow_http": plain or os.environ.get("AZURE_STORAGE_USE_EMULATOR") == "true",
        "connect_timeout": timedelta(seconds=5),
        "read_timeout": SENDING if writes else STALLED,
        "timeout": DEADLINE,
    }
    retry: Any = {"max_retries": MOST_RETRIES, "retry_timeout": DEADLINE, "backoff": BACKOFF}
    try:
        return from_url(f"{scheme}://{name}", client_options=client, retry_config=retry)
    except (BaseError, ValueError) as error:
        raise ConfigError(f"{scheme}://{name}: {_reason(error)}") from None


def _endpoint(name: str) -> str:
    """Return the address in a variable of the environment, "" without one. obstore panics for some wrong ones."""
    text = os.environ.get(name, "")
    try:
        parts = urllib.parse.urlsplit(text)
        right = parts.scheme in ("http", "https") and parts.hostname and (parts.port or True)
    except ValueError:  # of the port
        right = False
    if text and (not right or re.search(r"[\s<>\"{}|\\^`]", text)):
        raise ConfigError(f"{name} is not an address such as https://host:9000")  # it may hold a password
    return text


class _Interruptible:
    """The functions of obstore. Those called in the main thread run in another, since Ctrl-C is heard in a wait for
    that, but not in Rust. `get` returns the object's bytes. Ctrl-C waits for the end of a `put`, other than one that
    creates, so that nothing is written once the caller has cleaned up.
    """

    def __init__(self, module: Any, path: object) -> None:
        self._module, self._path = module, path

    def __getattr__(self, name: str) -> Any:
        return functools.partial(self._heard, getattr(self._module, name))

    def get(self, *given: Any, **how: Any) -> Any:
        return self._heard(lambda: self._module.get(*given, **how).bytes())

    def put(self, *given: Any, mode: str = "overwrite", **how: Any) -> Any:
        return self._heard(self._module.put, *given, mode=mode, **how, whole=mode != "create")

    def list(self, *given: Any, **how: Any) -> Iterator[Any]:
        pages = self._module.list(*given, **how)
        while page := self._heard(next, pages, None):
            yield page

    def _heard(self, call: Callable[..., T], *given: Any, whole: bool = False, **how: Any) -> T:
        if threading.current_thread() is not threading.main_thread():
            return call(*given, **how)
        reply: Future[T] = Future()

        def run() -> None:
            try:
                reply.set_result(call(*given, **how))
            except BaseException as error:
                reply.set_exception(error)

        thread = threading.Thread(target=run, name="shards-request", daemon=True)
        try:
            thread.start()
            told = math.inf if whole else time.monotonic() + PATIENCE
            while wait([reply], LISTEN).not_done:
                if time.monotonic() > told:
                    repeated = f"requests are repeated for {DEADLINE.seconds} s, Ctrl-C ends the wait"
                    echo(f"{self._path}: no answer for {PATIENCE} s; {repeated}", err=True)
                    told = math.inf
            return reply.result()
        except KeyboardInterrupt:
            if whole and thread.is_alive():
                echo(f"{self._path}: is being sent; waiting for its end, Ctrl-C again ends the wait", err=True)
                thread.join()
            raise


@contextmanager
def requests(path: object) -> Iterator[Any]:
    """Yield the functions of obstore; their errors become those that a file at `path` would raise.

    Their own texts are not passed on: they hold URLs, which are signed for some stores, and replies.

    Raises:
        ConfigError: obstore is not installed. OSError: a request failed, after its retries.
    """
    try:
        import obstore
        from obstore import exceptions
    except ImportError:
        raise ConfigError(f"{path}: needs obstore: pip install 'dataforge-detection[cloud]'") from None
    if _users and _users[0] != os.getpid():
        raise OSError(errno.ENOTSUP, FORKED, str(path))  # a request would wait forever
    _users[:] = [os.getpid()]
    try:
        yield _Interruptible(obstore, path)
    except FileNotFoundError:
        raise FileNotFoundError(errno.ENOENT, "does not exist", str(path)) from None
    except exceptions.AlreadyExistsError:
        raise FileExistsError(errno.EEXIST, "exists already", str(path)) from None
    except exceptions.PreconditionError:
        raise OSError(errno.ESTALE, CHANGED, str(path)) from None
    except (exceptions.PermissionDeniedError, exceptions.UnauthenticatedError) as error:
        what = f"access is denied ({_reason(error)}); credentials are taken from the environment alone"
        raise PermissionError(errno.EACCES, what, str(path)) from None
    except exceptions.BaseError as error:
        raise OSError(errno.EIO, _reason(error), str(path)) from None


def _reason(error: Exception) -> str:
    """Return the reply's status and code if there is one, else the end of the first line, without any URL."""
    text = str(error)
    status, code = re.search(r"status code: (\d+[ \w]*)", text), re.search(r"<Code>(\w+)</Code>", text)
    line = text.strip().split("\n")[0].rpartition(" - ")[2]
    reason = re.sub(r"\w+://\S+", "URL", line) or type(error).__name__
    if status:
        reason = f"{status[1].strip()}, {code[1]}" if code else status[1].strip()
    if re.search(r"/latest/api/token|/meta-?data/|/computeMetadata/", text):  # where the machine's role is asked for
        return f"no credentials: none are in the environment, and the machine or its role gave none ({reason})"
    return reason
