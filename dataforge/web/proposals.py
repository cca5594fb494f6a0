"""Boxes that a model proposes: computed by `trainers.predict` in the background, in batches, next images first."""

from __future__ import annotations

import subprocess
import tempfile
import threading
from pathlib import Path
from typing import Any

import msgspec

from dataforge.errors import DataforgeError
from dataforge.formats.pictures import SHORT
from dataforge.images.header import probe
from dataforge.process import start_module
from dataforge.web.disagreements import surest
from dataforge.web.session import Session

BATCH = 16  # images of one start of the model
QUEUE_BATCH = 64  # the same, where nobody waits for one of them
LEAST_SCORE = 0.1


class Proposals:
    """Boxes that a model proposes for the images of a session. A thread runs it when `of` asks for an image.

    Args:
        model: a checkpoint of a trainer, or an exported ONNX model, which needs no torch.

    Attributes:
        error: why there are no proposals any more; "" while there are.
    """

    def __init__(self, session: Session, model: Path) -> None:
        self._session, self._model = session, model
        self._boxes: dict[int, list[dict[str, Any]]] = {}
        self._errors: dict[int, tuple[int, float]] = {}  # revision, `queue`'s value
        self._wanted: int | None = None
        self._all = False
        self._closed = False
        self._process: subprocess.Popen[str] | None = None
        self._changed = threading.Condition()
        self.error = ""
        self._thread = threading.Thread(target=self._work, name="proposals", daemon=True)
        self._thread.start()

    def of(self, n: int) -> dict[str, Any]:
        """Return the boxes that are proposed for image n, or that they are still to come."""
        with self._changed:
            boxes = self._boxes.get(n)
            if not self.error and self._missing(n, BATCH // 2):  # before the next images are asked for
                self._wanted = n
                self._changed.notify()
            if boxes is None and not self.error:
                return {"boxes": [], "pending": True}
            facts = {"boxes": self._known(boxes or []), "pending": False}
            return facts | ({"error": self.error} if self.error else {})

    def queue(self, by: str) -> dict[str, Any]:
        """Return a value of each image that the model has seen, the greatest for what to look at first, and begin to
        show it the others.

        Args:
            by: "unsure": as the box whose score is nearest to 0.5: 1 at 0.5, 0 at 0 and 1; 0 without a box. "errors":
                as the surest disagreement with the boxes: 0.5 + half its score, 0 without one.
        """
        value = self._error if by == "errors" else self._unsure
        with self._changed:
            self._all = True
            self._changed.notify()
            seen = sorted(self._boxes)
            pending = not self.error and len(seen) < len(self._session.base.places)
        facts = {"images": [{"n": n, "value": value(n)} for n in seen], "pending": pending}
        return facts | ({"error": self.error} if self.error else {})

    def _unsure(self, n: int) -> float:
        return max((1 - abs(2 * box["score"] - 1) for box in self._boxes[n]), default=0.0)

    def _error(self, n: int) -> float:
        try:
            revision, boxes = self._session.boxes(n)
        except DataforgeError:
            return 0.0
        if self._errors.get(n, (-1, 0.0))[0] != revision:
            score = surest(boxes, self._known(self._boxes[n]))
            self._errors[n] = revision, 0.0 if score is None else 0.5 + score / 2
        return self._errors[n][1]

    def close(self) -> None:
        """Stop the model, and wait until it has ended."""
        with self._changed:
            self._closed = True
            if self._process is not None:
                self._process.terminate()
            self._changed.notify()
        self._thread.join()

    def _missing(self, n: int, count: int) -> list[int]:
        """Return the images without proposals among n and those after it, `count` in all."""
        return [n for n in range(n, len(self._session.base.places))[:count] if n not in self._boxes]

    def _left(self) -> bool:
        """Whether all images are asked for, and some have no proposals yet."""
        return self._all and len(self._boxes) < len(self._session.base.places)

    def _known(self, boxes: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Return the boxes of classes that the set has; the model's are found by their names."""
        labels = {name: label for label, name in self._session.edits.classes().items()}
        return [
            {"box": box["box"], "label": labels[box["name"]], "score": box["score"]}
            for box in boxes
            if box["name"] in labels
        ]

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._closed or self._wanted is not None or self._left())
                if self._closed:
                    return
                wanted, self._wanted = self._wanted, None
            if wanted is None:
                rows = self._missing(0, len(self._session.base.places))[:QUEUE_BATCH]
            elif self._missing(wanted, BATCH // 2):
                rows = self._missing(wanted, len(self._session.base.places))[:BATCH]
            else:
                continue
            try:
                boxes = self._detect(rows)
            except (DataforgeError, OSError) as error:
                self.error = str(error)
            else:
                with self._changed:
                    self._boxes |= boxes
            if self.error:
                return

    def _detect(self, rows: list[int]) -> dict[int, list[dict[str, Any]]]:
        boxes: dict[int, list[dict[str, Any]]] = {n: [] for n in rows}
        with tempfile.TemporaryDirectory(prefix="dataforge-") as folder:
            pictures, out = Path(folder, "pictures"), Path(folder, "out")
            pictures.mkdir()
            for n in rows:
                try:
                    data, _ = self._session.base.image(n)
                    kind = probe(data).format
                    (pictures / f"{n}.{SHORT.get(kind, kind.lower())}").write_bytes(data)
                except DataforgeError:
                    continue  # the page says so when it shows the image
            if not any(pictures.iterdir()):
                return boxes
            options = ("--source", pictures, "--out", out, "--save-json", "--conf", LEAST_SCORE)
            with self._changed:
                if self._closed:
                    return boxes
                self._process = start_module("trainers.predict", self._model, *options)
            _, text = self._process.communicate()
            file = out / "predictions.json"
            if self._closed:
                return boxes
            if not file.is_file():
                raise DataforgeError(f"--model {self._model}: {text.strip().rpartition(chr(10))[2] or 'it failed'}")
            for row in msgspec.json.decode(file.read_bytes()):
                x, y, width, height = row["bbox"]
                box = {"box": [x, y, x + width, y + height], "name": row["category_name"], "score": row["score"]}
                boxes[int(Path(row["file_name"]).stem)].append(box)
        return boxes
