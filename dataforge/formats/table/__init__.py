"""Tables: CSV, TSV, JSON lines, Parquet, Arrow; a row a box, or an image with lists. `columns` knows the headers."""

from dataforge.formats.table.reader import HOLDS, read, write

__all__ = ["HOLDS", "read", "write"]
