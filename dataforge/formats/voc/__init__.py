"""Pascal VOC XML (host.robots.ox.ac.uk/pascal/VOC): one file an image; boxes are 1-based and inclusive."""

from dataforge.formats.voc.reader import HOLDS, read, write

__all__ = ["HOLDS", "read", "write"]
