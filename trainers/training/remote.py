"""Checkpoints of a run at a URL, sent there by a thread while training continues.

`owner.json`, created only if there is none, holds the run's id and arguments, and which process sends. `DIGEST.pt` is a
file of `weights/`, named by the digest of its bytes. `step-N.json`, written last, names the files of a checkpoint and
holds the run's rows: without it, or a file that it names, a checkpoint does not count.
"""

from __future__ import annotations

import contextlib
import os
import re
import socket
import uuid
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any, Self

from dataforge.command import echo
from dataforge.errors import ConfigError
from dataforge.files import reading, writing
from trainers.config import Config, to_toml
from trainers.training import run
from trainers.training.objects import Objects, file_digest

OWNER = "owner.json"
ROWS = (run.START, run.RESULTS, run.STEPS)


def arguments(url: str, folder: Path, detector: str) -> None:
    """Write the arguments of the run at a URL to a run's folder that has none.

    Raises:
        ConfigError: there is no run of this detector, or a request failed.
    """
    if (folder / run.ARGS).is_file():
        return
    objects = Objects(url)
    with reading(objects.path / OWNER, ConfigError):
        owner = objects.json(OWNER)
    if not owner or owner["detector"] != detector:
        what = f"a run of {owner['detector']}, not {detector}" if owner else "no run"
        raise ConfigError(f"{objects.path}: holds {what}")
    with writing(folder, ConfigError):
        (folder / "weights").mkdir(parents=True, exist_ok=True)
        temporary = folder / f"{run.ARGS}.{uuid.uuid4().hex}"  # each rank has its own
        temporary.write_text(owner["arguments"], "utf-8")
        os.replace(temporary, folder / run.ARGS)


def restarted(config: Config, detector: str) -> Path | None:
    """Return the folder of the named run if this job of torchrun began it on a lost machine, else None."""
    if not (config.checkpoints and config.name and run.job()):
        return None
    objects = Objects(config.checkpoints)
    with reading(objects.path / OWNER, ConfigError):
        owner = objects.json(OWNER)
    if not owner or owner["job"] != run.job():
        return None
    folder = Path(config.runs) / detector / config.name
    arguments(config.checkpoints, folder, detector)
    return folder


