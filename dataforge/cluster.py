"""Work as tasks of a Ray cluster, which starts them, and starts them again where a process or node is lost."""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import platform
import signal
import socket
import sys
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from dataforge.errors import ConfigError, DataforgeError, ShardError
from dataforge.threads import Item, Result, Spread, opencv_threads

RETRIES = 5  # of a task whose process or node is lost
CHUNK = 16  # items of a task at most
PATIENCE = 5.0  # seconds in which a cluster has to answer; Ray itself tries for up to three minutes
AHEAD = 2  # tasks per CPU that are done, or being done, before their results are requested


@contextlib.contextmanager
def connected(address: str | None) -> Iterator[Any]:
    """Connect to a cluster for the block, and yield the module of Ray.

    Args:
        address: None is RAY_ADDRESS, the cluster of this machine, or a new one.

    Raises:
        ConfigError: Ray is not installed, or there is no such cluster.
    """
    try:
        import ray
    except ImportError:
        raise ConfigError("--engine ray needs ray: pip install 'dataforge-detection[ray]'") from None
    if address is None:
        address = os.environ.get("RAY_ADDRESS")
    if address:
        _reach(address)
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # a cluster that is started here tells nobody
    with contextlib.redirect_stdout(sys.stderr):  # Ray prints what happens to nodes; stdout is for results
        handler = signal.getsignal(signal.SIGTERM)
        try:
            ray.init(address, log_to_driver=False, logging_level=logging.ERROR)
        except (ConnectionError, ValueError, RuntimeError) as error:
            raise ConfigError(f"--address {address}: {error}") from None
        try:
            if threading.current_thread() is threading.main_thread():
                signal.signal(signal.SIGTERM, handler)  # Ray has set its own, which ends the process
            yield ray
        finally:
            ray.shutdown()


def _reach(address: str) -> None:
    """Connect to HOST:PORT, or ray://HOST:PORT, once. Names such as `auto`, and what is no address, are left to Ray.

    Raises:
        ConfigError: nothing answers there.
    """
    parts = urlsplit(address if "://" in address else f"//{address}")
    with contextlib.suppress(ValueError):  # a port that is no number
        if parts.hostname and parts.port:
            try:
                socket.create_connection((parts.hostname, parts.port), PATIENCE).close()
            except OSError as error:
                why = error.strerror or error
                raise ConfigError(f"--address {address}: no Ray cluster can be reached there: {why}") from None


def result_of(ray: Any, reference: Any, name: str) -> Any:
    """Return the result of a task.

    Raises:
        ShardError: it was lost more than `RETRIES` times; the message names it. RayTaskError: a bug in it.
    """
    try:
        return ray.get(reference)
    except ray.exceptions.RayTaskError:
        raise
    except ray.exceptions.RayError as lost:
        raise ShardError(f"{name} was lost {RETRIES + 1} times: {lost}") from None


@contextlib.contextmanager
def in_folder(current: Path) -> Iterator[None]:
    """Run the block in the folder in which the command runs, so that relative paths are those of the command.

    Raises:
        ShardError: this node has no such folder.
    """
    before = Path.cwd()
    try:
        os.chdir(current)
    except OSError as error:
        raise ShardError(
            f"{current}: {error.strerror} on node {platform.node()}; expected the folder in which the command runs on "
            "every node"
        ) from None
    try:
        yield
    finally:
        os.chdir(before)


def cpus_of(ray: Any) -> list[int]:
    """Return the number of CPUs of each node."""
    return [int(node["Resources"].get("CPU", 0)) for node in ray.nodes() if node["Alive"]]


@contextlib.contextmanager
def spreading(address: str | None) -> Iterator[tuple[Spread, int]]:
    """Connect to a cluster for the block; yield what spreads work over it, and its number of CPUs.

    Raises:
        ConfigError: as for `connected`, or it has no CPU.
    """
    with connected(address) as ray:
        if not (cpus := sum(cpus_of(ray))):
            raise ConfigError(f"--address {address}: the cluster has no CPU")
        yield functools.partial(ordered, ray), cpus


def ordered(ray: Any, work: Callable[[Item], Result], items: Iterable[Item], tasks: int) -> Generator[Result]:
    """Yield the result of `work` for each item, in order, as `threads.ordered` does.

    `work`, the items and the results are sent between machines, so they must be picklable. A process keeps the `work`
    that it was sent for its further tasks. The results of at most `AHEAD * tasks` tasks exist at a time.

    Args:
        ray: the module, connected.
        tasks: how many run at a time, of one CPU each.

    Raises:
        ShardError: as for `result_of`. Others as raised by `work`, after the results of the items before.
    """
    task = ray.remote(_results).options(num_cpus=1, max_retries=RETRIES)
    given, current = ray.put(work), Path.cwd()
    todo, failed = _chunks(items, AHEAD * tasks), None
    waiting: deque[Any] = deque()
    try:
        while True:
            try:
                for chunk in islice(todo, AHEAD * tasks - len(waiting)):
                    waiting.append(task.remote([given, ray.put(chunk)], current))
            except Exception as error:
                todo, failed = iter(()), error
            if not waiting:
                break
            results, wrong = result_of(ray, waiting.popleft(), "a task")
            yield from results
            if wrong:
                raise wrong
        if failed:
            raise failed
    finally:
        for reference in waiting:
            ray.cancel(reference, force=True)


def _chunks(items: Iterable[Item], each: int) -> Iterator[list[Item]]:
    """Yield the items in lists, small ones first, so that few items are spread as well: `each` of one, of two, ...

    An error raised by drawing an item comes after the items before it.
    """
    chunk: list[Item] = []
    count = 0
    try:
        for item in items:
            chunk.append(item)
            if len(chunk) >= min(1 + count // each, CHUNK):
                yield chunk
                chunk, count = [], count + 1
    except Exception:
        yield chunk
        raise
    if chunk:
        yield chunk


def _results(given: list[Any], current: Path) -> tuple[list[Any], DataforgeError | None]:
    """Run a task in the folder in which the command runs; its error is returned, since Ray need not try it again.

    Args:
        given: references to the work and to the items, in a list so that they are read in that folder, not before.
    """
    import ray

    results: list[Any] = []
    try:
        with in_folder(current), opencv_threads(1):
            work = _received(given[0])
            results.extend(map(work, ray.get(given[1])))
    except DataforgeError as error:
        return results, error
    return results, None


@functools.lru_cache(1)
def _received(reference: Any) -> Any:
    import ray

    return ray.get(reference)
