"""A sitting of annotating: the base, the edits of it, and their journal. Threads may share it."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from dataforge.errors import DataforgeError
from dataforge.overlay.edits import Box, Edit, Edited, Edits
from dataforge.overlay.journal import Journal, OverlayError, now, who
from dataforge.transform.edited import Base, check_base


class StaleError(OverlayError):
    """Edits of an image that has other edits by now. They are in the journal, but not applied."""


class Session:
    """The images of a base as edited, and the writer of the edits.

    Args:
        folder: of the overlay; created if it is absent.
        classes: names to add to those that there are.

    Raises:
        OverlayError: the overlay is of another base, in use, or damaged.
    """

    def __init__(self, base: Base, folder: Path, classes: Iterable[str] = ()) -> None:
        self.base, self.folder = base, folder
        self._lock = threading.RLock()
        self._journal = Journal(folder, {**base.header(), "who": who(), "when": now()})
        try:
            check_base(base, self._journal.lines[0], folder)
            self.edits = Edits(self._journal.lines)
            self._journal.lines.clear()  # which may be many
            if self.edits.path != str(base.path):
                self._write({"kind": "moved", "path": str(base.path)})
            for name in classes:
                if name not in self.edits.classes().values():
                    self.change_classes(f"{now()} {name}", "add", name, None)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        self._journal.close()

    def image(self, n: int) -> dict[str, Any]:
        """Return image n with its boxes.

        Raises:
            DataforgeError: it cannot be read.
        """
        with self._lock:
            record = self.base.record(n)
            boxes, edited = self.edits.boxes(record), self._edited(n)
        split, key = self.base.places[n]
        facts = {"n": n, "key": key, "split": split, "width": record.width, "height": record.height}
        return {**facts, "state": edited.state, "revision": edited.revision, "boxes": shown(boxes)}

    def summary(self, n: int) -> dict[str, Any]:
        """Return a line on image n; width and height are 0, and `error` says why, if it cannot be read."""
        split, key = self.base.places[n]
        facts: dict[str, Any] = {"n": n, "key": key, "split": split, "width": 0, "height": 0, "boxes": 0, "classes": []}
        facts["state"] = self._edited(n).state
        with self._lock:
            try:
                record = self.base.record(n)
                boxes = self.edits.boxes(record).values()
            except DataforgeError as error:
                return {**facts, "error": str(error)}
        of_boxes = {"boxes": len(boxes), "classes": sorted({box.label for box in boxes})}
        return {**facts, "width": record.width, "height": record.height, **of_boxes}

    def edit(
        self, n: int, request: str, revision: int, edits: list[Edit], client: str = "", seconds: float | None = None
    ) -> int:
        """Edit image n: all of `edits` or none. Returns its revision once that is on the disk.

        Args:
            request: unique; sent again, it gets the same answer and changes nothing.
            revision: that of the image which was edited.

        Raises:
            StaleError: the image has another revision. RefusedError: an edit is impossible.
            NotWrittenError: the journal cannot be written.
        """
        with self._lock:
            before = self.edits.requests.get(request)
            if before is None:
                record = self.base.record(n)
                line: dict[str, Any]
                if revision == self._edited(n).revision:
                    line = {"version": self.edits.version + 1, **self.edits.image_line(record, revision, edits)}
                else:
                    place = {"split": record.split, "key": record.key, "revision": revision}
                    line = {"kind": "conflict", **place, "edits": edits}
                line |= {"request": request, "client": client, "seconds": seconds}
                self._write(line)
                before = self.edits.requests[request]
            if before.stale:
                raise StaleError(f"the image has been edited since: revision {self._edited(n).revision}")
            return before.revision

    def change_classes(self, request: str, op: str, name: str, to: str | None) -> None:
        """Add, rename or merge a class; see `Edits.class_line`.

        Raises:
            RefusedError: a name is unknown or taken. NotWrittenError: the journal cannot be written.
        """
        with self._lock:
            if request not in self.edits.requests:
                line = {"version": self.edits.version + 1, **self.edits.class_line(op, name, to), "request": request}
                self._write(line)

    def _write(self, line: dict[str, Any]) -> None:
        line |= {"who": who(), "when": now()}
        self._journal.append(line)
        self.edits.replay(line)

    def _edited(self, n: int) -> Edited:
        return self.edits.images.get(self.base.places[n]) or Edited(0)


def shown(boxes: dict[str, Box]) -> list[dict[str, Any]]:
    """Return boxes as the page gets them."""
    return [{"id": id, "box": box.box, "label": box.label, "flags": box.flags} for id, box in boxes.items()]
