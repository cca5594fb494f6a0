"""Mutated files for every reader. `python -m tests.fuzz` is the campaign."""
