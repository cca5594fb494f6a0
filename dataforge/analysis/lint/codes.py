"""How bad each kind of finding is, and what it means: those of readers and of ingest, and those of lint alone."""

from __future__ import annotations

from typing import Literal

from dataforge.record import Finding

Severity = Literal["error", "warning", "info"]
SEVERITIES: tuple[Severity, ...] = ("error", "warning", "info")

# error: images or boxes are lost, or a score will be wrong; warning: probably a mistake; info: worth knowing
CODES: dict[str, tuple[Severity, str]] = {
    "image-unreadable": ("error", "an image that is damaged, or no image"),
    "image-truncated": ("error", "an image that is cut short: its end is missing"),
    "image-damaged": ("error", "an image whose header is fine and whose pixels cannot be decoded"),
    "image-missing": ("error", "a label whose image is not there"),
    "image-path": ("error", "an image whose name leads nowhere it may lead"),
    "image-ambiguous": ("error", "a label that fits several images"),
    "image-twice": ("error", "an image that its split lists twice; the second is left out"),
    "image-suffix": ("warning", "an image of another format than its file's name says"),
    "image-deep": ("warning", "more than 8 bits a pixel: only the upper 8 are used"),
    "image-mode": ("info", "palette, transparency or CMYK: turned into RGB"),
    "image-rotated": ("info", "turned upright by EXIF: tools that do not look there see it, and its boxes, otherwise"),
    "image-small": ("warning", "an image with a side of a few pixels"),
    "image-huge": ("warning", "an image so large that decoding it is slow"),
    "image-empty": ("info", "an image without a box"),
    "image-id": ("warning", "an image's number cannot be used"),
    "image-id-twice": ("warning", "two images have one number"),
    "image-not-listed": ("warning", "an image that belongs to no split"),
    "images-by-name": ("info", "images found by their names alone, not at the paths that the labels give"),
    "size-wrong": ("warning", "the labels state another size than the image has; boxes may be off"),
    "size-unrotated": ("info", "boxes drawn before EXIF's turn, now turned with it"),
    "no-label": ("warning", "an image without a label file: empty, or forgotten?"),
    "no-annotation": ("warning", "an image without a label file: empty, or forgotten?"),
    "label-orphan": ("error", "a label file without an image"),
    "label-broken": ("error", "a label file that cannot be read"),
    "annotation-broken": ("error", "a label file that cannot be read"),
    "annotation-missing": ("error", "an image that is listed, without a label file"),
    "annotation-not-listed": ("warning", "a label file that belongs to no split"),
    "annotation-twice": ("warning", "two boxes have one number"),
    "line-broken": ("error", "a label that is no box"),
    "row-uneven": ("error", "a row whose lists have different lengths"),
    "lists-differ": ("error", "lists that belong together have different lengths"),
    "unknown-image": ("error", "a box of an image that is not listed"),
    "unknown-class": ("error", "a box of a class that is not listed"),
    "box-missing": ("error", "a label without a box"),
    "box-text": ("error", "a label that is no box"),
    "box-rotated": ("error", "a rotated box, which cannot be held"),
    "shape-unknown": ("error", "a shape that has no box around it"),
    "shapes-joined": ("info", "shapes of one group, taken as one object"),
    "box-nan": ("error", "a box with NaN or infinity in it"),
    "box-empty": ("error", "a box without an area"),
    "box-outside": ("error", "a box outside its image"),
    "box-inverted": ("warning", "a box whose corners are in the wrong order"),
    "box-clipped": ("warning", "a box that stands over its image's edge"),
    "box-one-pixel": ("info", "a box of a single row or column of pixels"),
    "box-tiny": ("warning", "a box narrower than a pixel"),
    "box-covers": ("info", "a box over the whole image"),
    "box-same": ("warning", "the same box twice, with the same class"),
    "box-alike": ("warning", "nearly the same box twice, with the same class"),
    "box-twice": ("warning", "a box that is listed twice; the second is left out"),
    "class-unused": ("warning", "a class that no box has"),
    "class-untrained": ("warning", "a class that other splits have, but not the one to train on"),
    "class-untested": ("info", "a class that a split has no box of: nothing can be measured there"),
    "class-rare": ("info", "a class with under a hundredth of the most frequent class's boxes"),
    "class-twice": ("warning", "a class that is listed twice"),
    "class-count": ("warning", "the number of classes is not the one stated"),
    "class-dropped": ("info", "boxes that --class-map leaves out"),
    "classes-differ": ("warning", "files of one set list different classes"),
    "category-counts": ("info", "counts that the file states and that are not so"),
    "idx-order": ("info", "images are numbered in another order than they stand in"),
    "copy": ("warning", "the very same file twice in a split"),
    "copy-across": ("error", "the very same file in two splits: what is trained on is measured"),
    "alike": ("info", "an image that looks as another of its split does"),
    "alike-across": ("warning", "an image that looks as one of another split does: scores may be too good"),
    "split-classes": ("warning", "a split whose classes are shared out unlike those to train on"),
    "split-sizes": ("warning", "a split whose boxes are larger or smaller than those to train on"),
    "split-missing": ("warning", "a split that is named and not there"),
    "splits-overlap": ("warning", "splits that share images"),
    "listed-twice": ("warning", "a name that a list has twice"),
    "touches-zero": ("warning", "boxes begin at 0 where the format counts from 1"),
    "looks-unit": ("warning", "boxes that look like fractions and are taken for pixels"),
    "flag-unknown": ("warning", "a flag that is neither 0 nor 1"),
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
    """As `CODES` says; of a code that a user's own reader made up, as what was done about it and why."""
    return CODES.get(finding.code) or (_BY_ACTION[finding.action], finding.reason)
