"""A sitting of annotating: the base, the edits of it, and their journal. Threads may share it."""

from __future__ import annotations

import secrets
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import simplejpeg
from numpy.typing import NDArray

from dataforge.errors import DataforgeError
from dataforge.images.decode import decode
from dataforge.images.header import probe
from dataforge.overlay.boxes import Box
from dataforge.overlay.edits import Edited, Edits
from dataforge.overlay.journal import Journal, OverlayError, now, who
from dataforge.overlay.requests import Edit
from dataforge.record import Record
from dataforge.transform.edited import Base, check_base


class StaleError(OverlayError):
    """Edits of an image that has other edits by now. They are in the journal, but not applied."""


class Session:
    """The images of a base as edited, and the writer of the edits.

    Args:
        folder: of the overlay; created if it is absent.
        classes: names to add to those that there are.

    Attributes:
        id: of the overlay, wherever it lies.

    Raises:
        OverlayError: the overlay is of another base, in use, or damaged.
    """

    def __init__(self, base: Base, folder: Path, classes: Iterable[str] = ()) -> None:
        self.base, self.folder = base, folder
        self._lock, self._decoding = threading.RLock(), threading.Lock()
        self._number = {place: n for n, place in enumerate(base.places)}
        self._decoded: dict[tuple[int, int], NDArray[np.uint8]] = {}
        self._journal = Journal(folder, {"id": secrets.token_hex(8), **base.header(), "who": who(), "when": now()})
        try:
            check_base(base, self._journal.lines[0], folder)
            self.id = str(self._journal.lines[0]["id"])
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
        facts |= {"state": edited.state, "revision": edited.revision, "boxes": shown(boxes)}
        return {**facts, "polygons": polygons_shown(record)}

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

    def edited(self) -> list[int]:
        """Return the images that are edited or done."""
        with self._lock:
            touched = [place for place, edited in self.edits.images.items() if edited.state != "new"]
        return sorted(self._number[place] for place in touched if place in self._number)

    def boxes(self, n: int) -> tuple[int, list[Box]]:
        """Return the revision and the boxes of image n.

        Raises:
            DataforgeError: it cannot be read.
        """
        with self._lock:
            return self._edited(n).revision, list(self.edits.boxes(self.base.record(n)).values())

    def speed(self) -> dict[str, Any]:
        """Return the seconds that were spent, over all sittings: in all, and on boxes by the class that they have now.

        The seconds of a request are shared by the boxes that it adds or changes.
        """
        with self._lock:
            names = self.edits.classes()
            boxes, seconds = dict.fromkeys(names, 0), dict.fromkeys(names, 0.0)
            for edited in self.edits.images.values():
                for spent, label in edited.seconds.values():
                    boxes[self.edits.label(label)] += 1
                    seconds[self.edits.label(label)] += spent
            total, images = self.edits.seconds, len(self.edits.timed)
        rows = [{"id": n, "name": name, "boxes": boxes[n], "seconds": seconds[n]} for n, name in names.items()]
        count = sum(boxes.values())
        ratios = {"seconds_per_box": per(total, count), "seconds_per_image": per(total, images)}
        return {"seconds": total, "images": images, "boxes": count, **ratios, "by_class": rows}

    def crops(self, label: int, first: int, count: int) -> list[dict[str, Any]]:
        """Return `count` boxes of a class from the first-th on, in the order of images and boxes."""
        found: list[dict[str, Any]] = []
        with self._lock:
            labels = [other for other in range(len(self.edits.names)) if self.edits.label(other) == label]
            edited = {self._number[place] for place in self.edits.images if place in self._number}
            for n in sorted(edited.union(self.base.having(labels))):
                try:
                    boxes = self.edits.boxes(self.base.record(n))
                except DataforgeError:
                    continue
                found += [{"n": n, "id": id, "box": box.box} for id, box in boxes.items() if box.label == label]
                if len(found) >= first + count:
                    break
        return found[first : first + count]

    def crop(self, n: int, box: tuple[float, float, float, float], size: int) -> bytes:
        """Return a part of image n as JPEG, of at most `size` x `size` pixels.

        Args:
            box: x1, y1, x2, y2 in pixels; what is outside the image is left out.

        Raises:
            DataforgeError: the image cannot be read.
        """
        record = self.base.record(n)
        x1, x2 = (min(max(x, 0), record.width) for x in (box[0], box[2]))
        y1, y2 = (min(max(y, 0), record.height) for y in (box[1], box[3]))
        longest = max(x2 - x1, y2 - y1)
        reduce = next((by for by in (8, 4, 2) if longest / by >= size), 1)
        pixels = self._pixels(n, reduce)
        rows = slice(min(int(y1 / reduce), len(pixels) - 1), max(int(-(-y2 // reduce)), int(y1 / reduce) + 1))
        columns = slice(min(int(x1 / reduce), pixels.shape[1] - 1), max(int(-(-x2 // reduce)), int(x1 / reduce) + 1))
        return thumbnail(pixels[rows, columns], size)

    def _pixels(self, n: int, reduce: int) -> NDArray[np.uint8]:
        """Decode image n; the last few are kept, since crops are often of one image."""
        with self._decoding:
            if (n, reduce) not in self._decoded:
                data, _ = self.base.image(n)
                pixels = decode(data, probe(data).orientation, reduce)
                self._decoded = {**dict([*self._decoded.items()][-3:]), (n, reduce): pixels}
            return self._decoded[n, reduce]

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


def per(seconds: float, count: int) -> float | None:
    """Return seconds a piece, or None without a piece."""
    return seconds / count if count else None


def thumbnail(pixels: NDArray[np.uint8], size: int) -> bytes:
    """Encode pixels (height, width, 3) as JPEG, shrunk or enlarged to `size` on the longer side."""
    height, width = pixels.shape[:2]
    scale = size / max(height, width)
    shape = max(round(width * scale), 1), max(round(height * scale), 1)
    how = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    shrunk = np.ascontiguousarray(cv2.resize(pixels, shape, interpolation=how))
    return bytes(simplejpeg.encode_jpeg(shrunk, 85, "RGB"))


def shown(boxes: dict[str, Box]) -> list[dict[str, Any]]:
    """Return boxes as the page gets them."""
    return [{"id": id, "box": box.box, "label": box.label, "flags": box.flags} for id, box in boxes.items()]


def polygons_shown(record: Record) -> list[dict[str, Any]]:
    """Return the polygons of a record's boxes, as the page gets them."""
    if record.polygons is None:
        return []
    rows = zip(record.boxes.tolist(), record.polygons.lists(), strict=True)
    return [
        {"id": f"b{n}", "box": box, "rings": [ring.reshape(-1).tolist() for ring in rings]}
        for n, (box, rings) in enumerate(rows)
        if rings
    ]
