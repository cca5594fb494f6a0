"""DLFS FlatBuffers, ObjectDetectionFromScratch's `train.db`: a split a file, images within it or beside it."""

from dataforge.formats.flatbuffer.reader import HOLDS, read, write

__all__ = ["HOLDS", "read", "write"]
