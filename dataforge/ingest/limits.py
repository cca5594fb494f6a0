"""How much of a source an ingest may refuse."""

from __future__ import annotations

from dataclasses import dataclass

from dataforge.errors import FormatError
from dataforge.ingest.report import Summary
from dataforge.record import Record


class IngestError(FormatError):
    """Too many images or boxes were refused, so nothing was published. `summary` contains the details."""

    def __init__(self, text: str, summary: Summary) -> None:
        super().__init__(text)
        self.summary = summary


@dataclass(frozen=True)
class Limits:
    """Limits of what may be refused.

    Attributes:
        max_bad: images; max_bad_boxes: boxes; by default, at least one box must be left if any was refused and no view
            or class map chose among them.
    """

    max_bad: int = 0
    max_bad_boxes: int | None = None

    def check(self, summary: Summary, *, whole: bool = True) -> None:
        """Raise an IngestError if a limit is exceeded, or nothing is left.

        Args:
            whole: False for a part of an ingest, which may be empty.
        """
        lost = summary.refused_boxes
        if summary.refused_images > self.max_bad:
            what = f"refused images: {summary.refused_images}, --max-bad allows {self.max_bad}"
            raise IngestError(summary.refusal(what), summary)
        if whole and summary.images == 0:
            raise IngestError(summary.refusal("no image is left", of="all"), summary)
        if self.max_bad_boxes is not None and lost > self.max_bad_boxes:
            what = f"refused boxes: {lost}, --max-bad-boxes allows {self.max_bad_boxes}"
            raise IngestError(summary.refusal(what, of="boxes"), summary)
        if whole and self.max_bad_boxes is None and lost and summary.boxes == 0 and not summary.chosen:
            what = f"no box is left of those annotated, {lost} were refused (--max-bad-boxes {lost} allows this)"
            raise IngestError(summary.refusal(what, of="boxes"), summary)
        if summary.boxes and summary.reach <= 1 and summary.small is not None:
            raise IngestError(summary.refusal(_within_a_pixel(summary, summary.small)), summary)


def _within_a_pixel(summary: Summary, record: Record) -> str:
    """Return the reason to refuse a set whose boxes are all smaller than a pixel, with both readings of one of them."""
    box = record.boxes[0].astype(float)
    scaled = box * [record.width, record.height, record.width, record.height]
    pixels, fractions = (", ".join(f"{number:.6g}" for number in numbers.tolist()) for numbers in (box, scaled))
    return (
        f"all {summary.boxes} boxes lie within the first pixel of their images, as fractions taken for pixels do: "
        f"{record.key}: xyxy [{pixels}], or [{fractions}] of {record.width}x{record.height} "
        "(coco and table take --unit unit)"
    )
