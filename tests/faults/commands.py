"""The commands into which faults are injected, what they make, and what must hold of it afterwards."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from matplotlib.figure import Figure

from dataforge.errors import DataforgeError
from dataforge.overlay import journal
from dataforge.shards.reader import Shards
from tests.trainers.runs import small
from trainers import checkpoint
from trainers.config import read_toml
from trainers.results import monitor, plots
from trainers.training import engine, run
from trainers.yolov2 import YOLOv2Config

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
        result: what `out` holds, for comparisons.
    """

    make: Callable[[Path, Path], None]
    is_absent: Callable[[Path], bool]
    again: Callable[[Path, Path], None] | None = None
    before: Callable[[Path], None] | None = None
    result: Callable[[Path], Files] = files

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


def edit(given: Path, out: Path) -> None:
    """Append the edits that are not there yet, as annotate does."""
    edits = journal.Journal(out, {"base": "a"})
    for n in range(len(edits.lines) - 1, 6):
        edits.append({"kind": "edit", "n": n, "text": "x" * 300})
    edits.close()


def has_first_edits(out: Path) -> bool:
    """Whether the edits that can be read are the first ones, or there is no overlay yet."""
    if not (out / journal.JOURNAL).exists():
        return True
    lines, _ = journal.read(out)
    return [line["n"] for line in lines[1:]] == list(range(len(lines) - 1)) and len(lines) < 7


def train(given: Path, out: Path) -> None:
    """Train for 4 steps with a checkpoint each, or go on from the newest one. Figures are written, but not drawn."""
    Figure.savefig = lambda _, file, **__: file.write_bytes(b"drawn")
    plots.labels = lambda file, *_: plots._save(Figure(), file)
    plots.results = lambda _, file: plots._save(Figure(), file)
    monitor.write = lambda *_: None
    folder = out / "yolov2/a"
    if folder.exists() and not run.unfinished(folder):
        engine.train(YOLOv2Config(**read_toml(YOLOv2Config, folder / "args.toml")), "yolov2", folder)
        return
    options = {"epochs": 2, "save_steps": 1, "keep": 2, "val_split": "", "multiscale": [], "threads": 1, "name": "a"}
    options |= {"width": 0.03, "size": [32, 32]}
    engine.train(small(given / "shards", out, **options), "yolov2")


def last_weights(out: Path) -> Files:
    """The weights of a run that has ended; nothing for one that has not."""
    file = out / "yolov2/a/weights/last.pt"
    state = checkpoint.load(file) if file.exists() else {}
    if not state or state["train"]["progress"]["epoch"] < 2:
        return {}
    return {name: tensor.numpy().tobytes() for name, tensor in state["model"].items()}


def checkpoints_load(out: Path) -> bool:
    return all(checkpoint.load(file)["model"] for file in out.glob("yolov2/a/weights/*.pt"))


def no_shards(out: Path) -> bool:
    try:
        len(Shards(out).table)
    except DataforgeError:
        return True
    return False


def no_folder(out: Path) -> bool:
    return not out.exists()


def save_second(given: Path, out: Path) -> None:
    run.save(out, {"detector": "yolov2", "classes": ["a"], "model": {"weight": torch.full((999,), 2.0)}}, 2, keep=1)


def save_first(out: Path) -> None:
    (out / "weights").mkdir(parents=True)
    run.save(out, {"detector": "yolov2", "classes": ["a"], "model": {"weight": torch.full((999,), 1.0)}}, 1, keep=1)


def has_first(out: Path) -> bool:
    """Whether the checkpoints that can be read are whole: the first, or the second."""
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
    "annotate": Command(edit, has_first_edits),
    "training": Command(train, checkpoints_load, result=last_weights),
    "checkpoint": Command(save_second, has_first, before=save_first),
}
