"""What happened in an overlay: its edits by sitting, and the difference between two versions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from dataforge.errors import counted
from dataforge.overlay.boxes import has_base_id
from dataforge.overlay.edits import Edits

PAUSE = timedelta(minutes=30)  # a longer one begins another sitting


@dataclass
class Sitting:
    """Edits of one person without a long pause.

    Attributes:
        first, last: versions; began, ended: times in UTC, as ISO 8601.
        counts: by "add", "set", "delete", "classes", "conflict".
        images: (split, key) of the edited images.
    """

    who: str
    first: int
    last: int
    began: str
    ended: str
    seconds: float = 0.0
    counts: Counter[str] = field(default_factory=Counter)
    images: set[tuple[str, str]] = field(default_factory=set)

    def facts(self) -> dict[str, Any]:
        return vars(self) | {"counts": dict(self.counts), "images": len(self.images)}

    def text(self) -> str:
        """Return one line."""
        names = {"add": "added", "set": "changed", "delete": "deleted"}
        parts = [f"{counted(self.counts[op], 'box')} {what}" for op, what in names.items() if self.counts[op]]
        parts += [f"{self.counts['classes']} changes of classes"] if self.counts["classes"] else []
        parts += [f"{self.counts['conflict']} conflicts"] if self.counts["conflict"] else []
        began, ended = (time[:16].replace("T", " ") for time in (self.began, self.ended))
        versions = f"v{self.first}" if self.first == self.last else f"v{self.first} to v{self.last}"
        end = f" to {ended[11:] if ended[:10] == began[:10] else ended}" if ended != began else ""
        what = ", ".join([counted(len(self.images), "image"), *parts])
        return f"{versions}  {began}{end} UTC  {self.who}: {what}"


def sittings(lines: Sequence[Mapping[str, Any]]) -> list[Sitting]:
    """Return the sittings that the lines of a journal tell of, its header first."""
    found: list[Sitting] = []
    version = 0
    for line in lines[1:]:
        version = line.get("version", version)
        last = found[-1] if found else None
        pause = datetime.fromisoformat(line["when"]) - datetime.fromisoformat(last.ended) if last else PAUSE
        if last is None or last.who != line["who"] or pause > PAUSE:
            last = Sitting(line["who"], version, version, line["when"], line["when"])
            found.append(last)
        last.last, last.ended = version, line["when"]
        last.seconds += line.get("seconds") or 0
        if line["kind"] == "edit":
            last.images.add((line["split"], line["key"]))
            last.counts.update(edit["op"] for edit in line["edits"] if edit["op"] != "state")
        elif line["kind"] != "moved":
            last.counts[line["kind"]] += 1
    return found


def changes(old: Edits, new: Edits) -> Iterator[dict[str, Any]]:
    """Yield a difference between two versions of one overlay for each box, class and state, as JSON objects.

    A box of the base that only one of them changed is given without the values of the other.
    """
    for label, name in enumerate(new.names):
        before = old.names[label] if label < len(old.names) else None
        if before != name:
            yield {"change": "class", "label": label, "old": before, "new": name}
        if label in new.merged and label not in old.merged:
            yield {"change": "merge", "label": label, "old": name, "new": new.names[new.merged[label]]}
    for (split, key), edited in new.images.items():
        before_image = old.images.get((split, key))
        place = {"split": split, "key": key}
        known = before_image.changes if before_image else {}
        for id, box in edited.changes.items():
            was = known.get(id)
            if id in known and was == box:
                continue
            there = was is not None or (id not in known and has_base_id(id))
            if box is None and not there:
                continue
            change = "deleted" if box is None else "changed" if there else "added"
            values = {
                name: {"box": value.box, "class": side.names[side.label(value.label)], "flags": value.flags}
                for name, value, side in (("old", was, old), ("new", box, new))
                if value is not None
            }
            yield {"change": change, **place, "id": id, **values}
        state = before_image.state if before_image else "new"
        if state != edited.state:
            yield {"change": "state", **place, "old": state, "new": edited.state}
