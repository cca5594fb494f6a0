"""`dataforge demo`: run synth, ingest, info, bench, train, evaluate and predict on synthetic images, like a user."""

from __future__ import annotations

import json
import shlex
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

import click

from dataforge.command import LocalPath, command, echo
from dataforge.errors import ConfigError, DataError
from dataforge.process import run_module

NEEDED_MAP50 = 0.6
RESULT = "demo.json"
TRAINING = """--defaults paper --size 192 --multiscale 1,1 --width 0.25 --augment flip --epochs 10 --eval-every 10
--batch-size 16 --optimizer adamw --lr 0.002 --schedule cosine --ema 0.99"""


def run(out: Path) -> dict[str, Any]:
    """Run the demo in `out`, without external data.

    Args:
        out: a folder that does not exist, is empty, or holds an earlier demo, which is replaced.

    Returns:
        The contents of `out/demo.json`: "mAP50", "seconds" and the seconds of each step.

    Raises:
        ConfigError: `out` is something else.
        DataError: a step failed, or mAP50 on the held-out images is below 0.6.
    """
    pictures, shards, runs, predictions = (out / name for name in ("pictures", "shards", "runs", "predictions"))
    _clear(out, (pictures, shards, runs, predictions))
    weights = runs / "yolov2" / "demo" / "weights" / "best.pt"
    trainer: list[str | Path] = ["--shards", shards, "--runs", runs, "--name", "demo", *TRAINING.split()]
    steps: dict[str, list[str | Path]] = {
        "draw pictures": ["dataforge", "synth", pictures],
        "ingest": ["dataforge", "ingest", "coco", pictures, "--out", shards],
        "info": ["dataforge", "info", shards],
        "bench": ["dataforge", "bench", shards, "--size", "192", "192"],
        "train": ["python", "-m", "trainers.yolov2", *trainer],
        "evaluate": ["python", "-m", "trainers.evaluate", weights, "--shards", shards, "--split", "val", "--json"],
        "predict": ["python", "-m", "trainers.predict", weights, "--source", pictures / "val", "--out", predictions],
    }
    seconds: dict[str, float] = {}
    numbers: dict[str, float] = {}
    for number, (name, line) in enumerate(steps.items(), 1):
        words = [str(word) for word in line]
        click.secho(f"\n[{number}/{len(steps)}] {name}: {shlex.join(words)}", bold=True)
        started = time.perf_counter()
        printed = _call(words, quiet=name in ("evaluate", "predict"))
        seconds[name] = round(time.perf_counter() - started, 1)
        if name == "evaluate":
            numbers = json.loads(printed)
            echo(", ".join(f"{key} {value:.4f}" for key, value in numbers.items() if key != "best"))
        elif name == "predict":
            echo(printed.splitlines()[-1])
    result = {"mAP50": numbers["AP50"], "seconds": round(sum(seconds.values()), 1), "steps": seconds}
    (out / RESULT).write_text(json.dumps(result, indent=1) + "\n", "utf-8")
    if not numbers["AP50"] >= NEEDED_MAP50:
        raise DataError(f"{weights}: mAP50 on the held-out pictures is {numbers['AP50']:.4f}; expected {NEEDED_MAP50}")
    echo(
        f"\nmAP50 {numbers['AP50']:.4f} on the held-out pictures, {result['seconds']} s in all. Look at\n"
        f"  {predictions}  the held-out pictures with what was found\n"
        f"  {weights.parents[1]}  curves, confusion matrix, batches and the weights\n"
        f"  {shards}  the shards; {pictures}  what they were made from"
    )
    return result


def _clear(out: Path, parts: tuple[Path, ...]) -> None:
    try:
        out.mkdir(parents=True, exist_ok=True)
        if any(out.iterdir()) and not (out / RESULT).is_file():
            raise ConfigError(f"{out}: is not empty and holds no {RESULT} of an earlier demo; choose another --out")
        (out / RESULT).write_text("{}\n", "utf-8")  # marks the folder as a demo from the start
        for part in parts:
            if part.exists():
                shutil.rmtree(part)
    except OSError as error:
        raise ConfigError(f"{error.filename or out}: cannot be written: {error.strerror}") from None


def _call(words: list[str], quiet: bool) -> str:
    """Run `dataforge ...` or `python -m ...`; show its output or, if quiet, return its stdout."""
    module = words[2:] if words[0] == "python" else words
    done = run_module(*module, stdout=subprocess.PIPE if quiet else None)
    if done.returncode:
        raise DataError(f"{shlex.join(words)}: ended with exit code {done.returncode}")
    return done.stdout or ""


@command()
@click.option("--out", default="demo", show_default=True, type=LocalPath(), help="Output folder.")
def demo(out: Path) -> None:
    """Run the whole data path without any data of your own: draw, ingest, train, evaluate, predict."""
    run(out)
