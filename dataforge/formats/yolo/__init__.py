"""YOLO text labels: `class cx cy w h`, or `class x1 y1 x2 y2 x3 y3 ...`, as fractions of the upright image's size."""

from dataforge.formats.yolo.reader import HOLDS, read, write

__all__ = ["HOLDS", "read", "write"]
