"""An ingest whose parts are tasks of a Ray cluster, which starts them, and starts them again where a node is lost."""

from __future__ import annotations

import contextlib
import json
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from dataforge.cloud.path import RemotePath
from dataforge.cluster import RETRIES, connected, cpus_of, in_folder, result_of
from dataforge.errors import ConfigError, DataforgeError, ShardError
from dataforge.files import writing
from dataforge.ingest.parts import merge_parts
from dataforge.ingest.report import Summary
from dataforge.ingest.run import ingest
from dataforge.record import Source
from dataforge.shards.index import JOURNAL, REPORT
from dataforge.shards.out_folder import BusyError, check_free, locked

LOCK = "lock"  # of the folder of parts, while a command runs
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
        parts: by default, as many as run at a time; on resuming, as many as there were.
        jobs: threads of a task; by default the CPUs of the smallest node.
        how: further arguments of `ingest`.

    Raises:
        ConfigError: Ray is not installed, there is no such cluster, no node has `jobs` CPUs, or `parts` has changed.
        BusyError: another command writes these parts. Others as for `ingest` and `merge_parts`.
    """
    if isinstance(out, RemotePath):
        raise ConfigError(f"{out}: --engine ray writes to a folder that all nodes see")
    check_free(out)
    with _held(parts_of(out)) as root:
        with connected(address) as ray:
            cpus = cpus_of(ray)
            jobs = jobs or min(filter(None, cpus), default=1)
            if jobs > max(cpus, default=0):
                raise ConfigError(f"--jobs {jobs}: no node of the cluster has more than {max(cpus, default=0)} CPUs")
            if not resume:
                _clear(root)
            begun = _begun(root)
            if parts and begun and parts != begun:
                raise ConfigError(f"--parts {parts}: {root} holds parts of {begun}; --resume without --parts")
            count = parts or begun or sum(n // jobs for n in cpus)
            folders = [root / str(n + 1) for n in range(count)]
            _run(make, folders, jobs, progress, how)
        summary = merge_parts(folders, out)
        for folder in folders:
            shutil.rmtree(folder)
    return summary


@contextlib.contextmanager
def _held(root: Path) -> Iterator[Path]:
    """Make the folder of parts, and keep other commands away from it for the block; remove it if it is empty then."""
    with writing(root, ShardError):
        root.mkdir(parents=True, exist_ok=True)
    with locked(root, LOCK):
        try:
            yield root
        finally:
            with contextlib.suppress(OSError):  # parts, or other files, are in it
                (root / LOCK).unlink()
                root.rmdir()


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
                if error := result_of(ray, reference, f"{running.pop(reference)}: its task"):
                    raise error
            if progress:
                with contextlib.suppress(ray.exceptions.RayError):  # the actor is lost, which counts alone
                    progress(ray.get(images.total.remote()))
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
    while True:
        try:
            with in_folder(current):
                source, name = make()
                summary = ingest(source, folder, part=part, resume=True, source_name=name, progress=progress, **how)
            break
        except DataforgeError as error:
            if not isinstance(error, BusyError) or time.monotonic() > deadline:
                return ShardError(f"part {part[0]}: {error}")
        time.sleep(INTERVAL)
    images.count.remote(part[0], summary.images + summary.refused_images)
    return None


def _clear(root: Path) -> None:
    """Remove the parts that an earlier ingest has left.

    Raises:
        ShardError: a part's folder holds something else. BusyError: a task of an earlier command still writes to it.
    """
    for folder in (entry for entry in root.iterdir() if entry.name.isdecimal()):
        if not (folder / REPORT).exists():
            raise ShardError(f"{folder}: was not made by `dataforge ingest`; remove it, or choose another --out")
        with locked(folder), writing(folder, ShardError):
            shutil.rmtree(folder)


def _begun(root: Path) -> int | None:
    """Return the number of parts of an earlier ingest, by the first journal that states it."""
    for journal in root.glob(f"[0-9]*/{JOURNAL}"):
        with contextlib.suppress(OSError, ValueError, LookupError, TypeError), open(journal, "rb") as lines:
            return int(json.loads(lines.readline())["part"][1])
    return None
