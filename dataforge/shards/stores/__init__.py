"""Stores for the bytes of images: one module per store, with a line in `registry`."""
