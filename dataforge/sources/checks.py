"""Checks for suspicious records, which are kept unchanged: of image header and boxes, without decoding pixels."""

from __future__ import annotations

from collections.abc import Iterator

from dataforge.images.header import DEPTHS, ImageInfo
from dataforge.record import CROWD, Finding, Record
from dataforge.sources.repair import of_box

PLAIN = ("RGB", "L", "1")  # Pillow's modes that convert to 8-bit RGB without loss
SMALL, HUGE = 8, 1 << 26  # pixels: of an image's shorter side; of a whole image (8192x8192)
TINY = 1.0  # pixels: a box with a shorter side below this is too small for a visible object
COVERS = 0.99  # fraction of the image's width and height: a box of this size gives no location
ALIKE = 0.02  # fraction of a box's shorter side: two boxes whose edges all differ by at most this are duplicates

_OF_IMAGE = ("image-deep", "image-mode", "image-rotated", "image-small", "image-huge")
CODES = frozenset((*_OF_IMAGE, "box-tiny", "box-covers", "box-same", "box-alike"))


def look(record: Record, info: ImageInfo, depth: str = "scale") -> list[Finding]:
    """Return findings with the codes `CODES`, all "noted".

    Args:
        record: has its image's true size, and boxes inside the image. Findings number the boxes of this record:
            those that `repair` refused are not counted.
        depth: as in `Source`.
    """
    return [*_of_image(record, info, depth), *_of_boxes(record)]


def _of_image(record: Record, info: ImageInfo, depth: str) -> Iterator[Finding]:
    short, pixels = min(info.height, info.width), info.height * info.width
    if info.mode in PLAIN and info.orientation == 1 and short >= SMALL and pixels <= HUGE:
        return  # nearly all images
    size = f"{info.width}x{info.height}"
    facts = (
        (
            info.mode[0] in "IF",
            "image-deep",
            f"mode {info.mode}",
            f"more than 8 bits; scaled to 8 {DEPTHS[depth]} (--depth {depth})",
        ),
        (info.mode[0] not in "IF" and info.mode not in PLAIN, "image-mode", f"mode {info.mode}", "turned into RGB"),
        (info.orientation != 1, "image-rotated", f"EXIF orientation {info.orientation}", "turned upright"),
        (short < SMALL, "image-small", size, f"a side below {SMALL} pixels"),
        (pixels > HUGE, "image-huge", size, f"more than {HUGE} pixels"),
    )
    for applies, code, value, reason in facts:
        if applies:
            reason = f"{reason}; kept"
            yield Finding("noted", code, record.file, record.key, value, reason, "image", split=record.split)


def _of_boxes(record: Record) -> Iterator[Finding]:
    # Python numbers: an image has so few boxes that numpy's calls would take three times as long
    boxes = record.boxes.tolist()
    wide, high = COVERS * record.width, COVERS * record.height
    shorter = []

    def noted(code: str, n: int, reason: str) -> Finding:
        return of_box(record, n, "noted", code, f"{reason}; kept")

    for n, (x1, y1, x2, y2) in enumerate(boxes):
        width, height = x2 - x1, y2 - y1
        shorter.append(width if width < height else height)
        if shorter[n] < TINY:
            yield noted("box-tiny", n, f"narrower than {TINY:g} pixel")
        if width >= wide and height >= high and not record.flags[n] & CROWD:
            yield noted("box-covers", n, f"covers the {record.width}x{record.height} image")
    if len(boxes) > 1:
        for n, (same, earlier) in sorted(_twice(boxes, shorter, record.labels.tolist()).items()):
            code, reason = ("box-same", "the same as") if same else ("box-alike", "nearly the same as")
            yield noted(code, n, f"{reason} box {earlier}, of the same class")


def _twice(boxes: list[list[float]], shorter: list[float], labels: list[int]) -> dict[int, tuple[bool, int]]:
    """Find boxes that (nearly) duplicate an earlier one of their class: whether they are equal, and its number.

    Boxes are sorted by their left edges, and each is only compared with the following ones that are close enough.

    Args:
        shorter: the boxes' shorter sides.
    """
    doubles: dict[int, tuple[bool, int]] = {}
    order = sorted(range(len(boxes)), key=boxes.__getitem__)
    for rank, i in enumerate(order):
        box, close = boxes[i], ALIKE * shorter[i]
        for following in range(rank + 1, len(order)):
            j = order[following]
            other = boxes[j]
            if other[0] - box[0] > close:
                break
            near = min(close, ALIKE * shorter[j])
            if labels[i] == labels[j] and all(abs(a - b) <= near for a, b in zip(box, other, strict=True)):
                earlier, n = sorted((i, j))
                same = box == other
                if n not in doubles or (same and not doubles[n][0]):
                    doubles[n] = same, earlier
    return doubles
