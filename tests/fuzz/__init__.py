"""Mutated files for every reader of shards and checkpoints. `python -m tests.fuzz` is the campaign."""
