"""The command of a trainer. It imports torch only once all options are known to be right."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from dataforge.command import Command
from dataforge.errors import ConfigError
from trainers.config import Config, check_splits, options, read_toml

# what may differ from the stopped run; epochs unless the learning rate of earlier steps depends on them
RESUME = {"shards", "device", "amp", "threads", "timeout", "decode", "on_error", "checkpoints", "fsdp", "epochs"}


def command(detector: str, kind: type[Config]) -> click.Command:
    """Return the command of a trainer: `python -m trainers.<detector> --shards DIR`.

    Args:
        kind: the detector's configuration, whose fields become flags.
    """

    @click.command(cls=Command, help=f"Train {detector}. Flags override the values of --config.")
    @click.option(
        "--config",
        "toml",
        type=click.Path(path_type=Path),
        help=f"flat TOML file with any of these values, or the name of an included one: {detector}_bccd, or bccd",
    )
    @click.option("--resume", type=click.Path(path_type=Path), help="folder of a stopped run to continue")
    @options(kind)
    def run_it(toml: Path | None, resume: Path | None, **flags: Any) -> None:
        given = {key: value for key, value in flags.items() if value is not None}
        if resume:
            from trainers.training import remote, run

            if toml or given.keys() - RESUME:
                raise ConfigError(
                    "--resume goes with shards, epochs, device, amp, timeout, threads, decode, on-error, checkpoints, "
                    "fsdp; others are the run's"
                )
            if flags["checkpoints"]:
                remote.arguments(flags["checkpoints"], resume, detector)
            toml = run.arguments(resume)
            if not run.unfinished(resume) and (owner := run.start(resume)["detector"]) != detector:
                raise ConfigError(f"{resume}: is a run of {owner}; continue it with python -m trainers.{owner}")
        before = read_toml(kind, toml, detector) if toml else {}
        stated = before | given
        config = kind(**stated)
        config.check()
        if resume and config.schedule == "cosine" and config.epochs != before.get("epochs"):
            raise ConfigError(
                f"--epochs {config.epochs}: the run's cosine schedule falls over its own number of epochs; a run of "
                f"more differs from the start: train anew, by --config {toml} --epochs {config.epochs} --name NEW"
            )
        check_splits(config)  # before torch is imported
        from trainers import distributed
        from trainers.training import engine

        with distributed.memory_kept():
            engine.train(config, detector, resume, stated.keys())

    return run_it
