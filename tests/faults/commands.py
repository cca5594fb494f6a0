"""The commands into which faults are injected, what they make, and what must hold of it afterwards."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from dataforge.errors import DataforgeError
from dataforge.shards.reader import Shards

Files = dict[str, bytes]


def files(folder: Path) -> Files:
    """The files of a folder, without reports and locks, which tell of the way and not of the result."""
    told = ("ingest.jsonl", "resume.jsonl", "lock")
    found = sorted(file for file in folder.rglob("*") if file.is_file() and file.name not in told)
    return {str(file.relative_to(folder)): file.read_bytes() for file in found}


@dataclass(frozen=True)
class Command:
    """A command that makes `out` of `given`.

    Attributes:
        make: runs it. again: runs it once more after a fault; `make` by default.
        is_absent: whether `out` is nothing that a reader takes for a result.
        before: prepares `out`.
    """

    make: Callable[[Path, Path], None]
    is_absent: Callable[[Path], bool]
    again: Callable[[Path, Path], None] | None = None
    before: Callable[[Path], None] | None = None

    def reset(self, out: Path) -> None:
        for left in out.parent.iterdir():
            shutil.rmtree(left)
        if self.before:
            self.before(out)


def cli(*arguments: str) -> Callable[[Path, Path], None]:
    """A command of dataforge; {given} and {out} are its folders."""

    def run(given: Path, out: Path) -> None:
        from dataforge.cli.main import main

        main([argument.format(given=given, out=out) for argument in arguments], prog_name="dataforge")

    return run


def no_shards(out: Path) -> bool:
    try:
        len(Shards(out).table)
    except DataforgeError:
        return True
    return False


def no_folder(out: Path) -> bool:
    return not out.exists()


def save_second(given: Path, out: Path) -> None:
    import torch

    from trainers.training import run

    run.save(out, {"detector": "yolov2", "classes": ["a"], "model": {"weight": torch.full((999,), 2.0)}}, 2, keep=1)


def save_first(out: Path) -> None:
    import torch

    from trainers.training import run

    (out / "weights").mkdir(parents=True)
    run.save(out, {"detector": "yolov2", "classes": ["a"], "model": {"weight": torch.full((999,), 1.0)}}, 1, keep=1)


def has_first(out: Path) -> bool:
    """Whether the checkpoints that can be read are whole: the first, or the second."""
    from trainers import checkpoint

    found = [checkpoint.load(file)["model"]["weight"] for file in (out / "weights").glob("*.pt")]
    return bool(found) and all(float(weight.sum()) in (999.0, 1998.0) for weight in found)


INGEST = ("ingest", "coco", "{given}/pictures", "--out", "{out}", "--jobs", "1", "--store")
COMMANDS = {
    "ingest": Command(cli(*INGEST, "lmdb"), no_shards, cli(*INGEST, "lmdb", "--resume")),
    "ingest memmap": Command(cli(*INGEST, "memmap"), no_shards),
    "ingest zarr": Command(cli(*INGEST, "zarr"), no_shards),
    "bake": Command(cli("bake", "{given}/shards", "--out", "{out}", "--side", "64"), no_shards),
    "bake raw": Command(cli("bake", "{given}/shards", "--out", "{out}", "--raw", "--size", "64", "64"), no_shards),
    "split": Command(cli("split", "{given}/shards", "--out", "{out}", "--val", "0.3"), no_shards),
    "merge": Command(cli("merge", "{given}/shards", "{given}/other", "--out", "{out}"), no_shards),
    "export coco": Command(cli("export", "{given}/shards", "--format", "coco", "--out", "{out}"), no_folder),
    "export voc": Command(cli("export", "{given}/shards", "--format", "voc", "--out", "{out}"), no_folder),
    "checkpoint": Command(save_second, has_first, before=save_first),
}
