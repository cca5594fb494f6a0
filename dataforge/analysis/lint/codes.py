"""Severity and meaning of each code of finding. Those of the formats are in `dataforge.formats`."""

from __future__ import annotations

from dataforge.formats import Severity, codes
from dataforge.record import Finding

SEVERITIES: tuple[Severity, ...] = ("error", "warning", "info")

# error: images or boxes are lost, or a score will be wrong; warning: probably a mistake; info: worth knowing
CODES: dict[str, tuple[Severity, str]] = {
    "image-unreadable": ("error", "an image that is damaged, or no image"),
    "image-truncated": ("error", "an image that is cut short: its end is missing"),
    "image-damaged": ("error", "an image whose header is fine and whose pixels cannot be decoded"),
    "image-twice": ("error", "an image that its split lists twice; the second is left out"),
    "image-suffix": ("warning", "an image of another format than its file's name says"),
    "image-deep": ("warning", "more than 8 bits a pixel: scaled to 8 by the image's own maximum"),
    "image-mode": ("info", "palette, transparency or CMYK: turned into RGB"),
    "image-rotated": ("info", "turned upright by EXIF: tools that do not look there see it, and its boxes, otherwise"),
    "image-small": ("warning", "an image with a side of a few pixels"),
    "image-huge": ("warning", "an image so large that decoding it is slow"),
    "image-empty": ("info", "an image without a box"),
    "size-wrong": ("warning", "the labels state another size than the image has; boxes may be off"),
    "size-unrotated": ("info", "boxes drawn before EXIF's turn, now turned with it"),
    "box-nan": ("error", "a box with NaN or infinity in it"),
    "box-empty": ("error", "a box without an area"),
    "box-outside": ("error", "a box outside its image"),
    "box-inverted": ("warning", "a box whose corners are in the wrong order"),
    "box-clipped": ("warning", "a box that stands over its image's edge"),
    "box-tiny": ("warning", "a box narrower than a pixel"),
    "box-covers": ("info", "a box over the whole image"),
    "box-same": ("warning", "the same box twice, with the same class"),
    "box-alike": ("warning", "nearly the same box twice, with the same class"),
    "class-unused": ("warning", "a class that no box has"),
    "class-untrained": ("warning", "a class that other splits have, but not the one to train on"),
    "class-untested": ("info", "a class that a split has no box of: nothing can be measured there"),
    "class-rare": ("info", "a class with under a hundredth of the most frequent class's boxes"),
    "class-dropped": ("info", "boxes that --class-map leaves out"),
    "copy": ("warning", "the very same file twice in a split"),
    "copy-across": ("error", "the very same file in two splits: what is trained on is measured"),
    "alike": ("info", "an image that looks as another of its split does"),
    "alike-across": ("warning", "an image that looks as one of another split does: scores may be too good"),
    "split-classes": ("warning", "a split whose classes are shared out unlike those to train on"),
    "split-sizes": ("warning", "a split whose boxes are larger or smaller than those to train on"),
    "copy-kept": ("warning", "merged folders contain the same file: each copy lacks the other's boxes"),
    "copy-united": ("info", "merged folders contain the same file, whose boxes were united"),
    "keys-prefixed": ("info", "names of several sources collided and were told apart"),
    "ids-given-up": ("info", "numbers of several sources collided and were given up"),
    "view-class": ("info", "boxes that --classes leaves out"),
    "view-area": ("info", "boxes that --area leaves out"),
    "view-side": ("info", "boxes that --side leaves out"),
    "view-crowd": ("info", "boxes that --crowd leaves out"),
    "view-difficult": ("info", "boxes that --difficult leaves out"),
    "view-empty": ("info", "images that --empty leaves out"),
    "view-limit": ("info", "images that --limit leaves out"),
    "view-sample": ("info", "images that --sample leaves out"),
}

_BY_ACTION: dict[str, Severity] = {"refused": "error", "repaired": "warning", "noted": "info"}


def severity_and_meaning(finding: Finding) -> tuple[Severity, str]:
    """Look up a code in `CODES` and the formats; a code of a user's own reader gets them from action and reason."""
    return CODES.get(finding.code) or codes().get(finding.code) or (_BY_ACTION[finding.action], finding.reason)
