"""The training loop that all detectors share, and what it needs."""