class Remote:
    """The checkpoints of a run at a URL, on rank 0. A context manager: its end waits for the upload under way.

    Args:
        resume: the folder of a run that is resumed. Its newest checkpoint is fetched, if the folder's own is older.

    Raises:
        ConfigError: the URL holds another run, or cannot be read and written.
    """

    def __init__(self, config: Config, detector: str, resume: Path | None) -> None:
        self._objects, self._keep = Objects(config.checkpoints), config.keep
        self._path = self._objects.path
        self._waiting: Future[None] | None = None
        self._sender = ThreadPoolExecutor(1, "checkpoints")
        try:
            self._owner = self._own(config, detector, resume)
            names = self._objects.names()
            found = sorted(int(name[5:-5]) for name in names if re.fullmatch(r"step-\d+\.json", name))
            self._parts = {step: self._checkpoint(step)["weights"] for step in found}  # of each checkpoint
            used = _objects_of(self._parts)
            self._objects.delete([name for name in names if re.fullmatch(r"\w{32}\.pt", name) and name not in used])
            if resume:
                self._note(resume)
                self._fetch(resume)
        except OSError as error:
            raise ConfigError(f"{error.filename or self._path}: {error.strerror or error}") from None

    def _own(self, config: Config, detector: str, resume: Path | None) -> dict[str, Any]:
        """Create `owner.json`, or, for a run that is resumed, enter this process in it."""
        there, own = self._objects.json(OWNER), ""
        if resume:
            with contextlib.suppress(OSError):
                own = (resume / OWNER).read_text("utf-8")
        if there and (not resume or (run.newest(resume) and own != there["run"])):
            raise ConfigError(
                f"{self._path}: holds the run of {there['host']} since {there['since']}; choose another --checkpoints, "
                f"or continue that one: --resume DIR --checkpoints {self._path}, where DIR is its folder or a new one"
            )
        process = {"host": socket.gethostname(), "process": os.getpid(), "sender": uuid.uuid4().hex}
        since = datetime.now(UTC).isoformat(timespec="seconds")
        new = {"run": own or uuid.uuid4().hex, "detector": detector, "since": since, "arguments": to_toml(config)}
        owner = (there or new) | process | {"job": run.job()}
        for name in run.KEPT:  # as `run.keep` does in the folder
            (line,) = (line for line in new["arguments"].splitlines() if line.startswith(f"{name} = "))
            owner["arguments"] = re.sub(rf"(?m)^{name} = .*$", line, str(owner["arguments"]))
        if not there and any(name.startswith("step-") for name in self._objects.names()):
            raise ConfigError(f"{self._path}: holds checkpoints without {OWNER}; choose another --checkpoints")
        self._objects.put_json(OWNER, owner, new=not there)
        return owner

    def _checkpoint(self, step: int) -> dict[str, Any]:
        content = self._objects.json(_name(step))
        if content is None or content["run"] != self._owner["run"]:
            raise ConfigError(f"{self._path / _name(step)}: is of another run, or was removed meanwhile")
        return content

    def _fetch(self, folder: Path) -> None:
        own = _step(folder)
        for step in sorted(self._parts, reverse=True):
            if step <= own:
                return
            file = folder / "weights" / f"step-{step:07d}.pt"
            rows = self._checkpoint(step)["rows"]
            for name in rows.keys() & set(ROWS):
                (folder / name).write_text(rows[name], "utf-8")
            try:
                for name in ("best.pt", file.name):  # last: the folder is then that of the step
                    if part := self._parts[step].get(name):
                        self._objects.fetch(part["name"], part["size"], file.with_name(name))
            except FileNotFoundError as error:
                echo(f"{self._path / _name(step)}: names {error.filename}, which is missing; it is skipped", err=True)
                continue
            run.point(file)
            echo(f"{self._path}: fetched the checkpoint of step {step}")
            return

    def begin(self, folder: Path) -> None:
        """Note in a new run's folder that this URL is its own, or send a checkpoint that is only in the folder."""
        self._note(folder)
        step = _step(folder)
        if step >= 0 and step not in self._parts:
            self.save(folder, step)

    def _note(self, folder: Path) -> None:
        with writing(folder / OWNER, ConfigError):
            (folder / f"{OWNER}.tmp").write_text(self._owner["run"], "utf-8")
            os.replace(folder / f"{OWNER}.tmp", folder / OWNER)

    def save(self, folder: Path, step: int) -> None:
        """Have the checkpoint of a step sent, in place of one that still waits."""
        weights = [folder / "weights" / name for name in (f"step-{step:07d}.pt", "best.pt")]
        with reading(folder, ConfigError):  # open files stay as they are when others take their names
            rows = {name: (folder / name).read_text("utf-8") for name in ROWS if (folder / name).is_file()}
            files: dict[str, IO[bytes]] = {file.name: open(file, "rb") for file in weights if file.is_file()}  # noqa: SIM115
        if self._waiting:
            self._waiting.cancel()
        self._waiting = self._sender.submit(self._send, step, files, rows)
        self._waiting.add_done_callback(lambda _: _close(files))

    def _send(self, step: int, files: dict[str, IO[bytes]], rows: dict[str, str]) -> None:
        try:
            sent, parts = _objects_of(self._parts), {}
            for name, file in files.items():
                digest = file_digest(file)
                parts[name] = {"name": f"{digest}.pt", "size": file.tell()}
                file.seek(0)
                if parts[name]["name"] not in sent:
                    self._objects.put(f"{digest}.pt", file)
            if self._objects.json(OWNER) != self._owner:
                raise ConfigError("another process has resumed this run")
            self._objects.put_json(_name(step), {"run": self._owner["run"], "weights": parts, "rows": rows})
            self._parts[step] = parts
            self._remove_old()
        except Exception as error:  # of any kind: training does not depend on it
            reason = getattr(error, "strerror", None) or error
            echo(f"{self._path}: the checkpoint of step {step} was not sent: {reason}; training continues", err=True)

    def _remove_old(self) -> None:
        old = {step: self._parts.pop(step) for step in sorted(self._parts)[: -self._keep]}
        names = _objects_of(old) - _objects_of(self._parts)
        with contextlib.suppress(OSError):  # the next process tries again
            self._objects.delete([_name(step) for step in old])
            self._objects.delete(sorted(names))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._waiting and not self._waiting.done():
            echo(f"{self._path}: sending the newest checkpoint")
        self._sender.shutdown()


def _step(folder: Path) -> int:
    """Return the step of the newest checkpoint in a run's folder, -1 without one."""
    step = re.fullmatch(r"step-(\d+)\.pt", getattr(run.newest(folder), "name", ""))
    return int(step[1]) if step else -1


def _objects_of(checkpoints: dict[int, Any]) -> set[str]:
    """Return the names of the objects that hold the weights of checkpoints."""
    return {part["name"] for parts in checkpoints.values() for part in parts.values()}


def _close(files: dict[str, IO[bytes]]) -> None:
    for file in files.values():
        file.close()


def _name(step: int) -> str:
    return f"step-{step:07d}.json"
