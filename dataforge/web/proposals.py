"""Boxes that a model proposes: computed in the background, in batches, next images first."""

from __future__ import annotations

import tempfile
import threading
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dataforge.errors import DataforgeError
from dataforge.formats.pictures import SHORT
from dataforge.images.header import probe
from dataforge.web.disagreements import surest
from dataforge.web.model import Model
from dataforge.web.session import Session

BATCH = 8


class Proposals:
    """Boxes that a model proposes for the images of a session. A thread runs it when `of` asks for an image.

    Args:
        model: a checkpoint of a trainer, or an exported ONNX model, which needs no torch.

    Attributes:
        error: why there are no proposals any more; "" while there are.
    """

    def __init__(self, session: Session, model: Path) -> None:
        self._session, self._model = session, Model(model)
        self._embeddings: dict[int, NDArray[np.float32]] = {}
        self._boxes: dict[int, list[dict[str, Any]]] = {}
        self._errors: dict[int, tuple[int, float]] = {}  # revision, `queue`'s value
        self._wanted: int | None = None
        self._all = False
        self._closed = False
        self._changed = threading.Condition()
        self.error = ""
        self._thread = threading.Thread(target=self._work, name="proposals", daemon=True)
        self._thread.start()

    def load(self) -> tuple[str, ...]:
        """Wait until the model is loaded, before anything is asked for; return the names of its classes.

        Raises:
            DataforgeError: it cannot be loaded.
        """
        self._model.load()
        return self._model.classes

    def of(self, n: int) -> dict[str, Any]:
        """Return the boxes that are proposed for image n, or that they are still to come."""
        with self._changed:
            boxes = self._boxes.get(n)
            if not self.error and self._missing(n, BATCH):  # before the next images are asked for
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
        pending = self._look_at_all()
        with self._changed:
            seen = sorted(self._boxes)
        facts = {"images": [{"n": n, "value": value(n)} for n in seen], "pending": pending}
        return facts | ({"error": self.error} if self.error else {})

    def embeddings(self) -> tuple[bool, NDArray[np.float32] | None]:
        """Return whether some are still to come; and those of all images (N, C), None if the model has none. An image
        that it cannot read has zeros. Begin to show it the images.
        """
        if self._model.embeds is not False and self._look_at_all():
            return True, None
        if self.error or not self._embeddings:
            return False, None
        nothing = np.zeros_like(next(iter(self._embeddings.values())))
        return False, np.stack([self._embeddings.get(n, nothing) for n in range(len(self._session.base.places))])

    def _look_at_all(self) -> bool:
        """Have the model see all images in the end; return whether it has some left."""
        with self._changed:
            self._all = True
            self._changed.notify()
            return not self.error and self._left()

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
            self._model.stop()
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
        with closing(self._model):
            while not self.error:
                with self._changed:
                    self._changed.wait_for(lambda: self._closed or self._wanted is not None or self._left())
                    if self._closed:
                        return
                    wanted, self._wanted = self._wanted, None
                rows = self._missing(wanted or 0, len(self._session.base.places))[:BATCH]
                if not rows:
                    continue
                try:
                    self._detect(rows)
                except Exception as error:  # any other would end the thread, and all boxes be pending for ever
                    self.error = str(error) or type(error).__name__

    def _detect(self, rows: list[int]) -> None:
        """Have the model see some images."""
        files: dict[int, Path] = {}
        with tempfile.TemporaryDirectory(prefix="dataforge-") as folder:
            for n in rows:
                try:
                    data, _ = self._session.base.image(n)
                    kind = probe(data).format
                    files[n] = Path(folder, f"{n}.{SHORT.get(kind, kind.lower())}")
                    files[n].write_bytes(data)
                except DataforgeError:
                    continue  # the page says so when it shows the image
            answers = dict(zip(files, self._model.detect(list(files.values())), strict=True)) if files else {}
        with self._changed:
            self._boxes |= {n: [] for n in rows}
            for n, answer in answers.items():
                self._boxes[n] = [
                    {"box": box, "name": name, "score": score}
                    for box, name, score in zip(answer.boxes, answer.names, answer.scores, strict=True)
                ]
                if answer.embedding is not None:
                    self._embeddings[n] = np.frombuffer(answer.embedding, np.float32)
