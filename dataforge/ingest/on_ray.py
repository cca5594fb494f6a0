"""An ingest whose parts are tasks of a Ray cluster, which starts them, and starts them again where a node is lost."""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from dataforge.cloud.path import RemotePath
from dataforge.errors import ConfigError, DataforgeError, ShardError
from dataforge.ingest.parts import merge_parts
from dataforge.ingest.report import Summary
from dataforge.ingest.run import ingest
from dataforge.record import Source
from dataforge.shards.index import REPORT
from dataforge.shards.out_folder import BusyError

RETRIES = 5  # of a part whose process or node is lost
INTERVAL = 1.0  # seconds between reports of progress
ORPHAN = 120.0  # seconds for which a task waits for the end of the one that it replaces, whose node may only be cut off


def ingest_on_ray(
    make: Callable[[], tuple[Source, str]],
    out: Path,
    *,
    address: str | None = None,
    parts: int | None = None,
    jobs: int | None = None,
    resume: bool = False,
    progress: Callable[[int], None] | None = None,
    **how: Any,
) -> Summary:
    """Ingest as `dataforge.ingest.run.ingest`, by tasks of a Ray cluster that write parts to the folder `OUT.parts`.

    All nodes must see that folder and the source. A task holds the memory of one ingest, takes `jobs` CPUs, and is run
    again from its last closed shard if its process or node is lost. `OUT.parts` stays after an error, for `resume`.

    Args:
        make: called by each task; returns the source and the name of its format.
        address: of the cluster; None is RAY_ADDRESS, the cluster of this machine, or a new one.
        parts: by default, as many as run at a time.
        jobs: threads of a task; by default the CPUs of the smallest node.
        how: further arguments of `ingest`.

    Raises:
        ConfigError: Ray is not installed, or there is no such cluster. Others as for `ingest` and `merge_parts`.
    """
    if isinstance(out, RemotePath):
        raise ConfigError(f"{out}: --engine ray writes to a folder that all nodes see")
    with _connected(address) as ray:
        cpus = [int(node["Resources"].get("CPU", 0)) for node in ray.nodes() if node["Alive"]]
        jobs = jobs or min(filter(None, cpus), default=1)
        count = parts or max(1, sum(n // jobs for n in cpus))
        folders = [parts_of(out) / str(n + 1) for n in range(count)]
        for folder in folders if not resume else ():
            _remove(folder)
        _run(make, folders, jobs, progress, how)
    summary = merge_parts(folders, out)
    for folder in folders:
        _remove(folder)
    with contextlib.suppress(OSError):  # other files are in it
        parts_of(out).rmdir()
    return summary


@contextlib.contextmanager
def _connected(address: str | None) -> Iterator[Any]:
    """Connect to a cluster for the block, and yield the module of Ray."""
    try:
        import ray
    except ImportError:
        raise ConfigError("--engine ray needs ray: pip install 'dataforge-detection[ray]'") from None
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


def parts_of(out: Path) -> Path:
    """Return the folder of the parts."""
    return out.absolute().with_name(f"{out.name}.parts")


def _run(
    make: Callable[[], tuple[Source, str]],
    folders: list[Path],
    jobs: int,
    progress: Callable[[int], None] | None,
    how: dict[str, Any],
) -> None:
    """Write all parts, and return when they are complete."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    images: Any = ray.remote(_Images).options(num_cpus=0, scheduling_strategy=here).remote()
    task = ray.remote(_write).options(num_cpus=jobs, max_retries=RETRIES)
    given = ray.put((make, how | {"jobs": jobs}, Path.cwd()))
    running: dict[Any, Path] = {
        task.remote(given, folder, (n, len(folders)), images): folder for n, folder in enumerate(folders, 1)
    }
    try:
        while running:
            ready, _ = ray.wait(list(running), timeout=INTERVAL)
            for reference in ready:
                folder = running.pop(reference)
                if error := ray.get(reference):
                    raise error
            if progress:
                progress(ray.get(images.total.remote()))
    except ray.exceptions.RayTaskError:  # a bug
        raise
    except ray.exceptions.RayError as error:
        raise ShardError(f"{folder}: its task was lost {RETRIES + 1} times: {error}") from None
    finally:
        for reference in running:
            ray.cancel(reference, force=True)


class _Images:
    """An actor that counts the images that tasks have processed."""

    def __init__(self) -> None:
        self._of_part: dict[int, int] = {}

    def count(self, part: int, images: int) -> None:
        self._of_part[part] = max(images, self._of_part.get(part, 0))  # a part that is run again begins anew

    def total(self) -> int:
        return sum(self._of_part.values())


def _write(given: Any, folder: Path, part: tuple[int, int], images: Any) -> DataforgeError | None:
    """Write a part, from the folder in which the command runs; return its error, which Ray need not try again."""
    make, how, current = given
    reported = time.monotonic()

    def progress(count: int) -> None:
        nonlocal reported
        if time.monotonic() > reported + INTERVAL:
            reported = time.monotonic()
            images.count.remote(part[0], count)

    deadline = time.monotonic() + ORPHAN
    with contextlib.chdir(current):
        while True:
            try:
                source, name = make()
                summary = ingest(source, folder, part=part, resume=True, source_name=name, progress=progress, **how)
                break
            except DataforgeError as error:
                if not isinstance(error, BusyError) or time.monotonic() > deadline:
                    return ShardError(f"part {part[0]}: {error}")
            time.sleep(INTERVAL)
    images.count.remote(part[0], summary.images + summary.refused_images)
    return None


def _remove(folder: Path) -> None:
    """Remove a part that an earlier ingest has left.

    Raises:
        ShardError: the folder holds something else.
    """
    if folder.exists():
        if not (folder / REPORT).exists():
            raise ShardError(f"{folder}: was not made by `dataforge ingest`; remove it, or choose another --out")
        shutil.rmtree(folder)
