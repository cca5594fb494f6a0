"""Severity and meaning of each code of finding. Those of the formats are in `dataforge.formats`."""

from __future__ import annotations

from dataforge.formats import Severity, codes
from dataforge.record import Finding

SEVERITIES: tuple[Severity, ...] = ("error", "warning", "info")

# error: images or boxes are lost, or a score will be wrong; warning: probably a mistake; info: worth knowing
CODES: dict[str, tuple[Severity, str]] = {
    "image-unreadable": ("error", "the file is damaged or not an image"),
    "image-truncated": ("error", "the image file is cut off before its end"),
    "image-damaged": ("error", "the header is valid, but the pixels cannot be decoded"),
    "image-twice": ("error", "a split lists the image twice; the second entry is left out"),
    "image-suffix": ("warning", "the file name's suffix does not match the image format"),
    "image-deep": (
        "warning",
        "more than 8 bits per channel: scaled to 8 bits, by the image's own maximum or as `ingest --depth` says",
    ),
    "image-mode": ("info", "a palette, transparent or CMYK image is converted to RGB"),
    "image-rotated": (
        "info",
        "EXIF rotates the image; tools that ignore EXIF show the image and its boxes differently",
    ),
    "image-small": ("warning", "a side of the image is only a few pixels long"),
    "image-huge": ("warning", "the image is so large that decoding it is slow"),
    "image-empty": ("info", "the image has no boxes"),
    "size-wrong": ("warning", "the annotations state another size than the image has; boxes may be displaced"),
    "size-unrotated": ("info", "the boxes refer to the image before EXIF rotation; they were rotated with it"),
    "box-nan": ("error", "the box contains NaN or infinity"),
    "box-area": ("warning", "the area that is stated for the box is negative or infinite"),
    "box-empty": ("error", "the box has no area"),
    "box-outside": ("error", "the box lies outside its image"),
    "box-inverted": ("warning", "the box's corners are in the wrong order"),
    "box-clipped": ("warning", "the box extends beyond the image and is clipped"),
    "polygon-broken": ("warning", "a polygon has fewer than three points, or a number that is not finite"),
    "polygon-left-out": ("info", "a box with a polygon was moved or resized in an overlay, and has none now"),
    "box-polygon": ("info", "boxes have polygons, or are rotated"),
    "box-tiny": ("warning", "a side of the box is shorter than a pixel"),
    "box-covers": ("info", "the box covers the whole image"),
    "box-same": ("warning", "the same box of the same class occurs twice"),
    "box-alike": ("warning", "two boxes of the same class are almost equal"),
    "class-unused": ("warning", "no box has this class"),
    "class-untrained": ("warning", "other splits contain this class, but the training split does not"),
    "class-untested": ("info", "the split contains no box of this class, so it cannot be evaluated there"),
    "class-rare": ("info", "the class has less than 1 % of the boxes of the most frequent class"),
    "class-dropped": ("info", "boxes are left out by --class-map"),
    "copy": ("warning", "a split contains the same file twice"),
    "copy-across": ("error", "two splits contain the same file: training images are evaluated"),
    "alike": ("info", "the image is nearly identical to another one of its split"),
    "alike-across": ("warning", "the image is nearly identical to one of another split: scores may be too high"),
    "split-classes": ("warning", "the split's class distribution differs from the training split's"),
    "split-sizes": ("warning", "the split's box sizes differ from the training split's"),
    "copy-kept": ("warning", "several merged folders contain the same file: each copy lacks the other's boxes"),
    "copy-united": ("info", "several merged folders contain the same file; its boxes were united"),
    "tiles-cut": ("info", "`bake --tile` cut the images into tiles"),
    "box-tiled": ("warning", "no tile of `bake --tile` contains enough of the box"),
    "splits-alike": ("warning", "the names of splits nearly agree, but they are different splits"),
    "keys-prefixed": ("info", "several sources use the same keys; a prefix was added"),
    "ids-given-up": ("info", "several sources use the same image ids; the ids are not kept"),
    "view-class": ("info", "boxes are left out by --classes"),
    "view-area": ("info", "boxes are left out by --area"),
    "view-side": ("info", "boxes are left out by --side"),
    "view-crowd": ("info", "boxes are left out by --crowd"),
    "view-difficult": ("info", "boxes are left out by --difficult"),
    "view-empty": ("info", "images are left out by --empty"),
    "view-limit": ("info", "images are left out by --limit"),
    "view-sample": ("info", "images are left out by --sample"),
}

_BY_ACTION: dict[str, Severity] = {"refused": "error", "repaired": "warning", "noted": "info"}


def severity_and_meaning(finding: Finding) -> tuple[Severity, str]:
    """Look up a code in `CODES` and the formats; a code of a user's own reader gets them from action and reason."""
    return CODES.get(finding.code) or codes().get(finding.code) or (_BY_ACTION[finding.action], finding.reason)
