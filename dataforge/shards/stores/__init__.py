"""How the bytes of images are kept: one file a store, and its line in `registry`."""
