"""Benchmarks of the data path per stage, and of the time that a training step waits for it."""
