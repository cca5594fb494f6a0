"""Shards on disk, as specified in `README.md` in this folder."""
