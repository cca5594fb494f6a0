"""A model in a process of its own, `trainers.propose`, which loads it once and answers until it is closed."""

from __future__ import annotations

import json
import subprocess
import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path

import msgspec

from dataforge.errors import DataforgeError
from dataforge.process import start_module

LEAST_SCORE = 0.1


class Answer(msgspec.Struct):
    """What the model says of an image: boxes (xyxy, pixels), scores and class names; `embedding` holds float32."""

    boxes: list[tuple[float, float, float, float]]
    scores: list[float]
    names: list[str]
    embedding: bytes | None


class Model:
    """Runs a model on image files. The process is started by `load` or the first `detect`, and again if it has died.

    One thread at a time calls all but `stop`.

    Args:
        path: a checkpoint of a trainer, or an exported ONNX model, which needs no torch.

    Attributes:
        embeds: whether its answers have embeddings; None until it is loaded.
        classes: the names of its classes, once it is loaded.
    """

    embeds: bool | None = None
    classes: tuple[str, ...] = ()

    def __init__(self, path: Path) -> None:
        self._path = path
        self._process: subprocess.Popen[str] | None = None
        self._lock = threading.Lock()  # of `_process` and `_stopped`
        self._stopped = False
        self._errors = tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")  # noqa: SIM115 (until `close`)

    def load(self) -> None:
        """Start the process, and wait until it has loaded the model.

        Raises:
            DataforgeError: the model cannot be loaded, or was stopped.
        """
        with self._lock:
            if self._stopped:
                raise self._failure("it was stopped")
            options = ("--conf", LEAST_SCORE)
            self._process = start_module("trainers.propose", self._path, *options, stderr=self._errors)
        assert self._process.stdout is not None
        lines = iter(self._process.stdout.readline, "")
        line = next((line for line in lines if line.startswith("{")), "")  # others are what an import printed
        if not line:
            raise self._failure(self._end())
        facts = msgspec.json.decode(line)
        self.embeds, self.classes = facts["embeds"], tuple(facts["classes"])

    def detect(self, files: Sequence[Path]) -> list[Answer]:
        """Detect on image files; one that cannot be read has no boxes.

        Raises:
            DataforgeError: the model cannot be loaded, its process died twice, or it was stopped.
        """
        request = json.dumps([str(file) for file in files])
        for _ in range(2):
            if self._process is None:
                self.load()
            line = self._ask(request)
            if line:
                return msgspec.json.decode(line, type=list[Answer])
            text = self._end()
        raise self._failure(text)

    def stop(self) -> None:
        """End the process, from any thread: `detect` raises."""
        with self._lock:
            self._stopped = True
            if self._process is not None:
                self._process.terminate()

    def close(self) -> None:
        """End the process, and wait for it."""
        self._end()
        self._errors.close()

    def _ask(self, request: str) -> str:
        """Return the answer to a request, "" if the process died."""
        assert self._process is not None and self._process.stdin is not None and self._process.stdout is not None
        try:
            self._process.stdin.write(request + "\n")
            self._process.stdin.flush()
        except OSError:
            return ""
        line = self._process.stdout.readline()
        return line if line.endswith("\n") else ""

    def _end(self) -> str:
        """End the process if it has not; return the last line of its errors."""
        with self._lock:
            if self._process is not None:
                self._process.terminate()
                self._process.communicate()
                self._process = None
        self._errors.seek(0)
        lines = self._errors.read().strip().splitlines()
        self._errors.seek(0)
        self._errors.truncate()
        return lines[-1].removeprefix("error: ") if lines else "it ended without a message"

    def _failure(self, text: str) -> DataforgeError:
        return DataforgeError(f"--model {self._path}: {text}")
