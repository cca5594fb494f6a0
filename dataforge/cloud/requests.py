"""Requests to object stores: obstore's clients, with retries and a deadline, and its errors as `OSError`."""

from __future__ import annotations

import errno
import functools
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

from dataforge.errors import ConfigError

DEADLINE = timedelta(seconds=120)  # of a request with its retries; a credential must be valid for as long
STALLED = timedelta(seconds=10)  # without a byte, after which a request is sent again
SENDING = timedelta(seconds=60)  # the same of a request that writes: no byte comes before all of them are sent
BACKOFF = {"init_backoff": timedelta(seconds=0.1), "max_backoff": timedelta(seconds=10)}
FORKED = "obstore does not work in a forked process whose parent used it; start workers by spawn or forkserver"
CHANGED = "has changed since it was opened (its ETag differs); open the shards again"
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
    plain = any(os.environ.get(key, "").startswith("http://") for key in ("AWS_ENDPOINT_URL", "AWS_ENDPOINT"))
    client: Any = {
        "allow_http": plain or os.environ.get("AZURE_STORAGE_USE_EMULATOR") == "true",
        "connect_timeout": timedelta(seconds=5),
        "read_timeout": SENDING if writes else STALLED,
        "timeout": DEADLINE,
    }
    retry: Any = {"max_retries": 10, "retry_timeout": DEADLINE, "backoff": BACKOFF}
    try:
        return from_url(f"{scheme}://{name}", client_options=client, retry_config=retry)
    except (BaseError, ValueError) as error:
        raise ConfigError(f"{scheme}://{name}: {_reason(error)}") from None


@contextmanager
def requests(path: object) -> Iterator[Any]:
    """Yield the module obstore; its errors become those that a file at `path` would raise.

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
        yield obstore
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
    if status:
        return f"{status[1].strip()}, {code[1]}" if code else status[1].strip()
    line = text.strip().split("\n")[0].rpartition(" - ")[2]
    return re.sub(r"\w+://\S+", "URL", line) or type(error).__name__
