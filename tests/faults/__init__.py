"""Faults of the file system, injected at every operation of a command. `python -m tests.faults` runs them all."""
